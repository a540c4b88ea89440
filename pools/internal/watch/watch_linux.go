//go:build linux && (amd64 || arm64)

package watch

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"unsafe"
)

// Numbers of linux/userfaultfd.h and linux/fs.h; the ioctls are the same on both architectures.
const (
	userModeOnly     = 1 // all that is open to processes without privileges
	apiVersion       = 0xAA
	featureWP        = 1 << 0
	featureWPAsync   = 1 << 15
	registerWP       = 1 << 1
	writeProtect     = 1 << 0
	ioctlAPI         = 0xC018AA3F
	ioctlRegister    = 0xC020AA00
	ioctlUnregister  = 0x8010AA01
	ioctlWP          = 0xC018AA06
	ioctlPagemapScan = 0xC0606610

	pageWPAllowed = 1 << 0
	pageWritten   = 1 << 1
	pageFile      = 1 << 2
	pagePresent   = 1 << 3
	pageSwapped   = 1 << 4
)

// ErrRange says that a range is none that can be watched.
var ErrRange = errors.New("not private memory without a file")

// Watcher watches ranges of this process's memory. It and its ranges are not for more than one goroutine at a time.
type Watcher struct {
	fd    int
	armed []*Range // no two of them overlap
}

// Range is memory that is watched since a moment.
type Range struct {
	w *Watcher // nil: not any more
	span
}

// span is a range of whole pages.
type span struct{ start, end uintptr }

// Open returns a watcher; an error says that this kernel has none, or does not let this process have one.
func Open() (*Watcher, error) {
	fd, _, e := syscall.Syscall(sysUserfaultfd, syscall.O_CLOEXEC|syscall.O_NONBLOCK|userModeOnly, 0, 0)
	if e != 0 {
		return nil, fmt.Errorf("userfaultfd: %w", e)
	}
	w := &Watcher{fd: int(fd)}
	api := [3]uint64{apiVersion, featureWP | featureWPAsync}
	if err := w.ioctl(ioctlAPI, unsafe.Pointer(&api)); err != nil {
		_ = syscall.Close(w.fd)
		return nil, fmt.Errorf("userfaultfd without asynchronous write protection: %w", err)
	}
	return w, nil
}

// Fd is the descriptor, which a forked child must close: it stands for this process's memory.
func (w *Watcher) Fd() int { return w.fd }

// Close ends all watching.
func (w *Watcher) Close() error {
	for _, r := range w.armed {
		r.w = nil
	}
	w.armed = nil
	return syscall.Close(w.fd)
}

// whole is the whole pages of b.
func whole(b []byte) span {
	page := uintptr(os.Getpagesize())
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	s := span{(at + page - 1) &^ (page - 1), (at + uintptr(len(b))) &^ (page - 1)}
	s.end = max(s.end, s.start)
	return s
}

// Edges are the bytes of b before its first whole page and behind its last one, of which a watcher knows nothing.
func Edges(b []byte) (before, behind []byte) {
	s, at := whole(b), uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	if s.start == s.end {
		return b, nil
	}
	return b[:s.start-at], b[s.end-at:]
}

// Arm begins to watch the whole pages of b, from now on. Ranges that overlap are not watched any more: one mark cannot tell of two
// moments.
//
// ErrRange: b is not private anonymous memory. Cost: some 20 us for the check, and, for those who write into b, a fault for
// each page, under a microsecond; a huge page is split by the first of them.
func (w *Watcher) Arm(b []byte) (*Range, error) {
	r := &Range{w, whole(b)}
	if r.start == r.end {
		return nil, ErrRange
	}
	for _, o := range slices.Clone(w.armed) {
		if o.start < r.end && r.start < o.end {
			o.Disarm()
		}
	}
	if ok, err := privateMemory(r.span); err != nil || !ok {
		return nil, errors.Join(ErrRange, err)
	}
	register := [4]uint64{uint64(r.start), uint64(r.end - r.start), registerWP}
	if err := w.ioctl(ioctlRegister, unsafe.Pointer(&register)); err != nil {
		return nil, fmt.Errorf("registering memory with userfaultfd: %w", err) // EBUSY: with another one already
	}
	w.armed = append(w.armed, r)
	protect := [3]uint64{uint64(r.start), uint64(r.end - r.start), writeProtect}
	if err := w.ioctl(ioctlWP, unsafe.Pointer(&protect)); err != nil {
		r.Disarm()
		return nil, fmt.Errorf("write-protecting memory with userfaultfd: %w", err)
	}
	return r, nil
}

// Disarm ends the watching.
func (r *Range) Disarm() {
	if r.w == nil {
		return
	}
	s := [2]uint64{uint64(r.start), uint64(r.end - r.start)}
	// It fails if the memory is gone, and its registration with it.
	_ = r.w.ioctl(ioctlUnregister, unsafe.Pointer(&s))
	r.w.armed = slices.DeleteFunc(r.w.armed, func(o *Range) bool { return o == r })
	r.w = nil
}

// Unwritten says whether it is certain that nobody has written to the range since it was armed. False where anything is in doubt, or
// more descriptors than most would have to be looked at. Cost: 2 us, 10 ns for each page that is not part of a huge one, and
// [Harmless].
func (r *Range) Unwritten(most int) bool {
	return r.w != nil && Harmless(most) && unmarked(r.span)
}

// unmarked says whether each page of a range is there, watched, anonymous and not written.
func unmarked(s span) bool {
	fd, err := syscall.Open("/proc/self/pagemap", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = syscall.Close(fd) }()
	var region [3]uint64 // start, end, categories
	// struct pm_scan_arg
	arg := [12]uint64{
		0: 12 * 8, 2: uint64(s.start), 3: uint64(s.end), 5: uint64(uintptr(unsafe.Pointer(&region))), 6: 1,
		// Pages with all of these, the inverted ones absent; a page that is not there has no mark, whatever it will show next.
		8: pageWritten | pageFile, 9: pageWPAllowed | pageWritten | pageFile, 10: pagePresent | pageSwapped,
		11: pageWPAllowed, // the same for all of them: one region, unless some page is none of them
	}
	n, _, e := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), ioctlPagemapScan, uintptr(unsafe.Pointer(&arg)))
	return e == 0 && n == 1 && region[0] == uint64(s.start) && region[1] == uint64(s.end)
}

func (w *Watcher) ioctl(request uintptr, arg unsafe.Pointer) error {
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, uintptr(w.fd), request, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}
