package inproc

import (
	"cmp"
	"context"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
)

// grace is what a task whose context has ended gets to return before it is left behind. Guessed: well-behaved tasks take
// microseconds, but on a machine with ten threads per CPU one in a hundred is not let in for 10 ms; and nobody notices a
// twentieth of a second.
const grace = 50 * time.Millisecond

// Do runs a call to its end, on the goroutine of the caller. It returns nil when all tasks were handed to Work, or Work wanted no
// more; the context's error when that ended first; ErrClosed before anything ran on a closed crew.
func (c *Crew) Do(ctx context.Context, spec Spec) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ErrClosed
	}
	j := c.begin(ctx, spec)
	locked := true
	defer func() { // also when a callback panics, or a task ends this goroutine
		if !locked {
			c.mu.Lock()
		}
		c.end(ctx, j)
		c.mu.Unlock()
	}()
	if spec.Tasks == dispatch.Unknown {
		c.feed(j)
	}
	c.tick()
	c.staff(j)
	for {
		if !j.spec.Quiet {
			locked = false
			c.deliver(j)
			locked = true
		}
		if j.over || c.sched.Finished(j.id) {
			return cmp.Or(j.source, j.expired)
		}
		if err := ctx.Err(); err != nil {
			c.cancel(j, context.Cause(ctx))
			return err
		}
		if c.join(j) {
			locked = false
			c.run(&j.caller)
			locked = true
			continue
		}
		c.await(ctx, j)
	}
}

// join makes the caller a worker for one chunk, if it may run tasks and there is one. It leaves the token where it was when the
// call goes on at once.
func (c *Crew) join(j *job) bool {
	if !c.mayRun(j) || !(j.token || c.free > 0 || c.isWithin(j)) {
		if c.isStranded(j) {
			c.lend(j)
		}
		c.putBack(j)
		return false
	}
	if !c.take(&j.caller, j) && !c.steal(&j.caller, j) {
		c.putBack(j)
		return false
	}
	if !j.token && c.free > 0 {
		c.free--
		j.token = true
	}
	return true
}

// mayRun reports that tasks may run on the caller's goroutine: they are short, or nobody will ask him to leave and no results
// wait for him.
func (c *Crew) mayRun(j *job) bool {
	if j.spec.Limit > 0 {
		return false
	}
	if t := c.sched.TaskTime(j.id); t > 0 && t < float64(promptly) {
		return true
	}
	return j.spec.Quiet && !cancellable(j.ctx.parent)
}

// cancellable reports that a context may end. To ask those of tasks for their channel would make one.
func cancellable(ctx context.Context) bool {
	if _, task := ctx.(*taskContext); task {
		return true
	}
	return ctx.Done() != nil
}

// isStranded reports that a call from within a task has nobody to work for it.
func (c *Crew) isStranded(j *job) bool {
	return c.free == 0 && !j.token && !j.over && len(j.running) == 0 && c.isWithin(j)
}

func (c *Crew) isWithin(j *job) bool {
	if j.within == unknown {
		j.within = no
		if _, task := j.ctx.parent.(*taskContext); task || j.ctx.parent.Value(withinKey{}) != nil || within(false) {
			j.within = yes
		}
	}
	return j.within == yes
}

// putBack gives up the caller's token, to another call if one has use for it.
func (c *Crew) putBack(j *job) {
	if j.token {
		j.token = false
		c.free++
		c.muster()
	}
}

// deliver hands over what is ready. The crew is locked before and after, not while user code runs.
func (c *Crew) deliver(j *job) {
	for !j.over {
		d, ok := c.sched.Deliver(j.id)
		if !ok {
			return
		}
		c.sched.Release(d.Chunk) // the payload is Work's
		c.putBack(j)
		f := j.failure(d)
		c.mu.Unlock()
		more := handOver(j.spec.Work, d, f)
		c.mu.Lock()
		j.handed += int64(d.Count)
		if d.Failed || d.Lost {
			j.handed++
		}
		c.makeRoom(j)
		if !more {
			c.cancel(j, f.Err)
		}
	}
}

// handOver has a name of its own so that its frame on a stack tells that a callback, or a loop over results, is running.
//
//go:noinline
func handOver(work Work, d dispatch.Delivery, f Failure) bool { return hand(work, d, f) }

// await sleeps until something has happened to the call: an answer, the end of its context, a task's time.
func (c *Crew) await(ctx context.Context, j *job) {
	c.staff(j)
	j.asleep = true
	var timer <-chan time.Time
	if d, ok := c.nextLimit(j); ok {
		t := time.NewTimer(d)
		defer t.Stop()
		timer = t.C
	}
	c.mu.Unlock()
	select {
	case <-j.wake:
	case <-ctx.Done():
	case <-timer:
	}
	c.mu.Lock()
	c.awoken(j)
	c.checkLimits(j)
}

// awoken settles who wakes whom, after a sleep that may have ended for two reasons.
func (c *Crew) awoken(j *job) {
	j.asleep = false
	select {
	case <-j.wake:
	default:
	}
}

// end waits for what still runs, and forgets the call. Tasks that do not return although the caller's context has ended are left
// behind.
func (c *Crew) end(ctx context.Context, j *job) {
	if !c.sched.Finished(j.id) {
		c.cancel(j, context.Cause(ctx))
	}
	j.over = true
	c.putBack(j)
	j.ctx.end(nil)
	j.dismiss()
	var timer <-chan time.Time
	done := ctx.Done()
	for len(j.running) > 0 || (j.feeds && timer == nil) {
		j.asleep = true
		c.mu.Unlock()
		select {
		case <-j.wake:
		case <-done:
			done = nil
			timer = time.After(grace)
		case <-timer:
			c.mu.Lock()
			c.abandon(j)
			c.mu.Unlock()
		}
		c.mu.Lock()
		c.awoken(j)
	}
	c.forget(j)
}

// abandon leaves the workers of a call behind.
func (c *Crew) abandon(j *job) {
	for len(j.running) > 0 {
		c.sched.Done(j.running[0].chunk, dispatch.Outcome{}) // of a cancelled call: no more than taken off the books
		c.strand(j.running[0])
	}
}

// strand leaves one worker behind: its token goes to a successor.
func (c *Crew) strand(w *worker) {
	w.job.dirty = true
	c.land(w)
	w.stuck = true
	c.ticks.stuck++
	if j := w.bound; j != nil {
		j.lent = false
	}
	if w.token {
		w.token = false
		c.names = append(c.names, w.name)
		c.free++
		c.muster()
	}
}
