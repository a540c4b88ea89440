//go:build linux && (amd64 || arm64)

package process

import (
	"fmt"
	"syscall"
	"unsafe"
)

// pipes are the channels between the master and all its workers. Every write to them is one 8-byte record, which
// the kernel moves as a whole: a worker killed at any moment leaves no half record and holds no lock.
type pipes struct {
	work   [2]int // master -> workers: whoever is free reads the next chunk
	answer [2]int // workers -> master
	life   [2]int // never written; its end of file tells a worker, even a busy one, that the master is gone
}

func (p *pipes) open() error {
	for _, q := range []*[2]int{&p.work, &p.answer, &p.life} {
		q[0], q[1] = -1, -1
	}
	for _, q := range []*[2]int{&p.work, &p.answer, &p.life} {
		if err := syscall.Pipe2(q[:], syscall.O_CLOEXEC); err != nil {
			p.close()
			return fmt.Errorf("pipe: %w", err)
		}
	}
	// Only the master's own ends may be non-blocking: the flag sits on the shared description, and the workers'
	// ends are read and written blocking.
	for _, fd := range []int{p.work[1], p.answer[0]} {
		if err := syscall.SetNonblock(fd, true); err != nil {
			p.close()
			return fmt.Errorf("pipe: %w", err)
		}
	}
	return nil
}

func (p *pipes) close() {
	for _, q := range []*[2]int{&p.work, &p.answer, &p.life} {
		closeFd(&q[0])
		closeFd(&q[1])
	}
}

func closeFd(fd *int) {
	if *fd >= 0 {
		_ = syscall.Close(*fd) // EINTR and EIO leave a pipe end closed on Linux: nothing to retry
		*fd = -1
	}
}

// queued says how many records wait in the pipe with this reading end.
func queued(fd int) int {
	var n int32
	const fionread = 0x541b
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), fionread, uintptr(unsafe.Pointer(&n))); e != 0 {
		return 0
	}
	return int(n) / 8
}
