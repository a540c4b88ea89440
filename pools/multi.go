package pools

import (
	"context"
	"fmt"
)

// MultiPool runs tasks on several workers of this machine: goroutines.
//
// At most Size tasks run at once, whoever calls; a goroutine that calls Map counts as one of the workers while it runs tasks, which
// it does unless it must stay free, for the end of its context or for results of a Stream. There are no goroutines while there is
// no work. Chunks of tasks are sized by the time that the function's tasks took before, so tiny maps start no goroutine, and
// tasks that turn out long are spread over all workers within a millisecond.
//
// A call from within a task, on the goroutine of the task or with its context, runs on that task's worker where no other is free, so
// that nesting does not deadlock.
type MultiPool struct {
	workers int
	runner
	pythons
}

var _ Pool = (*MultiPool)(nil)

// NewMultiPool makes a MultiPool of so many workers; 0 stands for as many as CPUs.
func NewMultiPool(workers int, opts ...PoolOption) (*MultiPool, error) {
	c := configure(opts)
	setup := c.takeProcesses()
	c.only("MultiPool")
	if c.err != nil {
		return nil, c.err
	}
	n, err := count("MultiPool", workers)
	if err != nil {
		return nil, err
	}
	r, err := setup.runner(n)
	if err != nil {
		return nil, err
	}
	return &MultiPool{workers: n, runner: r, pythons: pythons{setup: setup}}, nil
}

func (p *MultiPool) run(ctx context.Context, c *call) error {
	return named(p, p.either(ctx, c, p.runner, p.workers))
}

// Size is the number of workers.
func (p *MultiPool) Size() int { return p.workers }

// Close implements [Pool]. Tasks that were left behind are waited for as well.
func (p *MultiPool) Close() error { return named(p, p.closeWith(p.runner)) }

func (p *MultiPool) String() string { return fmt.Sprintf("MultiPool(%d %s)", p.workers, p.describe()) }
