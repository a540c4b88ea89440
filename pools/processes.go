package pools

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/inproc"
)

// Processes makes the workers of a MultiPool or JoblibPool processes, each of which runs one task at a time: a task that crashes, or runs
// on beyond its time, costs its own process, which is replaced, and no other task. On an MPIPool they work beside the ranks, so that a
// crash does not end the MPI job.
//
// The processes are this program, started again: it must call [Main] first, or the pool cannot be made. They run functions made by
// [Register], whose tasks and results travel as msgpack and raw memory (see [Python] for what can). They die with this
// process, whatever ends it. Costs: some 5 ms for the start of a process; 22 us for a map of 16 floats; per task 60 ns for
// a float or an int, some 4 us for a struct of four fields, a memory copy for a numeric slice.
func Processes() PoolOption { return func(c *poolConfig) { c.processes = true } }

// MaxTasksPerProcess replaces a worker process after so many tasks, at least 1: for functions that leak.
func MaxTasksPerProcess(n int) PoolOption {
	return func(c *poolConfig) {
		if c.maxTasks = n; n < 1 || n > 1<<31-1 {
			c.refuse("MaxTasksPerProcess(%d): must be between 1 and 2147483647", n)
		}
	}
}

// processSetup is what the options say about worker processes.
type processSetup struct {
	processes bool
	maxTasks  int
}

// takeProcesses takes the options of pools that can have worker processes.
func (c *poolConfig) takeProcesses() processSetup {
	s := processSetup{c.processes, c.maxTasks}
	c.processes, c.maxTasks = false, 0
	return s
}

// runner runs the Go functions of a pool.
func (s processSetup) runner(workers int) (runner, error) {
	if !s.processes {
		return newGoroutines(workers), nil
	}
	return openProcesses(workers, s.maxTasks)
}

// pythons are the worker processes of a pool that run Python, for each interpreter that a function has asked for.
type pythons struct {
	setup  processSetup
	mu     sync.Mutex
	pools  map[string]*remotePool // by choice
	closed bool
}

// either runs a call on the pool's own workers, or on Python's.
func (y *pythons) either(ctx context.Context, c *call, own runner, workers int) error {
	if c.function.kind != python {
		return own.run(ctx, c)
	}
	if err := c.function.python.err; err != nil {
		return err
	}
	p, err := y.get(ctx, c.function.python.choice, workers)
	if err != nil {
		return err
	}
	return p.run(ctx, c)
}

// get starts the workers where there are none yet. One that cannot be started is tried again by the next call.
func (y *pythons) get(ctx context.Context, choice string, workers int) (*remotePool, error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.closed {
		return nil, ErrClosed
	}
	if p := y.pools[choice]; p != nil {
		return p, nil
	}
	p, err := openPython(ctx, choice, workers, y.setup.maxTasks)
	if err != nil {
		return nil, fmt.Errorf("workers for Python functions: %w", err)
	}
	if y.pools == nil {
		y.pools = make(map[string]*remotePool)
	}
	y.pools[choice] = p
	return p, nil
}

// closeWith closes them and the pool's own workers.
func (y *pythons) closeWith(own runner) error {
	y.mu.Lock()
	all := slices.Collect(maps.Values(y.pools))
	y.closed = true
	y.mu.Unlock()
	var errs []error
	for _, p := range all {
		err := p.close()
		if errors.Is(err, inproc.ErrWithin) { // the same for all of them
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(append(errs, own.close())...)
}
