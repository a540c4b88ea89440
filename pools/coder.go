package pools

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/codec"
)

// coder is the other half of a call's typed side: tasks and results as bytes. Ranges of tasks are as in inproc.Work.
type coder interface {
	// check says whether the types can travel at all.
	check() error
	// encode encodes tasks [first, first+n). An error is a *codec.ItemError.
	encode(e *codec.Encoder, first int64, n int) (codec.Payload, error)
	// decode stores the results of tasks [first, first+n). bad is called for each that cannot be had: see codec.Decode.
	decode(p codec.Payload, first int64, n int, bad func(task int64, record []byte, err error)) error
}

func checkTypes[T, R any]() error {
	if err := codec.Check(reflect.TypeFor[T]()); err != nil {
		return fmt.Errorf("%w: tasks: %w", ErrArgument, err)
	}
	if err := codec.Check(reflect.TypeFor[R]()); err != nil {
		return fmt.Errorf("%w: results: %w", ErrArgument, err)
	}
	return nil
}

func (w *sliceWork[T, R]) check() error { return checkTypes[T, R]() }

func (w *sliceWork[T, R]) encode(e *codec.Encoder, first int64, n int) (codec.Payload, error) {
	return codec.Encode(e, w.tasks[first:first+int64(n)], nil)
}

func (w *sliceWork[T, R]) decode(p codec.Payload, first int64, n int, bad func(int64, []byte, error)) error {
	return codec.Decode(p, w.results[first:first+int64(n)], func(i int, record []byte, err error) { bad(first+int64(i), record, err) })
}

func (w *streamWork[T, R]) check() error { return checkTypes[T, R]() }

func (w *streamWork[T, R]) encode(e *codec.Encoder, first int64, n int) (codec.Payload, error) {
	p := w.page(first)
	if at := first - p.first; at+int64(n) <= w.per {
		return codec.Encode(e, p.tasks[at:at+int64(n)], nil)
	}
	tasks := make([]T, n)
	for i := 0; i < n; {
		p := w.page(first + int64(i))
		i += copy(tasks[i:], p.tasks[first+int64(i)-p.first:])
	}
	return codec.Encode(e, tasks, nil)
}

func (w *streamWork[T, R]) decode(p codec.Payload, first int64, n int, bad func(int64, []byte, error)) error {
	results := make([]R, n)
	err := codec.Decode(p, results, func(i int, record []byte, err error) { bad(first+int64(i), record, err) })
	for i := 0; i < n; {
		p := w.page(first + int64(i))
		i += copy(p.results[first+int64(i)-p.first:], results[i:])
	}
	return err
}

// servant runs chunks of a registered function in another process.
type servant interface {
	open(p codec.Payload, count int) (opened, error)
}

// opened is a chunk of decoded tasks, and the results so far.
type opened interface {
	// call runs task i; the result is kept at i.
	call(ctx context.Context, i int) error
	// encode encodes results from `from` to before `to`, with error records in the place of some.
	encode(e *codec.Encoder, from, to int, failed map[int][]byte) (codec.Payload, error)
}

type goServant[T, R any] struct {
	fn func(context.Context, T) (R, error)
}

type goChunk[T, R any] struct {
	fn      func(context.Context, T) (R, error)
	tasks   []T
	results []R
}

func (s goServant[T, R]) open(p codec.Payload, count int) (opened, error) {
	c := &goChunk[T, R]{fn: s.fn, tasks: make([]T, count), results: make([]R, count)}
	var first error
	err := codec.Decode(p, c.tasks, func(i int, _ []byte, err error) {
		if first == nil {
			first = fmt.Errorf("task %d of the chunk: %w", i, err)
		}
	})
	return c, errors.Join(err, first)
}

func (c *goChunk[T, R]) call(ctx context.Context, i int) error {
	r, err := c.fn(ctx, c.tasks[i])
	c.results[i] = r
	return err
}

func (c *goChunk[T, R]) encode(e *codec.Encoder, from, to int, failed map[int][]byte) (codec.Payload, error) {
	return codec.Encode(e, c.results[from:to], failed)
}
