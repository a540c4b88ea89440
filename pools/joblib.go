package pools

import (
	"context"
	"fmt"
	"runtime"
)

// JoblibPool is what joblib.Parallel is to Python: tasks are drawn lazily, batched by the time that they take, and with Stream the
// results come as joblib's return_as="generator" gives them. It differs from a MultiPool by how its number of workers is counted,
// and by [PreDispatch].
type JoblibPool struct {
	workers int
	ahead   int
	runner
	pythons
}

var _ Pool = (*JoblibPool)(nil)

// NewJoblibPool makes a JoblibPool. As joblib's n_jobs, -1 stands for as many workers as CPUs, -2 for one less, and so on, but at
// least one.
func NewJoblibPool(workers int, opts ...PoolOption) (*JoblibPool, error) {
	c := configure(opts)
	ahead := c.ahead
	c.ahead = 0
	setup := c.takeProcesses()
	c.only("JoblibPool")
	if c.err != nil {
		return nil, c.err
	}
	if workers == 0 {
		return nil, fmt.Errorf("%w: JoblibPool: 0 workers mean nothing; -1 is one per CPU", ErrArgument)
	}
	if workers < 0 {
		workers = max(runtime.GOMAXPROCS(0)+1+workers, 1)
	}
	n, err := count("JoblibPool", workers)
	if err != nil {
		return nil, err
	}
	r, err := setup.runner(n)
	if err != nil {
		return nil, err
	}
	return &JoblibPool{workers: n, ahead: ahead, runner: r, pythons: pythons{setup: setup}}, nil
}

// PreDispatch bounds how many tasks a JoblibPool has drawn from a sequence whose results the loop over the Stream has not taken yet, at
// least 1. Fewer than workers leave some idle, and few make small batches. Default: as many as batches need, some 4 batches
// per worker, which take 0.1 ms each.
func PreDispatch(tasks int) PoolOption {
	return func(c *poolConfig) {
		if c.ahead = tasks; tasks < 1 {
			c.refuse("PreDispatch(%d): must be at least 1", tasks)
		}
	}
}

func (p *JoblibPool) run(ctx context.Context, c *call) error {
	c.spec.Ahead = p.ahead
	return named(p, p.either(ctx, c, p.runner, p.workers))
}

// Size is the number of workers.
func (p *JoblibPool) Size() int { return p.workers }

// Close implements [Pool].
func (p *JoblibPool) Close() error { return named(p, p.closeWith(p.runner)) }

func (p *JoblibPool) String() string {
	return fmt.Sprintf("JoblibPool(%d %s)", p.workers, p.describe())
}
