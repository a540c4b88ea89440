//go:build linux && (amd64 || arm64)

package pools

import (
	"bytes"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/nh"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/watch"
)

const (
	// Below it waking the helper (40 us on a virtual machine) costs as much as it saves, and comparing reads what the caches hold
	// anyway: one thread compares 2 MiB in 70 to 140 us.
	equalAlone = 2 << 20
	// What a thread takes at a time: a helper that wakes late, or not at all, finds less to do and holds nobody up.
	equalPiece = 32 * nh.Block
	// How often the caller's thread looks whether the helper's last piece is done before it sleeps: some 20 us.
	equalLooks = 20_000
	helperNap  = 3600e9 // ns
)

// same says whether memory of the caller's has the bytes of a range of the arena.
func (e *Engine) same(off uint64, stored, b []byte) bool {
	if len(b) < watchLeast {
		return bytes.Equal(stored, b)
	}
	if e.lookout.unwritten(off, b) {
		before, behind := watch.Edges(b)
		return bytes.Equal(stored[:len(before)], before) && bytes.Equal(stored[len(b)-len(behind):], behind)
	}
	e.lookout.reading(off, b)
	equal := e.compare(off, stored, b)
	e.lookout.read(off, b, equal)
	return equal
}

// compare reads it.
//
// A range that was found equal gets digests, and from then on only the caller's copy is read. The first time it is compared: most
// functions are sent once, or change with every map, and digests of the stored copy have to be paid for.
func (e *Engine) compare(off uint64, stored, b []byte) bool {
	if len(b) < equalAlone {
		return bytes.Equal(stored, b)
	}
	e.mu.Lock()
	known := e.digests[off]
	e.mu.Unlock()
	whole := len(b) / nh.Block * nh.Block
	if len(known) == whole/nh.Block {
		return bytes.Equal(stored[whole:], b[whole:]) && e.helper.each(whole, func(from, to int) bool {
			return nh.Match(known[from/nh.Block:to/nh.Block], b[from:to])
		})
	}
	if !e.helper.each(len(b), func(from, to int) bool { return bytes.Equal(stored[from:to], b[from:to]) }) {
		return false
	}
	sums := make([]nh.Sum, whole/nh.Block)
	e.helper.each(whole, func(from, to int) bool {
		nh.Fill(sums[from/nh.Block:to/nh.Block], stored[from:to])
		return true
	})
	e.mu.Lock()
	defer e.mu.Unlock()
	e.digests[off] = sums
	return true
}

// changed forgets what is known of what overlaps a range that is written, or given back. Under the lock.
func (e *Engine) changed(off, n uint64) {
	e.lookout.forget(off, n)
	for at, sums := range e.digests {
		if at < off+n && off < at+uint64(len(sums)+1)*nh.Block {
			delete(e.digests, at)
		}
	}
}

// helper is a second thread for long comparisons: one core gets only a part of the memory's bandwidth.
//
// It is a thread of its own, and told to stay off the caller's CPU. A goroutine would do, did the kernel not wake its
// thread behind the caller's on the same CPU, which it does more often than not where few CPUs share a cache: then it
// starts when the caller has ended (measured on two cores: 690 us for 10 MB, as without it, against 390).
type helper struct {
	mu   sync.Mutex // held by the comparison that has the helper
	tid  int        // 0: not started
	cpus process.CPUs
	bell int32 // futex
	work atomic.Pointer[division]
	quit atomic.Bool
}

// each asks about n bytes in pieces, on two cores where it can, and says whether every answer was yes; after a no it stops. The
// pieces start at multiples of equalPiece. Nobody asks any more when it returns.
func (h *helper) each(n int, ask func(from, to int) bool) bool {
	d := &division{length: n, ask: ask}
	if n >= equalAlone && h.mu.TryLock() {
		defer h.mu.Unlock()
		if h.ready() {
			return h.share(d)
		}
	}
	d.run()
	return !d.no.Load()
}

// share runs a division together with the helper.
func (h *helper) share(d *division) bool {
	d.end = make(chan struct{})
	d.open.Store(int64((d.length + equalPiece - 1) / equalPiece))
	h.work.Store(d)
	h.ring()
	d.run()
	// A thread that came from C and sleeps in Go's scheduler has to be handed its processor back, which takes as long as a
	// few pieces.
	for range equalLooks {
		if d.open.Load() == 0 {
			return !d.no.Load()
		}
	}
	<-d.end
	return !d.no.Load()
}

// ready starts the helper if need be and keeps it away from the caller's CPU. It says whether it can help.
func (h *helper) ready() bool {
	if runtime.GOMAXPROCS(0) < 2 || h.quit.Load() {
		return false
	}
	cpus, some := process.OtherCPUs()
	if !some {
		return false
	}
	if h.tid == 0 {
		started := make(chan int)
		go h.serve(started)
		h.tid = <-started
	}
	if cpus != h.cpus {
		if !process.Restrict(h.tid, &cpus) {
			return false
		}
		h.cpus = cpus
	}
	return true
}

func (h *helper) serve(started chan<- int) {
	runtime.LockOSThread() // never unlocked: the thread ends with this function, and its CPUs are nobody else's
	started <- syscall.Gettid()
	for !h.quit.Load() {
		seen := atomic.LoadInt32(&h.bell)
		if d := h.work.Swap(nil); d != nil {
			d.run()
		} else if !h.quit.Load() {
			process.FutexWait(&h.bell, seen, helperNap)
		}
	}
}

func (h *helper) ring() {
	atomic.AddInt32(&h.bell, 1)
	process.FutexWake(&h.bell)
}

// stop lets the thread end. Comparisons that come later do without it.
func (h *helper) stop() {
	h.quit.Store(true)
	h.ring()
}

// division is one call of each.
type division struct {
	length int
	ask    func(from, to int) bool
	next   atomic.Int64 // start of the first piece that nobody has taken
	open   atomic.Int64 // pieces that are not done with; of use with an end only
	no     atomic.Bool
	end    chan struct{} // nil: nobody else takes pieces
}

// run takes pieces until there are none. After a no it only counts them.
func (d *division) run() {
	for {
		from := int(d.next.Add(equalPiece)) - equalPiece
		if from >= d.length {
			return
		}
		if !d.no.Load() && !d.ask(from, min(from+equalPiece, d.length)) {
			d.no.Store(true)
		}
		if d.open.Add(-1) == 0 && d.end != nil {
			close(d.end)
		}
	}
}
