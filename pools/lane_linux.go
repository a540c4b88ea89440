//go:build linux && (amd64 || arm64)

package pools

import (
	"container/heap"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
)

const (
	// A chunk that takes longer is not queued behind another: what is waiting there could run elsewhere.
	prefetchMost = 20e6 // ns
	// Short chunks are queued for this long, so that a rank does not wait for the next one. On a crowded node a process that is not
	// running comes back after some milliseconds.
	prefetchTime = 1e6 // ns
	// But no more of them than this.
	prefetchDeep = 128
	// The same for all ranks together, for chunks whose size the user fixed.
	deepRanks     = 1 * time.Millisecond
	deepMostRanks = 256
	// Answers of shorter chunks may wait for each other.
	briefTime = 50e3 // ns
	// Answers of chunks that take longer than this are not waited for awake. The first pause is this part of that time, and no longer than
	// the last.
	paceLeast = 400e3 // ns
	pacePart  = 32
	paceMost  = 200e3 // ns
	// Results of this size are handed on in memory of their own: below it a copy costs no more than making an object that owns it.
	looseLeast = 64 << 10
	// A caller who does not wait is kept for so long by chunks that were given up, since a rank drops them within that time unless
	// its task is a long one.
	roomWait = 10e6 // ns
)

// lane is where chunks go: one MPI rank, or (rank 0) the crew on this machine.
type lane struct {
	rank    int
	workers int
	place   int // of a neighbour in the crew, which gets its tasks there; -1
	flying  []*chunk
	blobs   map[uint64]uint64 // offsets of what the rank has, and the stamp it had when it was sent
	forget  []uint64          // what it need not keep
	ready   bool              // it has said hello in this session: what came before is of an earlier one
	at      int               // in the heap
	used    uint64
}

// The heap of lanes: by load, and of equal ones the one that answered last, which is still awake.
func (f *fleet) Len() int { return len(f.order) }

func (f *fleet) Less(i, j int) bool {
	a, b := f.order[i], f.order[j]
	x, y := len(a.flying)*b.workers, len(b.flying)*a.workers
	return x < y || x == y && a.used > b.used
}

func (f *fleet) Swap(i, j int) {
	o := f.order
	o[i], o[j] = o[j], o[i]
	o[i].at, o[j].at = i, j
}

func (f *fleet) Push(any) {}

func (f *fleet) Pop() any { return nil }

// post takes over a chunk.
func (f *fleet) post(c *chunk) { f.queue = append(f.queue, c) }

// assign hands queued chunks to the lanes that have room.
func (f *fleet) assign() {
	n := 0
	for ; n < len(f.queue); n++ {
		c := f.queue[n]
		if f.e.tr.Load32(c.slot+process.ReplyCancel) != 0 { // its job was given up before it left
			f.e.tr.Store32(c.slot+process.ReplyStatus, process.StatusStopped)
			c.posted = false
			f.e.inFlight--
			f.e.settle(c)
			continue
		}
		l := f.pick(c)
		if l == nil {
			break
		}
		if err := f.send(l, c); err != nil {
			f.fail(CodeInternal, err, 0)
			break
		}
	}
	if n > 0 {
		f.queue = f.queue[:copy(f.queue, f.queue[n:])]
	}
}

// makeRoom takes in answers for a caller who is not going to wait: nobody else would until he comes back, and his chunks might stay
// behind those of a job that was given up, which the ranks have long dropped.
func (f *fleet) makeRoom() error {
	for end := process.Monotonic() + roomWait; !f.e.leading && !f.e.terminated && !f.detached; {
		if err := f.progress(); err != nil {
			return err
		}
		f.assign()
		if len(f.queue) == 0 || !f.blocked() || process.Monotonic() >= end {
			return nil
		}
		process.Nap(20e3)
	}
	return nil
}

// blocked says whether a chunk that was given up keeps a lane from getting another one.
func (f *fleet) blocked() bool {
	return slices.ContainsFunc(f.order, func(l *lane) bool {
		return slices.ContainsFunc(l.flying, func(c *chunk) bool { return c.job.gone })
	})
}

// pick finds the lane for a chunk; nil: none has room.
func (f *fleet) pick(c *chunk) *lane {
	if c.job.broadcast { // one task for each worker
		return f.laneOf(int(c.first))
	}
	l := f.order[0]
	if len(l.flying) < l.workers*(1+f.ahead(c)) {
		return l
	}
	return nil
}

// laneOf is the lane with the i-th worker, in the order of ranks.
func (f *fleet) laneOf(i int) *lane {
	for _, l := range f.lanes {
		if i < l.workers {
			return l
		}
		i -= l.workers
	}
	return f.lanes[len(f.lanes)-1]
}

// ahead is how many chunks like c may wait at a worker that has one.
func (f *fleet) ahead(c *chunk) int {
	c.expect = f.e.sched.TaskTime(c.job.id) * float64(c.count)
	if c.expect <= 0 || c.expect >= prefetchMost {
		return 0
	}
	return min(max(int(prefetchTime/c.expect), 1), prefetchDeep)
}

// landed takes a chunk off its lane.
func (f *fleet) landed(l *lane, c *chunk) {
	if i := slices.Index(l.flying, c); i >= 0 {
		l.flying[i] = l.flying[len(l.flying)-1]
		l.flying[len(l.flying)-1] = nil
		l.flying = l.flying[:len(l.flying)-1]
	}
	f.clock++
	l.used = f.clock
	heap.Fix(f, l.at)
}

// settled is called for every chunk that has been answered or lost.
func (f *fleet) settled(c *chunk) {
	l := c.lane
	if l == nil {
		if !c.taken {
			return
		}
		l = f.lanes[0]
	}
	c.lane, c.taken = nil, false
	f.landed(l, c)
}

// taskRanges names the tasks of chunks.
func taskRanges(chunks []*chunk) string {
	var ranges []string
	for _, c := range chunks {
		if c.count == 1 {
			ranges = append(ranges, fmt.Sprintf("task %d", c.first))
		} else {
			ranges = append(ranges, fmt.Sprintf("tasks %d to %d", c.first, c.first+int64(c.count)-1))
		}
		if len(ranges) == 8 && len(chunks) > 8 {
			return strings.Join(ranges, ", ") + fmt.Sprintf(" and %d more chunks", len(chunks)-8)
		}
	}
	return strings.Join(ranges, ", ")
}
