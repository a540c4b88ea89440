//go:build linux && (amd64 || arm64)

package fdengine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Sockets are used by plain blocking calls, not through Go's poller: a thread that sleeps in recvmsg is woken by the kernel
// itself, one hand-over less in each call. A socket keeps messages apart (SOCK_SEQPACKET), so none is read in parts.

// pair makes a socket for this process and one to pass on; neither is inherited by accident.
func pair() (ours, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "engine"), os.NewFile(uintptr(fds[1]), "python"), nil
}

// own takes the descriptor out of a file, and of Go's poller.
func own(f *os.File) (int, error) {
	fd, err := dup(f)
	return fd, errors.Join(err, f.Close())
}

// dup is another descriptor of a file, for blocking calls.
func dup(f *os.File) (int, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var failed error
	err = raw.Control(func(old uintptr) {
		n, _, e := syscall.Syscall(syscall.SYS_FCNTL, old, syscall.F_DUPFD_CLOEXEC, 0)
		if e != 0 {
			failed = fmt.Errorf("dup: %w", e)
			return
		}
		fd = int(n)
		failed = syscall.SetNonblock(fd, false)
	})
	return fd, errors.Join(err, failed)
}

// receive reads one message and the descriptors that came with it, one at most: more are closed. io.EOF: the other side is gone.
func receive(fd int, b []byte) (n, passed int, err error) {
	var oob [64]byte
	for {
		var oobn, flags int
		n, oobn, flags, _, err = syscall.Recvmsg(fd, b, oob[:], syscall.MSG_CMSG_CLOEXEC)
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.ECONNRESET:
			return 0, -1, io.EOF
		case err != nil:
			return 0, -1, fmt.Errorf("recvmsg: %w", err)
		}
		passed, err = first(oob[:oobn])
		if err == nil && flags&syscall.MSG_TRUNC != 0 {
			err = errors.New("message longer than any request")
		}
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err != nil && passed >= 0 {
			_ = syscall.Close(passed) // not ours to use
			passed = -1
		}
		return n, passed, err
	}
}

// first is the descriptor in a message's ancillary data, -1 for none.
func first(oob []byte) (int, error) {
	passed := -1
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return -1, fmt.Errorf("ancillary data: %w", err)
	}
	for i := range messages {
		fds, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			continue // something else than descriptors
		}
		for _, fd := range fds {
			if passed < 0 {
				passed = fd
			} else {
				_ = syscall.Close(fd)
			}
		}
	}
	return passed, nil
}

// send writes one message with descriptors.
func send(fd int, b []byte, fds []int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = syscall.UnixRights(fds...)
	}
	for {
		_, err := syscall.SendmsgN(fd, b, oob, nil, syscall.MSG_NOSIGNAL)
		if err != syscall.EINTR {
			return err
		}
	}
}
