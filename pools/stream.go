package pools

import (
	"context"
	"errors"
	"iter"
	"sync"
	"unsafe"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/inproc"
)

// streamWork is the typed side of a Stream. Tasks and results lie in pages, which are made as tasks come and reused when all results in
// them have been taken: an endless stream needs as many as it has tasks under way.
type streamWork[T, R any] struct {
	sink[R]
	fn     func(context.Context, T) (R, error)
	source iter.Seq[T]
	yield  func(R, error) bool

	mu    sync.Mutex
	per   int64 // tasks in a page
	pages map[int64]*page[T, R]
	spare *page[T, R]
	tail  *page[T, R] // the source's, as is count
	count int64
}

type page[T, R any] struct {
	first   int64
	tasks   []T
	results []R
	left    int64       // not taken yet
	next    *page[T, R] // of those that are spare
}

const (
	// Beyond this size of a page nothing is won; large values are not kept longer than need be.
	pageBytes = 16 << 10
	pageMost  = 256
)

func stream[T, R any](ctx context.Context, p Pool, f Func[T, R], tasks iter.Seq[T], opts []Option, yield func(R, error) bool) {
	var none R
	var c call
	var out sink[R]
	err := plan(p, &f, opts, &c, &out)
	if err == nil && tasks == nil {
		err = errNilSequence
	}
	if err != nil {
		yield(none, err)
		return
	}
	var t T
	bytes := int64(unsafe.Sizeof(t) + unsafe.Sizeof(none))
	w := &streamWork[T, R]{
		sink: out, fn: f.fn, source: tasks, yield: yield, pages: make(map[int64]*page[T, R]),
		per: min(max(pageBytes/max(bytes, 1), 1), pageMost),
	}
	w.total = -1
	c.spec.Work, c.spec.Tasks, c.spec.Bytes = w, dispatch.Unknown, bytes
	c.coder, c.keep = w, w.keep
	if err := p.run(ctx, &c); err != nil {
		yield(none, public(err))
		return
	}
	if len(w.errs) > 0 { // the failure that ended it
		err := w.errs[0]
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			err = ctx.Err()
		}
		yield(none, err)
	}
}

// Feed implements inproc.Work.
func (w *streamWork[T, R]) Feed(stored func() bool) {
	for t := range w.source {
		p := w.tail
		if p == nil || w.count == p.first+w.per {
			p = w.addPage()
		}
		p.tasks[w.count-p.first] = t
		w.count++
		if !stored() {
			return
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.tail; p != nil { // what it lacks to be full will not come
		p.left -= p.first + w.per - w.count
		w.free(p)
	}
}

func (w *streamWork[T, R]) addPage() *page[T, R] {
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.tail; old != nil && old.left == 0 {
		w.recycle(old)
	}
	p := w.spare
	if p != nil {
		w.spare, p.next = p.next, nil
	} else {
		p = &page[T, R]{tasks: make([]T, w.per), results: make([]R, w.per)}
	}
	p.first, p.left = w.count, w.per
	w.pages[p.first/w.per] = p
	w.tail = p
	return p
}

// page finds the page of a task.
func (w *streamWork[T, R]) page(task int64) *page[T, R] {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pages[task/w.per]
}

// free takes a page back if all results in it were taken.
func (w *streamWork[T, R]) free(p *page[T, R]) {
	if p.left > 0 {
		return
	}
	delete(w.pages, p.first/w.per)
	if p != w.tail { // where the source still looks whether it is full
		w.recycle(p)
	}
}

func (w *streamWork[T, R]) recycle(p *page[T, R]) {
	clear(p.tasks)
	clear(p.results)
	p.next, w.spare = w.spare, p
}

// taken counts n results of a page that the consumer has got.
func (w *streamWork[T, R]) taken(p *page[T, R], n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p.left -= n
	w.free(p)
}

// Run implements inproc.Work.
func (w *streamWork[T, R]) Run(ctx context.Context, at *inproc.Cursor) error {
	var p *page[T, R]
	for {
		i, end, ok := at.Claim()
		if !ok {
			return nil
		}
		for ; i < end && !at.Stopped(); i++ {
			at.Task = i
			if p == nil || i >= p.first+w.per {
				p = w.page(i)
			}
			r, err := w.fn(ctx, p.tasks[i-p.first])
			if err != nil {
				return err
			}
			p.results[i-p.first] = r
		}
	}
}

// Call implements inproc.Work.
func (w *streamWork[T, R]) Call(ctx context.Context, task int64) (func(), error) {
	p := w.page(task)
	r, err := w.fn(ctx, p.tasks[task-p.first])
	return func() { p.results[task-p.first] = r }, err
}

// Deliver implements inproc.Work.
func (w *streamWork[T, R]) Deliver(first int64, n int) bool {
	for end := first + int64(n); first < end; {
		p := w.page(first)
		stop := min(end, p.first+w.per)
		for i := first; i < stop; i++ {
			r := p.results[i-p.first]
			if w.callback != nil {
				w.callback(int(i), r)
			}
			if !w.yield(r, nil) {
				return false
			}
		}
		w.taken(p, stop-first)
		first = stop
	}
	w.progressed(n)
	return true
}

// Fail implements inproc.Work.
func (w *streamWork[T, R]) Fail(task int64, f inproc.Failure) bool {
	err := taskError(task, f)
	if !w.keep {
		w.errs = append(w.errs, err)
		return false
	}
	w.taken(w.page(task), 1)
	var none R
	if !w.yield(none, err) {
		return false
	}
	w.progressed(1)
	return true
}
