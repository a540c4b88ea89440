//go:build linux && (amd64 || arm64)

package process

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
)

// ErrGone says that a descriptor is not open in its process any more, or is another file's by now.
var ErrGone = errors.New("the descriptor is closed in its process")

// Place says where another process of this machine finds a descriptor of ours: by our entry in /proc, which needs neither a socket nor
// more than the right to look at a process of one's own. The file's identity tells whether the number still means the same file.
type Place struct {
	Pid, Fd  int
	Dev, Ino uint64
}

// PlaceSize is the length of an encoded Place.
const PlaceSize = 32

// PlaceOf is the place of a descriptor of this process.
func PlaceOf(fd int) (Place, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return Place{}, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	return Place{Pid: syscall.Getpid(), Fd: fd, Dev: st.Dev, Ino: st.Ino}, nil
}

// Probe is a file that holds these bytes: a process that reads them at its Place is on this machine and may open our descriptors.
func Probe(token []byte) (fd int, err error) {
	if fd, err = anonymous(); err != nil {
		return -1, err
	}
	if _, err := syscall.Pwrite(fd, token, 0); err != nil {
		_ = syscall.Close(fd)
		return -1, fmt.Errorf("probe: %w", err)
	}
	return fd, nil
}

// Holds says whether the file at a place can be opened for reading and writing, and begins with these bytes.
func (p Place) Holds(token []byte) bool {
	fd, err := p.Open(syscall.O_RDWR)
	if err != nil {
		return false
	}
	defer func() { _ = syscall.Close(fd) }() // nothing was written
	found := make([]byte, len(token))
	n, err := syscall.Pread(fd, found, 0)
	return err == nil && n == len(token) && bytes.Equal(found, token)
}

// Append encodes a place behind b.
func (p Place) Append(b []byte) []byte {
	for _, v := range [...]uint64{uint64(p.Pid), uint64(p.Fd), p.Dev, p.Ino} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// ParsePlace reads a place from the first PlaceSize bytes of b. It panics when b is shorter.
func ParsePlace(b []byte) Place {
	_ = b[PlaceSize-1]
	le := binary.LittleEndian
	return Place{Pid: int(le.Uint64(b)), Fd: int(le.Uint64(b[8:])), Dev: le.Uint64(b[16:]), Ino: le.Uint64(b[24:])}
}

// Open opens the file anew, with these flags of open(2) and close-on-exec. The error is ErrGone where that file is not at the place.
//
// The number may belong to another file by now, and to open that could block or have an effect. So the file is taken hold of with O_PATH
// first, which does nothing to it, then looked at, and only then opened.
func (p Place) Open(flags int) (int, error) {
	const pathOnly = 0x200000 // O_PATH
	hold, err := openFile(fmt.Sprintf("/proc/%d/fd/%d", p.Pid, p.Fd), pathOnly)
	if err == syscall.ENOENT {
		return -1, ErrGone
	}
	if err != nil {
		return -1, fmt.Errorf("descriptor %d of process %d: %w", p.Fd, p.Pid, err)
	}
	defer func() { _ = syscall.Close(hold) }() // no data can be lost with it
	var st syscall.Stat_t
	if err := syscall.Fstat(hold, &st); err != nil {
		return -1, fmt.Errorf("descriptor %d of process %d: %w", p.Fd, p.Pid, err)
	}
	if st.Dev != p.Dev || st.Ino != p.Ino {
		return -1, ErrGone
	}
	fd, err := openFile(fmt.Sprintf("/proc/self/fd/%d", hold), flags)
	if err != nil {
		return -1, fmt.Errorf("descriptor %d of process %d: %w", p.Fd, p.Pid, err)
	}
	return fd, nil
}

func openFile(path string, flags int) (int, error) {
	for {
		fd, err := syscall.Open(path, flags|syscall.O_CLOEXEC, 0)
		if err != syscall.EINTR {
			return fd, err
		}
	}
}
