package inproc

import (
	"context"
	"sync"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
)

const (
	// A serial call looks at its context after so much work.
	serialLook = 50 * time.Microsecond
	serialMost = 4096
)

// Solo is a crew of nobody: calls run on their callers' goroutines, task by task. Its zero value is ready for use.
type Solo struct {
	mu     sync.Mutex
	calls  int
	closed bool
	gone   chan struct{}
}

// Do runs a call as that of a Crew does. Each result is handed over before the next task starts, and a source is drawn as tasks
// run. A task that ignores the end of its context is waited for.
func (c *Solo) Do(ctx context.Context, spec Spec) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ErrClosed
	}
	c.calls++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.calls--
		if c.closed && c.calls == 0 {
			close(c.gone)
		}
	}()
	return run(ctx, spec)
}

// Close refuses new calls and waits for the present ones, as that of a Crew does.
func (c *Solo) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		c.gone = make(chan struct{})
		if c.calls == 0 {
			close(c.gone)
		}
	}
	done := c.calls == 0
	c.mu.Unlock()
	if !done && within(true) {
		return ErrWithin
	}
	<-c.gone
	return nil
}

// State tells how many calls are under way.
func (c *Solo) State() (calls int, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls, c.closed
}

func run(ctx context.Context, spec Spec) error {
	s := &serial{caller: ctx, ctx: taskContext{parent: ctx}, spec: spec}
	defer func() { s.ctx.end(nil) }()
	if spec.Tasks == dispatch.Unknown {
		spec.Work.Feed(func() bool { return s.step(1) })
	} else {
		s.all()
	}
	return s.err
}

// serial is one call.
type serial struct {
	caller context.Context
	ctx    taskContext
	spec   Spec
	at     Cursor
	next   int64 // task
	err    error
}

// all runs tasks of a known number. Where nobody looks at single results they are handed over by the piece, as large as the
// caller's context allows.
func (s *serial) all() {
	if s.spec.Quiet && s.caller.Done() == nil {
		for s.next < s.spec.Tasks && s.step(min(s.spec.Tasks-s.next, cursorMost)) {
		}
		return
	}
	piece := int64(1)
	for s.next < s.spec.Tasks {
		begin := time.Now()
		if !s.step(min(piece, s.spec.Tasks-s.next)) {
			return
		}
		if s.spec.Quiet {
			if time.Since(begin) < serialLook {
				piece = min(2*piece, serialMost)
			} else {
				piece = max(piece/2, 1)
			}
		}
	}
}

// step runs the next n tasks, and hands them over. False: the call is at its end.
func (s *serial) step(n int64) bool {
	if s.err = s.caller.Err(); s.err != nil {
		return false
	}
	for end := s.next + n; s.next < end; {
		first := s.next
		err := s.run(first, end)
		if err == nil {
			s.next = end
			return deliver(s.spec.Work, first, int(end-first))
		}
		failed := s.at.Task
		if failed > first && !deliver(s.spec.Work, first, int(failed-first)) {
			return false
		}
		attempts := 1
		for ; err != nil && attempts <= s.spec.Retries && s.caller.Err() == nil; attempts++ {
			err = s.run(failed, failed+1)
		}
		s.next = failed + 1
		if err == nil {
			if !deliver(s.spec.Work, failed, 1) {
				return false
			}
			continue
		}
		if s.err = s.caller.Err(); s.err != nil {
			return false
		}
		if !giveUp(s.spec.Work, failed, Failure{Err: err, Attempts: attempts}) {
			s.ctx.end(err)
			return false
		}
	}
	return true
}

// deliver has a name of its own for the same reason as handOver.
//
//go:noinline
func deliver(w Work, first int64, n int) bool { return w.Deliver(first, n) }

//go:noinline
func giveUp(w Work, task int64, f Failure) bool { return w.Fail(task, f) }

// run runs tasks up to the first that fails.
func (s *serial) run(first, end int64) error {
	if s.spec.Limit == 0 {
		s.at.reset(first, int(end-first), int(min(end-first, 64)))
		return runTasks(&s.ctx, s.spec.Work, &s.at)
	}
	for ; first < end; first++ {
		s.at.Task = first
		begin := time.Now()
		store, err := limited(&s.ctx, s.spec, first)
		if took := time.Since(begin); err == nil && took > s.spec.Limit+grace {
			err = &Overrun{Limit: s.spec.Limit} // as on other pools, where nobody waits for it
		}
		if err != nil {
			return err
		}
		store()
	}
	return nil
}
