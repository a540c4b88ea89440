package pools

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/inproc"
)

// goroutines is the runner of pools that work in this process.
type goroutines struct{ crew *inproc.Crew }

func newGoroutines(workers int) *goroutines { return &goroutines{inproc.New(workers)} }

func (g *goroutines) run(ctx context.Context, c *call) error {
	if err := c.function.local(); err != nil {
		return err
	}
	return g.crew.Do(ctx, c.spec)
}

func (g *goroutines) close() error { return g.crew.Close() }

func (g *goroutines) describe() string {
	calls, stuck, closed := g.crew.State()
	return state("goroutines", calls, stuck, closed)
}

// state is the second half of a pool's String.
func state(workers string, calls, stuck int, closed bool) string {
	s := workers
	if calls > 0 {
		s += fmt.Sprintf(", %d calls under way", calls)
	}
	if stuck > 0 {
		s += fmt.Sprintf(", %d tasks left behind", stuck)
	}
	if closed {
		s += ", closed"
	}
	return s
}

// local says why a function cannot be run in this process, nil if it can.
func (f *function) local() error {
	if f.kind > registered {
		return fmt.Errorf("%w: %s is not a Go function: goroutines cannot run it", ErrUnavailable, f.name)
	}
	return nil
}

// count checks a number of workers: 0 stands for the number of CPUs that this process may use.
func count(kind string, workers int) (int, error) {
	switch {
	case workers == 0:
		return runtime.GOMAXPROCS(0), nil
	case workers < 0 || workers > mostWorkers:
		return 0, fmt.Errorf("%w: %s: number of workers must be between 1 and %d, or 0 for one per CPU, not %d", ErrArgument, kind, mostWorkers, workers)
	}
	return workers, nil
}

// mostWorkers is what an Engine takes, too.
const mostWorkers = 1 << 16

// named puts the pool's name before an error that is the pool's own.
func named(p Pool, err error) error {
	if errors.Is(err, ErrClosed) || errors.Is(err, inproc.ErrWithin) {
		return fmt.Errorf("%s: %w", p, err)
	}
	return err
}
