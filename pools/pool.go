package pools

import (
	"context"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/inproc"
)

// Pool runs functions over tasks: a [SerialPool], [MultiPool], [MPIPool] or [JoblibPool]. Map, Stream and ForEach take any of
// them. It is not for others to implement: what a pool has to promise grows with the package.
//
// A pool may be used from several goroutines at once, and from within its own tasks.
type Pool interface {
	// Size is the number of workers; 0 where tasks run in the caller.
	Size() int
	// Close refuses new calls, waits until everything that runs has ended, and frees what the pool holds. It may be called
	// again. From within a task of the pool, or a loop over its results, it cannot wait, and returns an error that says so.
	Close() error
	// String describes the pool in a few words.
	String() string

	run(ctx context.Context, c *call) error
}

// call is one Map or Stream as a pool sees it: tasks and results without their types.
type call struct {
	function *function
	spec     inproc.Spec // counts, limits, and Work, which runs tasks on values and takes results
	keep     bool        // go on after failures
	coder    coder       // the same tasks and results as bytes, for workers that are other processes
}

// runner is what does a pool's work: goroutines, or other processes.
type runner interface {
	run(ctx context.Context, c *call) error
	close() error
	describe() string // what the workers are, for String
}
