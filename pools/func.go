package pools

import (
	"context"
	"fmt"
	"iter"
	"reflect"
)

// Func is a function that pools can map. Make one with [F], for any Go function, or with [Register], for one that the workers of
// other processes can run as well. It is small, immutable, and may be used from several goroutines.
type Func[T, R any] struct {
	fn   func(context.Context, T) (R, error)
	desc *function // nil: a closure, which only goroutines can run
	key  uint32    // under which the time that its tasks take is remembered
}

// function is what a pool needs to know of a Func, without its types.
type function struct {
	kind   kind
	name   string      // as registered, or of the Python function
	python *pythonFunc // of kind python
}

type kind int

const (
	closure kind = iota
	registered
	python
)

// anonymous is the description of all Go closures.
var anonymous = &function{kind: closure}

// F makes a Go function mappable. Pools whose workers are other processes cannot run it: see [Register].
//
// fn gets a context that ends when the call is not wanted any more: the caller's context has ended, another task has failed, the
// task's time is over, the loop over results was left. It may run on several goroutines at once.
//
// The time that its tasks take is remembered by the function's code, so closures made by the same lines of a program share it.
func F[T, R any](fn func(context.Context, T) (R, error)) Func[T, R] {
	return Func[T, R]{fn: fn, key: keyOf(fn)}
}

// keyOf tells functions apart by their code. Two that collide share an estimate of time, which corrects itself.
func keyOf(fn any) uint32 {
	v := reflect.ValueOf(fn)
	if v.IsNil() {
		return 0
	}
	pc := uint64(v.Pointer())
	return uint32(pc) ^ uint32(pc>>32)
}

func (f Func[T, R]) describe() (*function, error) {
	switch {
	case f.desc != nil:
		return f.desc, nil
	case f.fn == nil:
		return nil, fmt.Errorf("%w: the function to map is nil", ErrArgument)
	}
	return anonymous, nil
}

// Map runs the function over all tasks and returns the results in their order.
//
// The first task that fails ends the call: its error is returned, as a [*TaskError], results are nil, tasks that run are told by their
// context and waited for, the others are not started. With [ContinueOnError] all tasks run, results of failed ones are zero values,
// and the error joins all of theirs, in their order. If ctx ends first, its error is returned, and what ran on without heeding its
// own context for 50 ms is left behind: it touches no result that the caller sees, and Close waits for it.
//
// Tasks may run on the caller's goroutine, too. There is one allocation for the results and a few for the call, none per task. Costs
// on goroutines: 1 us for a map of 16 tiny tasks, 1 to 2 ns for each of a million, beside the calls of the function.
func (f Func[T, R]) Map(ctx context.Context, p Pool, tasks []T, opts ...Option) ([]R, error) {
	return mapSlice(ctx, p, f, tasks, opts)
}

// Stream runs the function over a sequence of tasks, which may be endless, and yields results as they come, in the order of the
// tasks or, with [Unordered], of completion. Nothing happens before the loop over it starts, and leaving the loop ends everything.
//
// Tasks are drawn as workers need them, a bounded number ahead of the results that the loop has taken. On all pools but SerialPool
// the sequence runs on a goroutine of its own, at the same time as the body of the loop. It may wait, for input or for what the body
// does; the loop gets each result as soon as there is one. When the loop is left, Stream waits for the sequence to return from its
// present step: one that may wait for long should watch ctx.
//
// A failed task yields its error, as a [*TaskError], and ends the loop; with [ContinueOnError] it goes on. The end of ctx yields
// its error. Costs: 2 us for the call, 20 to 50 ns for a tiny task.
func (f Func[T, R]) Stream(ctx context.Context, p Pool, tasks iter.Seq[T], opts ...Option) iter.Seq2[R, error] {
	return func(yield func(R, error) bool) { stream(ctx, p, f, tasks, opts, yield) }
}

// Map runs fn over all tasks: F(fn).Map.
func Map[T, R any](ctx context.Context, p Pool, fn func(context.Context, T) (R, error), tasks []T, opts ...Option) ([]R, error) {
	return mapSlice(ctx, p, F(fn), tasks, opts)
}

// Stream runs fn over a sequence of tasks: F(fn).Stream.
func Stream[T, R any](
	ctx context.Context, p Pool, fn func(context.Context, T) (R, error), tasks iter.Seq[T], opts ...Option,
) iter.Seq2[R, error] {
	return F(fn).Stream(ctx, p, tasks, opts...)
}

// ForEach runs fn over all tasks, for what it does. Errors are those of [Func.Map].
func ForEach[T any](ctx context.Context, p Pool, fn func(context.Context, T) error, tasks []T, opts ...Option) error {
	f := Func[T, struct{}]{key: keyOf(fn)}
	if fn != nil {
		f.fn = func(ctx context.Context, task T) (struct{}, error) { return struct{}{}, fn(ctx, task) }
	}
	_, err := mapSlice(ctx, p, f, tasks, opts)
	return err
}
