package pools

import (
	"fmt"
	"time"
)

// Option changes one call of Map, Stream or ForEach.
type Option func(*options)

type options struct {
	unordered bool
	keepGoing bool
	chunk     int
	retries   int
	limit     time.Duration
	callback  any // func(int, R)
	progress  func(done, total int)
	err       error
}

func (o *options) refuse(format string, args ...any) {
	if o.err == nil {
		o.err = fmt.Errorf("%w: "+format, append([]any{ErrArgument}, args...)...)
	}
}

func parse(opts []Option) (o options) {
	for _, set := range opts {
		if set != nil {
			set(&o)
		}
	}
	return o
}

// Ordered hands results over in the order of the tasks: the default. Map returns them in that order in any case.
func Ordered() Option { return func(o *options) { o.unordered = false } }

// Unordered hands results over, to Callback or the loop over a Stream, in the order in which tasks end: none waits for a slower one
// before it.
func Unordered() Option { return func(o *options) { o.unordered = true } }

// ChunkSize fixes how many tasks, at least 1, a worker takes at once. By default that follows the time that tasks take, and an idle
// worker takes over half of what another has left; a fixed chunk is run by one worker.
func ChunkSize(n int) Option {
	return func(o *options) {
		if o.chunk = n; n < 1 {
			o.refuse("ChunkSize(%d): a chunk has at least 1 task", n)
		}
	}
}

// Retries is how often a task that failed, panicked, ran out of time or lost its worker is tried again, at once. Default 0.
func Retries(n int) Option {
	return func(o *options) {
		if o.retries = n; n < 0 {
			o.refuse("Retries(%d): must not be negative", n)
		}
	}
}

// TaskTimeout limits the time of each task. Its context ends then, and the task fails with a [*TimeoutError]. One that has not
// returned 50 ms later is left behind: on goroutines nothing can stop it, so it runs on beside the pool's workers until it
// returns, and Close waits for it. SerialPool waits for the task itself. Cost on goroutines: about 1 us per task.
func TaskTimeout(d time.Duration) Option {
	return func(o *options) {
		if o.limit = d; d <= 0 {
			o.refuse("TaskTimeout(%v): must be positive", d)
		}
	}
}

// ContinueOnError runs all tasks whatever fails. Map then returns the results that there are, with zero values for failed tasks, and
// an error that joins one [*TaskError] for each of these in the order of the tasks; Stream yields errors in their places.
func ContinueOnError() Option { return func(o *options) { o.keepGoing = true } }

// Callback is called with each result, and the index of its task, on the goroutine that called Map or loops over a Stream: in the order
// of the tasks, or with [Unordered] in that of completion. R must be the result type of the function. A panic in it ends the call
// and goes on to the caller.
func Callback[R any](fn func(index int, result R)) Option {
	return func(o *options) {
		if fn == nil {
			o.refuse("Callback(nil)")
			return
		}
		o.callback = fn
	}
}

// OnProgress is called with the number of tasks that have ended, failed ones included, and of all tasks, -1 if unknown: on the caller's
// goroutine, each time some have, which is once per chunk and not once per task.
func OnProgress(fn func(done, total int)) Option {
	return func(o *options) {
		if o.progress = fn; fn == nil {
			o.refuse("OnProgress(nil)")
		}
	}
}

// PoolOption changes how a pool is made.
type PoolOption func(*poolConfig)

type poolConfig struct {
	ahead     int  // PreDispatch
	processes bool // Processes
	maxTasks  int  // MaxTasksPerProcess
	python    *string
	beside    int // WorkersPerRank
	err       error
}

func (c *poolConfig) refuse(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: "+format, append([]any{ErrArgument}, args...)...)
	}
}

func configure(opts []PoolOption) (c poolConfig) {
	for _, set := range opts {
		if set != nil {
			set(&c)
		}
	}
	return c
}

// only refuses options that this kind of pool has no use for. A pool that has takes them out first.
func (c *poolConfig) only(kind string) {
	if c.ahead != 0 {
		c.refuse("PreDispatch is for a JoblibPool, not a %s", kind)
	}
	if c.processes || c.maxTasks != 0 {
		c.refuse("Processes and MaxTasksPerProcess are for a MultiPool, JoblibPool or MPIPool, not a %s", kind)
	}
	if c.python != nil || c.beside != 0 {
		c.refuse("PythonWorkers and WorkersPerRank are for an MPIPool, not a %s", kind)
	}
}
