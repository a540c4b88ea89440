package pools

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/inproc"
)

var (
	// ErrClosed is the error of calls on a closed pool.
	ErrClosed = inproc.ErrClosed
	// ErrArgument is the error of calls with an option, a number or a function that makes no sense; nothing has run then.
	ErrArgument = errors.New("pools: bad argument")
	// ErrNotRegistered is the error of maps over other processes with a function that they cannot know.
	ErrNotRegistered = errors.New("pools: function not registered")
	// ErrUnavailable is the error of pools that cannot be had here: without MPI, or without what a function needs.
	ErrUnavailable = errors.New("pools: not available")
	// ErrTaskTimeout is what every [*TimeoutError] is, for errors.Is.
	ErrTaskTimeout = errors.New("time limit of the task exceeded")
	// ErrGoexit is the error of a task that called runtime.Goexit, as t.FailNow does. A task that runs on the caller's goroutine
	// ends that one instead, as any function does.
	ErrGoexit = inproc.ErrGoexit
)

// errNilSequence is the error of a Stream over nothing.
var errNilSequence = fmt.Errorf("%w: the sequence of tasks is nil", ErrArgument)

// joined is all errors in the order of their tasks.
func joined(errs []error) error {
	slices.SortStableFunc(errs, func(a, b error) int { return indexOf(a) - indexOf(b) })
	return errors.Join(errs...)
}

func indexOf(err error) int {
	var t *TaskError
	if errors.As(err, &t) {
		return t.Index
	}
	return -1
}

// TaskError is the failure of one task: which, where, and why. errors.Is and errors.As look into Err.
type TaskError struct {
	Index    int    // of the task, from 0
	Attempts int    // how often it was tried
	Worker   string // who ran it last, in words
	Pid      int    // of the worker's process
	Rank     int    // of its MPI process, -1 where there is no MPI
	Host     string
	Err      error
}

func (e *TaskError) Error() string {
	tried := ""
	if e.Attempts > 1 {
		tried = fmt.Sprintf(", attempt %d", e.Attempts)
	}
	return fmt.Sprintf("task %d (%s%s): %v", e.Index, e.Worker, tried, e.Err)
}

// Unwrap gives the cause.
func (e *TaskError) Unwrap() error { return e.Err }

// PanicError is a panic in a task. Its message is short; format it with %+v, or print Stack, to see where it came from.
type PanicError struct {
	Value any
	Stack []byte // of the goroutine that panicked
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// Format prints the stack, too, for %+v.
func (e *PanicError) Format(f fmt.State, verb rune) {
	switch {
	case verb == 'v' && f.Flag('+'):
		fmt.Fprintf(f, "%s\n\n%s", e.Error(), e.Stack)
	case verb == 'q':
		fmt.Fprintf(f, "%q", e.Error())
	default:
		fmt.Fprint(f, e.Error())
	}
}

// Unwrap gives the panic's value where it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// TimeoutError is a task that did not end within its time. It is [ErrTaskTimeout] for errors.Is.
type TimeoutError struct {
	Limit time.Duration
	Err   error // what the task returned when its context ended; nil: it went on
}

func (e *TimeoutError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("time limit of %v exceeded; the task ignores its context", e.Limit)
	}
	return fmt.Sprintf("time limit of %v exceeded", e.Limit)
}

// Unwrap gives the sentinel and what the task returned.
func (e *TimeoutError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrTaskTimeout}
	}
	return []error{ErrTaskTimeout, e.Err}
}

// Timeout makes it a net.Error's kin: true.
func (e *TimeoutError) Timeout() bool { return true }

// taskError makes the public form of a failure.
func taskError(task int64, f inproc.Failure) error {
	if e, ok := f.Err.(*TaskError); ok && f.Attempts == 0 { // a pool of other processes knows more than we do
		return e
	}
	worker := "on the caller's goroutine"
	if f.Worker > 0 {
		worker = fmt.Sprintf("on goroutine %d", f.Worker)
	}
	return &TaskError{
		Index: int(task), Attempts: f.Attempts, Worker: worker, Pid: os.Getpid(), Rank: -1, Host: host(), Err: public(f.Err),
	}
}

var host = sync.OnceValue(func() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown host"
	}
	return name
})

// public is the exported form of an error of the package inproc.
func public(err error) error {
	switch e := err.(type) {
	case *inproc.Panic:
		return &PanicError{Value: e.Value, Stack: e.Stack}
	case *inproc.Overrun:
		if e.Err == nil {
			return &TimeoutError{Limit: e.Limit}
		}
		return &TimeoutError{Limit: e.Limit, Err: public(e.Err)}
	}
	return err
}
