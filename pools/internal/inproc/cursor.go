package inproc

import "sync/atomic"

// Cursor is the place in a chunk in flight: which tasks its worker has claimed, and where the chunk ends. Both lie in one word,
// so that a task is either claimed by the worker or cut off by somebody else, never both.
type Cursor struct {
	// Task is the task that runs, or ran last. Only the worker touches it while the chunk is in flight.
	Task int64

	first int64
	step  uint64
	span  atomic.Uint64 // tasks claimed << 32 | tasks in the chunk; claims may count past the end
	stop  atomic.Bool   // the rest is not wanted
}

const (
	spanEnd = 1<<32 - 1
	// The most tasks in a chunk, as dispatch has it: half of what would overflow.
	cursorMost = 1 << 30
)

func (c *Cursor) reset(first int64, count int, step int) {
	c.Task, c.first, c.step = first, first, uint64(step)
	c.stop.Store(false)
	c.span.Store(uint64(count))
}

// Claim takes the next tasks, one in most cases, several where they are known to be tiny; false: there are none left. Cost:
// one atomic addition on a cache line of the worker's own, 5 ns.
func (c *Cursor) Claim() (from, to int64, ok bool) {
	span := c.span.Add(c.step << 32)
	next, end := span>>32-c.step, span&spanEnd
	if next >= end || c.stop.Load() {
		return 0, 0, false
	}
	return c.first + int64(next), c.first + int64(min(next+c.step, end)), true
}

// Stopped tells that the tasks claimed but not begun are not wanted any more.
func (c *Cursor) Stopped() bool { return c.stop.Load() }

// left is the number of tasks that nobody has claimed.
func (c *Cursor) left() int64 {
	span := c.span.Load()
	return max(int64(span&spanEnd)-int64(span>>32), 0)
}

// claimed is the number of tasks that the worker has taken.
func (c *Cursor) claimed() int64 {
	span := c.span.Load()
	return min(int64(span>>32), int64(span&spanEnd))
}

// cut takes half of the unclaimed tasks away from the worker, the larger one, and returns how many tasks the chunk keeps. It
// keeps one at least. False: there is nothing to take.
func (c *Cursor) cut() (keep int, ok bool) {
	for {
		span := c.span.Load()
		next, end := span>>32, span&spanEnd
		at := max(next, 1)
		if at >= end {
			return 0, false
		}
		at += (end - at) / 2
		if c.span.CompareAndSwap(span, next<<32|at) {
			return int(at), true
		}
	}
}
