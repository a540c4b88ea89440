package inproc

import (
	"runtime/debug"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
)

// feed starts the goroutine that draws the tasks of a call of Unknown length. It is one of its own because a source may wait, for
// input or for what the consumer does with results: neither must keep results that are ready from the consumer.
func (c *Crew) feed(j *job) {
	j.roomy = make(chan struct{}, 1)
	j.feeds = true
	j.hungry.Store(true)
	c.makeRoom(j)
	c.alive++
	go c.draw(j)
}

func (c *Crew) draw(j *job) {
	done := false
	var err error
	defer func() {
		if !done {
			if v := recover(); v != nil {
				err = &Panic{v, debug.Stack()}
			} else {
				err = ErrGoexit
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.alive--
		j.feeds = false
		j.ended(err)
		c.leave()
	}()
	j.spec.Work.Feed(func() bool { return c.drew(j) })
	done = true
}

// drew counts a task, and waits for room for the next. False: nobody wants more.
func (c *Crew) drew(j *job) bool {
	n := j.drawn.Load() + 1
	j.drawn.Store(n)
	if j.hungry.Load() || n >= j.room.Load() {
		c.stop(j, n)
	}
	return !j.left.Load()
}

// stop is the slow path of drew.
func (c *Crew) stop(j *job, n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if j.hungry.Swap(false) {
		c.staff(j)
		j.signal()
	}
	for n >= j.room.Load() && !j.left.Load() {
		j.waits = true
		c.mu.Unlock()
		<-j.roomy
		c.mu.Lock()
	}
}

// ended tells how many tasks there were.
func (j *job) ended(err error) {
	n := j.drawn.Load()
	j.source = err
	j.crew.sched.Drain(j.id, n)
	j.crew.staff(j)
	j.signal()
}

// dismiss ends the drawing.
func (j *job) dismiss() {
	if j.feeds {
		j.left.Store(true)
		j.ring()
	}
}

func (j *job) ring() {
	if j.waits {
		j.waits = false
		j.roomy <- struct{}{}
	}
}

// makeRoom lets the source go on, as far as a next chunk for each worker and the one behind it, or as the caller has limited it.
func (c *Crew) makeRoom(j *job) {
	if !j.feeds {
		return
	}
	ahead := j.taken + 2*int64(c.size)*max(j.reach, 1)
	if j.spec.Ahead > 0 {
		ahead = min(ahead, j.handed+int64(j.spec.Ahead))
	}
	j.room.Store(ahead)
	// Half of it first: waking the source for each task would cost more than most tasks.
	if drawn := j.drawn.Load(); ahead-drawn >= max((ahead-j.taken)/2, 1) {
		j.ring()
	}
}

// offerDrawn offers tasks that the source has given.
func (c *Crew) offerDrawn(j *job) (dispatch.Offer, bool) {
	n := j.drawn.Load() - j.taken
	o, ok := c.sched.OfferUpTo(j.id, n)
	if !ok && n == 0 && j.feeds {
		// Said before looking again: either the source sees that, or we see its task.
		j.hungry.Store(true)
		if n = j.drawn.Load() - j.taken; n > 0 {
			o, ok = c.sched.OfferUpTo(j.id, n)
		}
	}
	if ok && o.Fresh {
		j.taken += int64(o.Count)
		j.reach = max(j.reach, int64(o.Count))
		c.makeRoom(j)
	}
	return o, ok
}
