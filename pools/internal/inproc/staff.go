package inproc

import (
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
)

// ticker looks after calls for which too few workers were started, because their tasks were short so far.
type ticker struct {
	timer *time.Timer
	runs  bool
	every time.Duration
	idle  int // ticks since the last call began
	stuck int // goroutines left behind
}

const (
	// So long a wrong guess may last, or twice as long as it has lasted: a tick costs 2 us, and where nothing is new each
	// interval is twice the one before.
	tickTime = time.Millisecond
	tickMost = 256 * time.Millisecond
	// The timer goes on for so many ticks after the last call: starting it costs 0.1 us, which many small maps share.
	tickIdle = 16
)

// tick starts the timer for a new call, if there are others to call for.
func (c *Crew) tick() {
	t := &c.ticks
	t.idle = 0
	if c.size == 1 || (t.runs && t.every == tickTime) {
		return
	}
	t.every = tickTime
	if t.runs {
		t.timer.Reset(tickTime)
		return
	}
	t.runs = true
	c.alive++
	if t.timer == nil {
		t.timer = time.AfterFunc(tickTime, c.ticked)
	} else {
		t.timer.Reset(tickTime)
	}
}

func (c *Crew) ticked() {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &c.ticks
	if !t.runs {
		return // it was stopped a moment too late
	}
	if t.idle++; len(c.jobs) > 0 {
		if t.idle > tickIdle {
			t.every = min(2*t.every, tickMost)
		}
	} else if t.idle > tickIdle || c.closed {
		t.runs = false
		t.timer.Stop()
		c.alive--
		c.leave()
		return
	}
	c.muster()
	t.timer.Reset(t.every)
}

// stopTicks is part of Close, and of the last call after it.
func (c *Crew) stopTicks() {
	if c.ticks.runs && len(c.jobs) == 0 && c.ticks.timer.Stop() {
		c.ticks.runs = false
		c.alive--
	}
}

// muster starts workers for all calls that have use for them.
func (c *Crew) muster() {
	for _, j := range c.jobs {
		if c.free == 0 {
			return
		}
		c.staff(j)
	}
}

// staff starts workers for a call: as many as have a fanOut's worth to do, or one each task while nobody knows.
func (c *Crew) staff(j *job) {
	if c.free == 0 || j.over {
		return
	}
	if j.feeds && len(j.running) == 0 && c.waiting(j) == 0 {
		// Nobody is left who would look for the next task, as a worker whose task ended its goroutine did not: the source must
		// call. Said before looking again, as in offerDrawn.
		j.hungry.Store(true)
	}
	n := c.wanted(j)
	if len(j.running) == 0 && c.waiting(j) > 0 {
		if c.mayRun(j) {
			n-- // the caller himself
			j.signal()
		} else {
			n = max(n, 1)
		}
	}
	for n = min(n, int64(c.free)); n > 0; n-- {
		c.hire()
	}
}

// waiting is the number of tasks that could be begun now, had somebody the time.
func (c *Crew) waiting(j *job) int64 {
	n := c.sched.Left(j.id)
	if j.spec.Tasks == dispatch.Unknown {
		n += j.drawn.Load() - j.taken
	}
	return n
}

// wanted is for how many more workers there is something to do: the time that waiting tasks will take, in parts of fanOut. They are
// expected to take what others took before, or what those take that run now: these may be the first of another kind.
func (c *Crew) wanted(j *job) int64 {
	left := c.waiting(j)
	each := c.sched.TaskTime(j.id)
	if len(j.running) > 0 && (each > 0 || j.spec.Chunk == 0) {
		now := c.now()
		for _, w := range j.running {
			if each > 0 {
				each = max(each, float64(now-w.began)/float64(max(w.at.claimed(), 1)))
			}
			if j.spec.Chunk == 0 {
				left += w.at.left()
			}
		}
	}
	if j.spec.Chunk > 0 {
		each *= float64(j.spec.Chunk)
		left = (left + int64(j.spec.Chunk) - 1) / int64(j.spec.Chunk)
	}
	if each == 0 || left == 0 {
		return left
	}
	return int64(min(float64(left), each*float64(left)/float64(fanOut)))
}
