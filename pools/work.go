package pools

import (
	"context"
	"errors"
	"fmt"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/inproc"
)

// sink is what both kinds of call do with results and failures.
type sink[R any] struct {
	callback func(int, R)
	progress func(done, total int)
	keep     bool // go on after failures
	done     int
	total    int
	errs     []error
}

func (o *sink[R]) progressed(n int) {
	o.done += n
	if o.progress != nil && n > 0 {
		o.progress(o.done, o.total)
	}
}

// plan checks a call's options, and fills in what they say.
func plan[T, R any](p Pool, f *Func[T, R], opts []Option, c *call, out *sink[R]) (err error) {
	if p == nil {
		return fmt.Errorf("%w: the pool is nil", ErrArgument)
	}
	if c.function, err = f.describe(); err != nil {
		return err
	}
	c.spec.Key = f.key
	if len(opts) == 0 {
		return nil
	}
	o := parse(opts)
	if o.err != nil {
		return o.err
	}
	if o.callback != nil {
		callback, ok := o.callback.(func(int, R))
		if !ok {
			var r R
			return fmt.Errorf("%w: the callback is a %T, but results are %T", ErrArgument, o.callback, r)
		}
		out.callback = callback
	}
	out.progress, out.keep = o.progress, o.keepGoing
	c.spec.Chunk, c.spec.Retries, c.spec.Unordered, c.spec.Limit = o.chunk, o.retries, o.unordered, o.limit
	return nil
}

// sliceWork is the typed side of a Map.
type sliceWork[T, R any] struct {
	sink[R]
	call    call // here to be one allocation
	fn      func(context.Context, T) (R, error)
	tasks   []T
	results []R
	ready   []span // with keep: what has been delivered
}

// span is the tasks from first on, before end.
type span struct{ first, end int64 }

func mapSlice[T, R any](ctx context.Context, p Pool, f Func[T, R], tasks []T, opts []Option) ([]R, error) {
	w := &sliceWork[T, R]{fn: f.fn, tasks: tasks}
	c := &w.call
	if err := plan(p, &f, opts, c, &w.sink); err != nil {
		return nil, err
	}
	w.results = make([]R, len(tasks))
	w.total = len(tasks)
	c.spec.Work, c.spec.Tasks = w, int64(len(tasks))
	c.spec.Quiet = w.callback == nil && w.progress == nil
	c.coder, c.keep = w, w.keep
	err := p.run(ctx, c)
	switch {
	case err != nil && w.keep && ctx.Err() != nil:
		return w.rescued(), errors.Join(joined(w.errs), err)
	case err != nil:
		return nil, err
	case len(w.errs) == 0:
		return w.results, nil
	case w.keep:
		return w.results, joined(w.errs)
	case ctx.Err() != nil && errors.Is(w.errs[0], ctx.Err()):
		return nil, ctx.Err() // the task was only the first to notice
	}
	return nil, w.errs[0]
}

// Run implements inproc.Work: the loop in which tiny tasks spend their time.
func (w *sliceWork[T, R]) Run(ctx context.Context, at *inproc.Cursor) error {
	fn, tasks, results := w.fn, w.tasks, w.results
	for {
		i, end, ok := at.Claim()
		if !ok {
			return nil
		}
		for ; i < end && !at.Stopped(); i++ {
			at.Task = i
			r, err := fn(ctx, tasks[i])
			if err != nil {
				return err
			}
			results[i] = r
		}
	}
}

// Call implements inproc.Work.
func (w *sliceWork[T, R]) Call(ctx context.Context, task int64) (func(), error) {
	r, err := w.fn(ctx, w.tasks[task])
	return func() { w.results[task] = r }, err
}

// Deliver implements inproc.Work.
func (w *sliceWork[T, R]) Deliver(first int64, n int) bool {
	if w.callback != nil {
		for i := first; i < first+int64(n); i++ {
			w.callback(int(i), w.results[i])
		}
	}
	if w.keep {
		w.note(first, n)
	}
	w.progressed(n)
	return true
}

// note remembers which results are there; neighbours in order of arrival share an entry.
func (w *sliceWork[T, R]) note(first int64, n int) {
	if last := len(w.ready) - 1; last >= 0 && w.ready[last].end == first {
		w.ready[last].end += int64(n)
		return
	}
	w.ready = append(w.ready, span{first, first + int64(n)})
}

// rescued is a copy of the results that were delivered: tasks that were left behind may still write the others.
func (w *sliceWork[T, R]) rescued() []R {
	results := make([]R, len(w.results))
	for _, s := range w.ready {
		copy(results[s.first:s.end], w.results[s.first:s.end])
	}
	return results
}

// Fail implements inproc.Work.
func (w *sliceWork[T, R]) Fail(task int64, f inproc.Failure) bool {
	w.errs = append(w.errs, taskError(task, f))
	if w.keep {
		w.progressed(1)
	}
	return w.keep
}

// Feed implements inproc.Work, for calls of Unknown length: this is none.
func (w *sliceWork[T, R]) Feed(func() bool) { panic("pools: a slice is not fed") }
