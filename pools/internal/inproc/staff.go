package inproc

import (
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
)

// ticker looks after calls for which too few workers were started, because their tasks were short so far.
type ticker struct {
	timer *time.Timer
	runs  bool
	idle  int // ticks without a call
	stuck int // goroutines left behind
}

const (
	// So long a wrong guess may last. A tick costs 2 us, and there are none without calls.
	tickTime = time.Millisecond
	// The timer goes on for so many ticks after the last call: starting it costs 0.1 us, which many small maps share.
	tickIdle = 16
)

// tick starts the timer, if there are others to call for.
func (c *Crew) tick() {
	c.ticks.idle = 0
	if c.ticks.runs || c.size == 1 {
		return
	}
	c.ticks.runs = true
	c.alive++
	if c.ticks.timer == nil {
		c.ticks.timer = time.AfterFunc(tickTime, c.ticked)
	} else {
		c.ticks.timer.Reset(tickTime)
	}
}

func (c *Crew) ticked() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ticks.idle++
	if len(c.jobs) > 0 {
		c.ticks.idle = 0
	}
	if c.ticks.idle > tickIdle || (c.closed && len(c.jobs) == 0) {
		c.ticks.runs = false
		c.alive--
		c.leave()
		return
	}
	c.muster()
	c.ticks.timer.Reset(tickTime)
}

// stopTicks is part of Close.
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

// wanted is for how many more workers there is something to do.
func (c *Crew) wanted(j *job) int64 {
	left := c.waiting(j)
	each := c.sched.TaskTime(j.id)
	now := time.Duration(-1)
	var caught float64
	for _, w := range j.running {
		if j.spec.Chunk == 0 && w.at.left() > 0 {
			if now < 0 {
				now = c.now()
			}
			if t := c.remains(w, now); t > float64(fanOut) {
				caught += t
				left += w.at.left()
			}
		}
	}
	if left == 0 {
		return 0
	}
	if each == 0 {
		return left
	}
	work := max(each*float64(left), caught)
	if j.spec.Chunk > 0 {
		left = (left + int64(j.spec.Chunk) - 1) / int64(j.spec.Chunk)
	}
	return int64(min(float64(left), work/float64(fanOut)))
}
