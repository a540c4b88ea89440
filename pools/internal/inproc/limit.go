package inproc

import (
	"context"
	"errors"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
)

// States of a task under a time limit. Worker and caller change them by compare-and-swap, so that a task has either returned in
// time or was left behind.
const (
	taskNone int32 = iota
	taskRuns
	taskLeft
)

// timed runs a chunk task by task. Cost: about 1 us each, for the context with its timer.
func (c *Crew) timed(w *worker, j *job) error {
	for {
		task, _, ok := w.at.Claim()
		if !ok {
			return nil
		}
		w.at.Task = task
		w.since.Store(int64(c.now()))
		w.state.Store(taskRuns)
		store, err := limited(j.ctx, j.spec, task)
		if !w.state.CompareAndSwap(taskRuns, taskNone) {
			return nil
		}
		if err != nil {
			return err
		}
		store()
	}
}

// limited runs one task with a context that ends with its time.
func limited(parent context.Context, spec Spec, task int64) (store func(), err error) {
	ctx, cancel := context.WithTimeout(parent, spec.Limit)
	defer cancel()
	store, err = callTask(ctx, spec.Work, task)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && parent.Err() == nil {
		err = &Overrun{spec.Limit, err}
	}
	return store, err
}

// nextLimit is when to look at the time limits of a call again.
func (c *Crew) nextLimit(j *job) (time.Duration, bool) {
	if j.spec.Limit == 0 {
		return 0, false
	}
	next := j.spec.Limit + grace
	now := c.now()
	for _, w := range j.running {
		if w.state.Load() == taskRuns {
			next = min(next, time.Duration(w.since.Load())+j.spec.Limit+grace-now)
		}
	}
	return max(next, 0), true
}

// checkLimits leaves workers behind whose tasks go on although their time is over. The other tasks of their chunks are offered again.
func (c *Crew) checkLimits(j *job) {
	if j.spec.Limit == 0 || j.over {
		return
	}
	now := c.now()
	for i := len(j.running) - 1; i >= 0; i-- {
		w := j.running[i]
		if w.state.Load() != taskRuns || now-time.Duration(w.since.Load()) < j.spec.Limit+grace {
			continue
		}
		if !w.state.CompareAndSwap(taskRuns, taskLeft) {
			continue
		}
		done := int(w.at.Task - w.first)
		j.fail(w.at.Task, Failure{Err: &Overrun{Limit: j.spec.Limit}, Worker: w.name})
		c.sched.Lost(w.chunk, dispatch.Loss{Safe: done, Running: done, Block: 1})
		c.strand(w)
	}
	if j.spec.Quiet {
		c.settle(j)
	}
	c.staff(j)
}
