//go:build linux && (amd64 || arm64)

package pools

import (
	"runtime/debug"
	"sync"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/inproc"
)

// feeder draws the tasks of a call of unknown length on a goroutine of its own: a source may wait, for input or for what the consumer does
// with results, and neither must keep results that are ready from the consumer.
type feeder struct {
	kick func() // wakes the consumer's goroutine

	mu      sync.Mutex
	room    sync.Cond
	drawn   int64
	limit   int64 // how far it may draw
	ahead   int64 // most tasks drawn and not settled, 0: as chunks need them
	done    int64 // tasks settled
	starved bool  // the consumer waits for a task
	left    bool  // nobody wants more
	ended   bool
	err     error
	gone    chan struct{}
}

func feed(spec inproc.Spec, kick func()) *feeder {
	f := &feeder{kick: kick, ahead: int64(spec.Ahead), limit: 1, gone: make(chan struct{})}
	f.room.L = &f.mu
	go f.draw(spec.Work)
	return f
}

func (f *feeder) draw(work inproc.Work) {
	defer close(f.gone)
	done := false
	var err error
	defer func() {
		if !done {
			err = inproc.ErrGoexit
			if v := recover(); v != nil {
				err = &inproc.Panic{Value: v, Stack: debug.Stack()}
			}
		}
		f.mu.Lock()
		f.ended, f.err = true, err
		starved := f.starved
		f.mu.Unlock()
		if starved {
			f.kick()
		}
	}()
	work.Feed(f.stored)
	done = true
}

// stored counts a task, and waits for room for the next.
func (f *feeder) stored() bool {
	f.mu.Lock()
	f.drawn++
	if f.starved {
		f.starved = false
		f.mu.Unlock()
		f.kick()
		f.mu.Lock()
	}
	for f.drawn >= f.limit && !f.left {
		f.room.Wait()
	}
	left := f.left
	f.mu.Unlock()
	return !left
}

// take says how many of count tasks from first on there are, and whether they are the last. With none, and more to come, the consumer is
// woken by the next one.
func (f *feeder) take(first int64, count int) (n int, last bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n = int(min(max(f.drawn-first, 0), int64(count)))
	if f.ended {
		return n, first+int64(n) >= f.drawn
	}
	f.starved = n == 0
	// One chunk beyond this one: it is there when the next offer comes.
	f.allow(first + 2*int64(count))
	return n, false
}

func (f *feeder) allow(limit int64) {
	if f.ahead > 0 {
		limit = min(limit, f.done+f.ahead)
	}
	if limit > f.limit {
		f.limit = limit
		f.room.Signal()
	}
}

// settled tells that the consumer has n more results.
func (f *feeder) settled(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done += n
	if f.ahead > 0 {
		f.allow(f.done + f.ahead)
	}
}

// failure is how the source ended, to be told behind the last result.
func (f *feeder) failure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// dismiss ends the drawing, and may wait until the source has returned from its present step.
func (f *feeder) dismiss(wait bool) {
	f.mu.Lock()
	f.left = true
	f.room.Signal()
	f.mu.Unlock()
	if wait {
		<-f.gone
	}
}
