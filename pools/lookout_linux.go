//go:build linux && (amd64 || arm64)

package pools

import (
	"os"
	"sync"
	"unsafe"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/watch"
)

const (
	// Shorter memory is read in less time than the kernel takes to tell.
	watchLeast = 1 << 20
	// What is read in the time that the look at one descriptor takes (0.46 us, at 20 GB/s): with more of them, reading is the cheaper way.
	bytesPerDescriptor = 10 << 10
	// So often in a row memory must have been found equal before it is watched: who writes into it pays for that, by a fault for each
	// page, so it must not happen to data that change.
	watchAfter = 8
	// The count for the next time after each time that it did happen, up to the most; and after so many maps in which it did not, back.
	watchGrowth = 2
	watchMost   = 4096
	watchPardon = 64
	// So often it must be read and found equal while it is watched before the kernel's word is taken. What was already on its way into
	// memory when the watching began (direct I/O that nobody has waited for yet) has long arrived by then.
	watchTrust = 2
	// 0 turns it off, if set before the library is loaded.
	watchVariable = "SCHWIMMBAD_GO_WATCH"
)

// lookout knows of memory of the caller's that was found equal to a range of the arena whether it is so still, without reading it.
//
// The kernel tells whether a page was written (see package watch). That is certain, or it is not asked: memory of which the kernel
// cannot know everything is read, as all of it is where there is no such kernel.
type lookout struct {
	mu     sync.Mutex
	w      *watch.Watcher // nil: no watching here
	ranges map[uint64]*watched
	after  int // watchAfter, and more after disappointments
	kept   int // answers since the last one
}

// watched is the memory that was found equal to the range of the arena at one offset.
type watched struct {
	b     []byte
	equal int          // how often in a row, by reading it
	since int          // how often of that since it is watched
	armed *watch.Range // nil: it is not
}

func (l *lookout) open() {
	l.ranges, l.after = make(map[uint64]*watched), watchAfter
	if os.Getenv(watchVariable) == "0" {
		return
	}
	if w, err := watch.Open(); err == nil { // else memory is read
		l.w = w
	}
}

func (l *lookout) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w != nil {
		_ = l.w.Close()
		l.w = nil
	}
	l.ranges = nil
}

// fd is the watcher's descriptor, -1 if there is none.
func (l *lookout) fd() int {
	if l.w == nil {
		return -1
	}
	return l.w.Fd()
}

// unwritten says whether it is certain that the whole pages of b are what they were when b was last found equal to the range at off.
func (l *lookout) unwritten(off uint64, b []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.ranges[off]
	if l.w == nil || r == nil || r.armed == nil || r.since < watchTrust || !r.is(b) {
		return false
	}
	if !r.armed.Unwritten(len(b) / bytesPerDescriptor) {
		r.disarm()
		l.after, l.kept = min(l.after*watchGrowth, watchMost), 0
		return false
	}
	if l.kept++; l.kept == watchPardon {
		l.after, l.kept = max(l.after/watchGrowth, watchAfter), 0
	}
	return true
}

// reading is told before b is read to be compared with the range at off: watching must have begun by then.
func (l *lookout) reading(off uint64, b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.ranges[off]
	if l.w == nil || r == nil || r.armed != nil || r.equal < l.after || !r.is(b) {
		return
	}
	armed, err := l.w.Arm(b)
	if err != nil { // it is none that can be watched, or somebody else's already
		r.equal = -watchMost // not to be asked again soon
		return
	}
	r.armed, r.since = armed, 0
}

// read is told whether b was found equal to the range at off.
func (l *lookout) read(off uint64, b []byte, equal bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w == nil {
		return
	}
	r := l.ranges[off]
	if r != nil && (!equal || !r.is(b)) {
		r.disarm()
		delete(l.ranges, off)
		r = nil
	}
	if !equal {
		return
	}
	if r == nil {
		r = &watched{b: b}
		l.ranges[off] = r
	}
	r.equal++
	if r.armed != nil {
		r.since++
	}
}

// forget ends the watching of what is compared with a range of the arena, which is written or given back.
func (l *lookout) forget(off, n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for at, r := range l.ranges {
		if at < off+n && off < at+uint64(len(r.b)) {
			r.disarm()
			delete(l.ranges, at)
		}
	}
}

func (r *watched) disarm() {
	if r.armed != nil {
		r.armed.Disarm()
	}
	r.armed, r.equal, r.since = nil, 0, 0
}

// is says whether b is that memory. The memory may be gone: its address is looked at, never its bytes.
func (r *watched) is(b []byte) bool {
	return unsafe.SliceData(r.b) == unsafe.SliceData(b) && len(r.b) == len(b)
}
