package inproc

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// taskContext is what tasks get: the caller's context, cancelled when the call has failed or was left. It is the standard
// library's, made when a task first asks for more than Err: most tiny tasks never do, and making it would be a third of their map.
type taskContext struct {
	parent context.Context
	over   atomic.Bool

	mu     sync.Mutex
	cause  error
	full   context.Context
	cancel context.CancelCauseFunc
}

func (c *taskContext) get() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.full == nil {
		c.full, c.cancel = context.WithCancelCause(c.parent)
		if c.over.Load() {
			c.cancel(c.cause)
		}
	}
	return c.full
}

// end cancels the context; a cause of nil stands for context.Canceled.
func (c *taskContext) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over.Swap(true) {
		return
	}
	c.cause = cause
	if c.cancel != nil {
		c.cancel(cause)
	}
}

func (c *taskContext) Deadline() (time.Time, bool) { return c.parent.Deadline() }

func (c *taskContext) Done() <-chan struct{} { return c.get().Done() }

func (c *taskContext) Err() error {
	if c.over.Load() {
		return c.get().Err() // the parent may have ended first, for another reason
	}
	return c.parent.Err()
}

// withinKey is the key under which the contexts of tasks have a value.
type withinKey struct{}

// Value goes through the full context: that is how contexts derived from this one find that they need no goroutine to watch it.
func (c *taskContext) Value(key any) any {
	if key == (withinKey{}) {
		return true
	}
	return c.get().Value(key)
}
