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
// an error as on every pool, but runtime.Goexit ends the goroutine. Costs: 0.2 us for a map, 2 to 5 ns per task.
type SerialPool struct {
	solo inproc.Solo
	err  error
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
	if err := c.function.local(); err != nil {
		return err
	}
	return named(p, p.solo.Do(ctx, c.spec))
}

// Size is 0: there are no workers.
func (p *SerialPool) Size() int { return 0 }

// Close waits for calls that other goroutines have under way.
func (p *SerialPool) Close() error { return named(p, p.solo.Close()) }

func (p *SerialPool) String() string {
	calls, closed := p.solo.State()
	return fmt.Sprintf("SerialPool(%s)", state("the caller's goroutine", calls, 0, closed))
}
