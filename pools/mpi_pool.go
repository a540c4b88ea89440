package pools

import (
	"context"
	"fmt"
)

// MPIPool runs tasks on the ranks of an MPI run of this program: one worker per rank other than 0, or [WorkersPerRank].
//
// Every rank runs the program up to NewMPIPool. On rank 0 it returns, and the program goes on there. On the others it does not return:
// they serve, asleep while there is nothing to do, until rank 0 closes the pool, and leave with code 0; deferred functions of main do
// not run there. So make the pool early, before anything that only one process should do, and close it:
//
//	func main() {
//		pool, err := pools.NewMPIPool()
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer pool.Close()
//		...
//	}
//
// Build with -tags mpi and start with mpirun. MPI is started by the first pool, unless the program has done that, and finalized when it
// is closed; it cannot be started again, so a program has one MPIPool at most.
//
// Functions are those of [Register]; with [PythonWorkers] those of [Python] instead. A rank that dies ends the job: the call returns a
// [*WorkerLostError], and Close ends the program with code 1, after which the launcher reports a failure. A rank that ends although
// rank 0 never closed the pool does so with code 14.
type MPIPool struct {
	*remotePool
	workers int
}

var _ Pool = (*MPIPool)(nil)

// rankOptions say what runs tasks on each rank.
type rankOptions struct {
	beside   int // worker processes beside each rank; 0: the rank itself
	maxTasks int
	python   bool   // they are Python's
	choice   string // which one
}

// WorkersPerRank gives each rank of an MPIPool so many worker processes beside it, at least 1, as [Processes] does with one.
func WorkersPerRank(n int) PoolOption {
	return func(c *poolConfig) {
		if c.beside = n; n < 1 || n > mostWorkers {
			c.refuse("WorkersPerRank(%d): must be between 1 and %d", n, mostWorkers)
		}
	}
}

// PythonWorkers makes the workers of an MPIPool processes of a Python beside each rank, chosen as [Interpreter] does, "" for the usual
// order. The pool then runs functions made by [Python], and no others.
func PythonWorkers(choice string) PoolOption { return func(c *poolConfig) { c.python = &choice } }

// NewMPIPool makes the pool on rank 0, and serves it on the others. The error is [ErrUnavailable] where the program was built without MPI,
// was not started by its launcher, or has one rank only.
func NewMPIPool(opts ...PoolOption) (*MPIPool, error) {
	c := configure(opts)
	o := rankOptions{beside: c.beside, maxTasks: c.maxTasks}
	if c.python != nil {
		o.python, o.choice = true, *c.python
	}
	if (c.processes || o.python || o.maxTasks > 0) && o.beside == 0 {
		o.beside = 1
	}
	c.processes, c.maxTasks, c.python, c.beside = false, 0, nil, 0
	c.only("MPIPool")
	if c.err != nil {
		return nil, c.err
	}
	r, err := openRanks(o)
	if err != nil {
		return nil, err
	}
	return &MPIPool{remotePool: r, workers: r.size()}, nil
}

func (p *MPIPool) run(ctx context.Context, c *call) error {
	if c.function.kind == python && !p.python {
		return fmt.Errorf("%w: the ranks of this MPIPool run Go functions; make it with PythonWorkers to run Python's", ErrUnavailable)
	}
	return named(p, p.remotePool.run(ctx, c))
}

// Size is the number of workers on all ranks.
func (p *MPIPool) Size() int { return p.workers }

// Close implements [Pool]; then it lets the other ranks leave, and ends MPI.
func (p *MPIPool) Close() error { return named(p, p.close()) }

func (p *MPIPool) String() string { return fmt.Sprintf("MPIPool(%d %s)", p.workers, p.describe()) }
