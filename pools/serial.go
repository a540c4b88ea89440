package pools

import (
	"context"
	"fmt"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/inproc"
)

// SerialPool runs tasks one after the other on the goroutine that calls Map, ForEach or loops over a Stream: for debugging, for
// programs that choose their pool by an option, and where nothing else is wanted. Several goroutines that share it do not wait for each
// other. A Stream draws one task, runs it and yields its result before it draws the next.
//
// Nothing can interrupt a task on the caller's own goroutine: one that ignores its context is waited for, and a panic in a task is
// an error as on every pool, but runtime.Goexit ends the goroutine. Costs: 0.6 us for a map, 1 ns per task, 0.1 us per task of a Stream.
type SerialPool struct {
	solo inproc.Solo
	err  error
	pythons
}

var _ Pool = (*SerialPool)(nil)

// NewSerialPool makes a SerialPool. An option that it does not know is reported by its calls.
func NewSerialPool(opts ...PoolOption) *SerialPool {
	c := configure(opts)
	c.only("SerialPool")
	return &SerialPool{err: c.err}
}

func (p *SerialPool) run(ctx context.Context, c *call) error {
	if p.err != nil {
		return p.err
	}
	return named(p, p.either(ctx, c, solo{&p.solo}, 1))
}

// solo is a runner of Go functions on the caller's goroutine.
type solo struct{ *inproc.Solo }

func (s solo) run(ctx context.Context, c *call) error {
	if err := c.function.local(); err != nil {
		return err
	}
	return s.Do(ctx, c.spec)
}

func (s solo) close() error { return s.Close() }

func (s solo) describe() string {
	calls, closed := s.State()
	return state("the caller's goroutine", calls, 0, closed)
}

// Size is 0: there are no workers.
func (p *SerialPool) Size() int { return 0 }

// Close waits for calls that other goroutines have under way.
func (p *SerialPool) Close() error { return named(p, p.closeWith(solo{&p.solo})) }

func (p *SerialPool) String() string { return fmt.Sprintf("SerialPool(%s)", solo{&p.solo}.describe()) }
