package inproc

import (
	"sync"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
)

const (
	// Starting a goroutine costs the caller up to 1 us, and waking a sleeping CPU for it 5 to 50 us until it runs. A call that is
	// expected to take less stays on the caller's goroutine, and each further worker must have as much to do.
	fanOut = 20 * time.Microsecond
	// Taking a chunk costs some 0.3 us, so chunks may be shorter than those for processes.
	target     = 100 * time.Microsecond
	longTarget = time.Millisecond
	// A call from a caller who may be cancelled runs tasks on his goroutine if they are known to be this short: he cannot leave
	// in the middle of one.
	promptly = time.Millisecond
	// What is not expected to take this long is left to the worker that has it.
	stealLeast = 10 * time.Microsecond
	// For a call of Unknown length no chunk is larger, and so many per worker may wait for delivery: what is drawn ahead of the
	// consumer is bounded. At 1024 tasks a chunk costs 0.3 ns per task.
	streamMost   = 1024
	windowChunks = 4
)

// Crew is the workers of one pool. All methods may be called from any goroutine.
type Crew struct {
	mu    sync.Mutex
	sched *dispatch.Scheduler
	base  time.Time
	size  int
	free  int       // tokens
	names []int     // of workers that are not at work
	spare []*worker // for reuse
	idle  []*job    // likewise

	jobs []*job
	turn int // which one the next worker looks at first

	alive  int // goroutines: workers, those left behind, feeders; the ticking timer
	calls  int
	closed bool
	gone   chan struct{} // closed when all of these have ended after Close

	ticks ticker
}

// New makes a crew of so many workers, at least 1. No goroutine is started before there is work.
func New(size int) *Crew {
	c := &Crew{size: size, free: size, base: time.Now()}
	c.sched = dispatch.New(dispatch.Config{
		Workers: size, Depth: 1 << 20, // who takes a chunk runs it, so there are as many as who run
		Target: target, LongTarget: longTarget, FanOut: fanOut, WindowChunks: windowChunks,
	})
	c.names = make([]int, size)
	for i := range c.names {
		c.names[i] = size - i
	}
	return c
}

// Size is the number of workers.
func (c *Crew) Size() int { return c.size }

// now is the time since the crew was made: half the price of time.Now.
func (c *Crew) now() time.Duration { return time.Since(c.base) }

// Close refuses new calls and waits until the present ones, their goroutines, and those left behind have ended. It may be called
// again, and by several goroutines. Called from within a task or a loop over results it would wait for itself: then it
// returns ErrWithin at once if anything runs.
func (c *Crew) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		c.gone = make(chan struct{})
		c.stopTicks()
		c.leave()
	}
	done := c.calls == 0 && c.alive == 0
	c.mu.Unlock()
	if !done && within(true) {
		return ErrWithin
	}
	<-c.gone
	return nil
}

// leave is called when a call or a goroutine has ended.
func (c *Crew) leave() {
	if c.closed && c.calls == 0 && c.alive == 0 {
		select {
		case <-c.gone:
		default:
			close(c.gone)
		}
	}
}

// Counters are the scheduler's totals.
func (c *Crew) Counters() dispatch.Counters {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sched.Counters()
}

// State tells how many calls are under way, and how many goroutines run tasks that nobody waits for.
func (c *Crew) State() (calls, stuck int, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls, c.ticks.stuck, c.closed
}
