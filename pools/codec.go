package pools

import (
	"bytes"
	"context"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
)

// codec is the other half of a call's typed side: tasks and results as bytes. Ranges of tasks are as in inproc.Work.
type codec interface {
	// encode appends tasks [first, first+n) as n msgpack values. An error names the task that cannot be encoded.
	encode(dst *bytes.Buffer, first int64, n int) error
	// decode stores the results of tasks [first, first+n), n msgpack values.
	decode(src []byte, first int64, n int) error
}

// servant runs a registered function in another process: tasks come and results go as msgpack values.
type servant interface {
	// serve runs n tasks until one fails. done results lie in dst then, and err is the error of the next task.
	serve(ctx context.Context, src []byte, n int, dst *bytes.Buffer) (done int, err error)
}

type goServant[T, R any] struct {
	fn func(context.Context, T) (R, error)
}

func (s goServant[T, R]) serve(ctx context.Context, src []byte, n int, dst *bytes.Buffer) (done int, err error) {
	in, out := msgpack.NewDecoder(bytes.NewReader(src)), msgpack.NewEncoder(dst)
	for ; done < n; done++ {
		var task T
		if err := in.Decode(&task); err != nil {
			return done, fmt.Errorf("the task cannot be read as %T: %w", task, err)
		}
		r, err := s.fn(ctx, task)
		if err != nil {
			return done, err
		}
		size := dst.Len()
		if err := out.Encode(r); err != nil {
			dst.Truncate(size)
			return done, fmt.Errorf("the result, a %T, cannot be encoded: %w", r, err)
		}
	}
	return done, nil
}

// cells gives access to tasks and results by index.
type cells[T, R any] interface {
	task(i int64) *T
	result(i int64) *R
}

func encode[T, R any](c cells[T, R], dst *bytes.Buffer, first int64, n int) error {
	out := msgpack.NewEncoder(dst)
	for i := first; i < first+int64(n); i++ {
		if err := out.Encode(*c.task(i)); err != nil {
			return fmt.Errorf("task %d, a %T, cannot be encoded: %w", i, *c.task(i), err)
		}
	}
	return nil
}

func decode[T, R any](c cells[T, R], src []byte, first int64, n int) error {
	in := msgpack.NewDecoder(bytes.NewReader(src))
	for i := first; i < first+int64(n); i++ {
		if err := in.Decode(c.result(i)); err != nil {
			return fmt.Errorf("the result of task %d cannot be read as %T: %w", i, *c.result(i), err)
		}
	}
	return nil
}
