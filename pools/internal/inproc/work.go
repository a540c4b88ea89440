package inproc

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Work is the typed side of one call: it owns tasks and results, by the index of the task.
type Work interface {
	// Run runs tasks as long as the cursor lets it claim some, and stores their results. It returns the error of the first task
	// that fails, which is at.Task then. Called on any goroutine, for different tasks at once.
	Run(ctx context.Context, at *Cursor) error
	// Call runs one task, and returns what stores its result, which is not called if nobody waits for it any more.
	Call(ctx context.Context, task int64) (store func(), err error)
	// Deliver takes n tasks from first on, which have succeeded, for done. It returns false to give the call up. It is called
	// on the caller's goroutine; for a Quiet call under the crew's lock.
	Deliver(first int64, n int) bool
	// Fail does the same with a task that has failed for good.
	Fail(task int64, f Failure) bool
	// Feed draws all tasks of a call of Unknown length, calls stored after each and ends early when that returns false. It runs
	// on a goroutine of its own.
	Feed(stored func() bool)
}

// Spec describes a call.
type Spec struct {
	Work      Work
	Tasks     int64         // how many, or dispatch.Unknown
	Key       uint32        // under which the time that its tasks take is remembered; 0: do not
	Chunk     int           // tasks per chunk, 0: adaptive
	Retries   int           // how often a failed task is tried again
	Unordered bool          // deliver as answers come
	Quiet     bool          // nothing but failures is of interest, so deliveries need not come on the caller's goroutine
	Limit     time.Duration // for each task, 0: none
	Ahead     int           // most tasks drawn and not delivered, 0: as chunks need them
	Bytes     int64         // size of a task and its result, without what they refer to
}

// Failure is why a task failed, after how many attempts, and which worker ran it: 0 for the caller itself. Attempts is 0 only where
// another transport has made Err complete.
type Failure struct {
	Err      error
	Attempts int
	Worker   int
}

// Panic is a panic in a task.
type Panic struct {
	Value any
	Stack []byte
}

func (p *Panic) Error() string { return fmt.Sprintf("panic: %v", p.Value) }

// Overrun is the end of a task's time. Err is what the task itself returned; nil: it went on, and was left behind.
type Overrun struct {
	Limit time.Duration
	Err   error
}

func (o *Overrun) Error() string { return fmt.Sprintf("time limit of %v exceeded", o.Limit) }

var (
	// ErrClosed is returned by calls on a closed crew.
	ErrClosed = errors.New("the pool is closed")
	// ErrGoexit is the failure of a task that called runtime.Goexit.
	ErrGoexit = errors.New("the task called runtime.Goexit (t.FailNow does)")
	// ErrWithin is returned by Close when it cannot wait.
	ErrWithin = errors.New("closed from within a task or a loop over results, so that what runs could not be waited for; new calls are refused")
)
