package inproc

import (
	"context"
	"sync/atomic"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
)

// job is one call. It is guarded by the crew's lock, but for what is atomic.
type job struct {
	crew *Crew
	id   dispatch.JobID
	spec Spec
	ctx  *taskContext

	running  []*worker // with a chunk of this job
	failures map[int64]Failure
	dirty    bool // somebody was left behind, who may still look
	source   error
	expired  error // of the caller's context, where a worker saw first that it had ended
	over     bool  // finished, failed or left: nothing is offered any more
	token    bool  // the caller holds one
	lent     bool  // the caller, itself a task, has a goroutine run in its place
	within   tristate
	caller   worker // the caller as a worker

	asleep bool
	wake   chan struct{} // for the caller, one place

	intake
}

type tristate int8

const (
	unknown tristate = iota
	no
	yes
)

// intake is what a call of Unknown length has drawn.
type intake struct {
	drawn  atomic.Int64 // tasks that Work has
	room   atomic.Int64 // how far it may go
	hungry atomic.Bool  // somebody looked for a task in vain
	left   atomic.Bool  // nobody wants more
	taken  int64        // tasks offered once
	handed int64        // tasks delivered
	reach  int64        // the largest chunk so far
	feeds  bool         // the feeder runs
	waits  bool         // and waits for room
	roomy  chan struct{}
}

// begin registers a call.
func (c *Crew) begin(ctx context.Context, spec Spec) *job {
	var j *job
	if n := len(c.idle); n > 0 {
		j = c.idle[n-1]
		c.idle = c.idle[:n-1]
	} else {
		j = &job{crew: c, wake: make(chan struct{}, 1)}
	}
	j.spec = spec
	j.ctx = &taskContext{parent: ctx} // tasks may keep it, so it is not reused
	d := dispatch.JobSpec{
		Tasks: spec.Tasks, Func: spec.Key, Chunk: spec.Chunk, Retries: spec.Retries, Ordered: !spec.Unordered && !spec.Quiet,
		Timed: spec.Limit > 0,
	}
	if spec.Tasks == dispatch.Unknown {
		d.Lazy, d.MaxTasks = true, streamMost
	}
	j.id = c.sched.Begin(d)
	c.jobs = append(c.jobs, j)
	c.calls++
	return j
}

// forget takes a call that nobody needs any more off the books.
func (c *Crew) forget(j *job) {
	c.sched.End(j.id)
	for i, other := range c.jobs {
		if other == j {
			c.jobs = append(c.jobs[:i], c.jobs[i+1:]...)
			break
		}
	}
	c.calls--
	reusable := !j.dirty && !j.lent && j.spec.Tasks != dispatch.Unknown
	if reusable {
		clear(j.failures)
		j.spec, j.ctx, j.expired, j.over, j.within = Spec{}, nil, nil, false, unknown
		j.caller.job = nil
		select {
		case <-j.wake:
		default:
		}
		c.idle = append(c.idle, j)
	}
	if c.closed {
		c.stopTicks()
	}
	c.leave()
}

// signal wakes the caller.
func (j *job) signal() {
	if j.asleep {
		j.asleep = false
		j.wake <- struct{}{}
	}
}

// cancel ends a call early: what is queued is dropped, what runs is told.
func (c *Crew) cancel(j *job, cause error) {
	if j.over {
		return
	}
	j.over = true
	c.sched.Cancel(j.id)
	for _, w := range j.running {
		w.at.stop.Store(true)
	}
	j.ctx.end(cause)
	j.dismiss()
	j.signal()
}

// settle takes answers of a quiet call.
func (c *Crew) settle(j *job) {
	for !j.over {
		d, ok := c.sched.Deliver(j.id)
		if !ok {
			break
		}
		f := j.failure(d)
		if !hand(j.spec.Work, d, f) {
			c.cancel(j, f.Err)
		}
		c.sched.Release(d.Chunk)
	}
	if j.over || c.sched.Finished(j.id) {
		j.signal()
	}
}

// failure is why the last task of a delivery failed, if it did.
func (j *job) failure(d dispatch.Delivery) Failure {
	if !d.Failed && !d.Lost {
		return Failure{}
	}
	f := j.failures[d.First+int64(d.Count)]
	f.Attempts = d.Attempts
	return f
}

// hand gives one delivery to the typed side.
func hand(work Work, d dispatch.Delivery, f Failure) bool {
	if d.Count > 0 && !work.Deliver(d.First, d.Count) {
		return false
	}
	return f.Err == nil || work.Fail(d.First+int64(d.Count), f)
}
