package inproc

import (
	"context"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
)

// worker is who runs a chunk: a goroutine of the crew's, or a caller.
type worker struct {
	at    Cursor
	job   *job // nil: no chunk
	chunk dispatch.ChunkID
	first int64
	count int // tasks, less those that were taken over
	index int // in job.running
	began time.Duration

	name  int  // 0: a caller
	token bool // holds one: all but callers, who keep theirs in the job, and stand-ins
	bound *job // a stand-in: works for this call only
	stuck bool // left behind: what comes back is of no interest
	fresh bool // came back from its chunk, false while user code runs

	state atomic.Int32 // of the task, where it has a time limit
	since atomic.Int64 // when it began, ns on the crew's clock
}

// hire starts a worker with a token.
func (c *Crew) hire() {
	w := c.recruit()
	c.free--
	w.token = true
	w.name = c.names[len(c.names)-1]
	c.names = c.names[:len(c.names)-1]
	go c.serve(w)
}

// lend starts a stand-in for a caller who is a task himself: his token is of no use to him while he waits.
func (c *Crew) lend(j *job) {
	if !j.lent {
		j.lent = true
		w := c.recruit()
		w.bound = j
		go c.serve(w)
	}
}

func (c *Crew) recruit() *worker {
	c.alive++
	w := new(worker)
	if n := len(c.spare); n > 0 {
		w = c.spare[n-1]
		c.spare = c.spare[:n-1]
	}
	w.fresh = true
	return w
}

// serve is a worker's life: chunks of any call, until there are none.
func (c *Crew) serve(w *worker) {
	c.mu.Lock()
	defer func() {
		if !w.fresh { // runtime.Goexit in a task ends this goroutine, too
			c.mu.Lock()
		}
		c.alive--
		c.dismissed(w)
		c.leave()
		c.mu.Unlock()
	}()
	for !w.stuck && c.next(w) {
		c.run(w)
	}
}

// dismissed takes back what a worker held. There may be work again, if it left in the middle of it.
func (c *Crew) dismissed(w *worker) {
	if w.stuck {
		c.ticks.stuck--
		return
	}
	if j := w.bound; j != nil {
		j.lent = false
		j.signal()
	}
	if w.token {
		c.names = append(c.names, w.name)
		w.token = false
		c.free++
	}
	w.bound = nil
	c.spare = append(c.spare, w)
	if !w.fresh {
		c.muster()
	}
}

// next finds a chunk for a worker: first what nobody runs, then half of what somebody else does.
func (c *Crew) next(w *worker) bool {
	if w.bound != nil {
		return c.take(w, w.bound) || c.steal(w, w.bound)
	}
	n := len(c.jobs)
	for i := range n {
		k := (c.turn + i) % n
		if c.take(w, c.jobs[k]) {
			c.turn = k + 1
			return true
		}
	}
	for _, j := range c.jobs {
		if c.steal(w, j) {
			return true
		}
	}
	return false
}

// take gets the worker the next chunk of a call.
func (c *Crew) take(w *worker, j *job) bool {
	if j.over {
		return false
	}
	o, ok := c.offer(j)
	if !ok {
		return false
	}
	c.sched.Submit(o.Chunk, o.Count, j.spec.Bytes*int64(o.Count), false)
	w.job, w.chunk, w.first, w.count = j, o.Chunk, o.First, o.Count
	w.state.Store(taskNone) // a task that ended its goroutine left it
	w.at.reset(o.First, o.Count, c.step(j, o.Count))
	w.index = len(j.running)
	j.running = append(j.running, w)
	if j.spec.Tasks == dispatch.Unknown && c.free > 0 && j.drawn.Load() > j.taken {
		c.staff(j) // whoever draws tells of the first task only
	}
	return true
}

// step is how many tasks are claimed at once. A claim costs 5 ns, so it is one but for tasks of less than a microsecond, and
// never more than a small part of the chunk.
func (c *Crew) step(j *job, count int) int {
	t := c.sched.TaskTime(j.id)
	if t <= 0 || t > 1000 || j.spec.Limit > 0 {
		return 1
	}
	return max(1, min(count/64, 64, int(1000/t)))
}

// run runs the chunk that the worker has. The crew is locked before and after, not meanwhile.
func (c *Crew) run(w *worker) {
	j := w.job
	w.fresh = false
	w.began = c.now()
	c.mu.Unlock()
	defer func() {
		if !w.fresh { // runtime.Goexit: this goroutine ends
			c.mu.Lock()
			c.answer(w, ErrGoexit)
			c.mu.Unlock()
		}
	}()
	var err error
	if j.spec.Limit > 0 {
		err = c.timed(w, j)
	} else {
		err = runTasks(j.ctx, j.spec.Work, &w.at)
	}
	c.mu.Lock()
	w.fresh = true
	c.answer(w, err)
}

// runTasks runs what the worker's cursor lets it, and makes a panic an error. Its frame on a stack tells that a task is running.
//
//go:noinline
func runTasks(ctx context.Context, work Work, at *Cursor) (err error) {
	done := false
	defer func() {
		if !done {
			if v := recover(); v != nil { // nil: runtime.Goexit
				err = &Panic{v, debug.Stack()}
			}
		}
	}()
	err = work.Run(ctx, at)
	done = true
	return err
}

// callTask is the same for one task under a time limit.
//
//go:noinline
func callTask(ctx context.Context, work Work, task int64) (store func(), err error) {
	done := false
	defer func() {
		if !done {
			if v := recover(); v != nil {
				err = &Panic{v, debug.Stack()}
			}
		}
	}()
	store, err = work.Call(ctx, task)
	done = true
	return store, err
}

// answer tells the scheduler what became of a chunk.
func (c *Crew) answer(w *worker, err error) {
	if w.stuck {
		return // it was told that nobody waits; the call may be long gone
	}
	j := w.job
	out := dispatch.Outcome{Done: w.count, Elapsed: int64(max(c.now()-w.began, 1))}
	if err != nil {
		out.Done, out.Failed = int(w.at.Task-w.first), true
		j.fail(w.at.Task, Failure{Err: err, Worker: w.name})
	}
	out.Bytes = j.spec.Bytes * int64(out.Done)
	c.sched.Done(w.chunk, out)
	c.land(w)
	if err != nil && !j.over {
		// If the caller has not noticed yet that he is to leave: the task may have failed for that, and must not be tried again.
		if j.expired = j.ctx.parent.Err(); j.expired != nil {
			c.cancel(j, context.Cause(j.ctx.parent))
		}
	}
	switch {
	case j.over:
		if len(j.running) == 0 {
			j.signal()
		}
	case j.spec.Quiet:
		c.settle(j)
	default:
		j.signal()
	}
}

func (j *job) fail(task int64, f Failure) {
	if j.over {
		return
	}
	if j.failures == nil {
		j.failures = make(map[int64]Failure)
	}
	j.failures[task] = f
}

// land takes a worker off its job's list.
func (c *Crew) land(w *worker) {
	j := w.job
	last := len(j.running) - 1
	moved := j.running[last]
	j.running[w.index], moved.index = moved, w.index
	j.running[last] = nil
	j.running = j.running[:last]
	w.job = nil
}

// steal cuts off half of the unclaimed tasks of some chunk in flight, and takes them.
func (c *Crew) steal(w *worker, j *job) bool {
	if j.over || j.spec.Chunk > 0 {
		return false
	}
	now := c.now()
	var victim *worker
	most := float64(stealLeast)
	for _, v := range j.running {
		if v == w {
			continue
		}
		if t := c.remains(v, now); t > most {
			victim, most = v, t
		}
	}
	if victim == nil {
		return false
	}
	keep, ok := victim.at.cut()
	if !ok {
		return false
	}
	if !c.sched.Shrink(victim.chunk, keep) {
		panic("inproc: a chunk in flight could not be shortened")
	}
	victim.count = keep
	return c.take(w, j)
}

// remains is how long a worker is expected to be busy with tasks that it has not begun, in ns. What its first tasks took counts
// more than what others of their kind took: they are the ones that wait.
func (c *Crew) remains(w *worker, now time.Duration) float64 {
	left := w.at.left()
	if left == 0 {
		return 0
	}
	each := c.sched.TaskTime(w.job.id)
	if n := w.at.claimed(); n > 0 {
		each = max(each, float64(now-w.began)/float64(n))
	}
	return each * float64(left)
}

// offer asks for the next chunk of a call.
func (c *Crew) offer(j *job) (dispatch.Offer, bool) {
	if j.spec.Tasks != dispatch.Unknown {
		return c.sched.Offer(j.id)
	}
	return c.offerDrawn(j)
}
