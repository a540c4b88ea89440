package pools_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

var (
	seed   = flag.Uint64("seed", 0, "of the random calls, 0: by the clock")
	rounds = flag.Int("rounds", 60, "of random calls")
)

// TestRandomCalls makes calls of every kind, several at once, on pools of several sizes, with tasks that fail, panic, hang, differ in
// length and call the pool again, and compares what comes out with what must.
func TestRandomCalls(t *testing.T) {
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	t.Logf("go test -run TestRandomCalls -seed %d -rounds %d", first, *rounds)
	for _, workers := range []int{1, 2, 5, 13} {
		before := goroutines()
		p := must(pools.NewMultiPool(workers))
		var wg sync.WaitGroup
		for g := range uint64(4) {
			wg.Go(func() {
				for k := range uint64(*rounds) {
					// Two, as tasks that a cancelled call has left behind may still count.
					for _, check := range []func(*randomCall) bool{(*randomCall).checkMap, (*randomCall).checkStream} {
						if r := newRandomCall(rand.New(rand.NewPCG(first+k, g)), p); !check(r) {
							t.Errorf("call %d of goroutine %d on %d workers: %s", k, g, workers, r.wrong)
							return
						}
					}
				}
			})
		}
		wg.Wait()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		noneLeft(t, before)
	}
}

// randomCall is one call, and what is known of it beforehand.
type randomCall struct {
	p       pools.Pool
	plans   []taskPlan
	runs    []atomic.Int32
	opts    []pools.Option
	retries int
	keep    bool
	inOrder bool
	cancel  int // after so many results, -1: never
	limit   bool
	wrong   string
}

// taskPlan is what a task does.
type taskPlan struct {
	fails  int // so many times, before it succeeds
	panics bool
	spins  int
	naps   time.Duration
	nests  int
}

var errPlanned = errors.New("planned")

func newRandomCall(r *rand.Rand, p pools.Pool) *randomCall {
	c := &randomCall{p: p, cancel: -1, inOrder: true}
	n := []int{0, 1, 2, 16, 100, 1000}[r.IntN(6)]
	c.plans, c.runs = make([]taskPlan, n), make([]atomic.Int32, n)
	kind := r.IntN(8)
	for i := range c.plans {
		x := &c.plans[i]
		switch r.IntN(20) {
		case 0:
			x.spins = r.IntN(2000)
		case 1:
			if kind < 2 {
				x.naps = time.Duration(r.IntN(200)) * time.Microsecond
			}
		case 2:
			if kind == 3 {
				x.nests = r.IntN(4)
			}
		}
		if kind >= 5 && r.IntN(1+n/3) == 0 {
			x.fails, x.panics = 1+r.IntN(3), r.IntN(2) == 0
		}
	}
	if r.IntN(2) == 0 {
		c.retries = r.IntN(4)
		c.opts = append(c.opts, pools.Retries(c.retries))
	}
	if r.IntN(3) == 0 {
		c.keep = true
		c.opts = append(c.opts, pools.ContinueOnError())
	}
	if r.IntN(3) == 0 {
		c.opts = append(c.opts, pools.ChunkSize(1+r.IntN(40)))
	}
	if r.IntN(3) == 0 {
		c.inOrder = false
		c.opts = append(c.opts, pools.Unordered())
	}
	if r.IntN(6) == 0 {
		c.limit = true
		c.opts = append(c.opts, pools.TaskTimeout(time.Minute))
	}
	if r.IntN(6) == 0 {
		c.cancel = r.IntN(n + 1)
	}
	return c
}

func (c *randomCall) task(ctx context.Context, i int) (int, error) {
	x, run := c.plans[i], int(c.runs[i].Add(1))
	for k := range x.spins {
		if k%100 == 99 {
			runtime.Gosched()
		}
	}
	time.Sleep(x.naps)
	if x.nests > 0 {
		if got, err := square.Map(ctx, c.p, numbers(x.nests)); err != nil || !slices.Equal(got, squares(x.nests)) {
			return 0, fmt.Errorf("nested: %v, %w", got, err)
		}
	}
	if run <= x.fails {
		if x.panics {
			panic(errPlanned)
		}
		return -1, errPlanned
	}
	return 3 * i, nil
}

// failing is the tasks that must fail for good.
func (c *randomCall) failing() (tasks []int) {
	for i, x := range c.plans {
		if x.fails > c.retries {
			tasks = append(tasks, i)
		}
	}
	return tasks
}

func (c *randomCall) fault(format string, args ...any) bool {
	if c.wrong == "" {
		c.wrong = fmt.Sprintf("%d tasks, %d retries, keep %v, in order %v, cancel %d: ", len(c.plans), c.retries, c.keep, c.inOrder, c.cancel) +
			fmt.Sprintf(format, args...)
	}
	return false
}

func (c *randomCall) checkMap() bool {
	ctx, cancel := context.WithCancel(bg)
	defer cancel()
	seen, last := 0, -1
	opts := c.opts
	if c.cancel >= 0 {
		opts = append(slices.Clip(opts), pools.Callback(func(i, r int) {
			if seen == c.cancel {
				cancel()
			}
			if r != 3*i || (c.inOrder && i <= last) {
				c.fault("callback %d with %d after that of %d", i, r, last)
			}
			seen, last = seen+1, i
		}))
	}
	got, err := pools.Map(ctx, c.p, c.task, numbers(len(c.plans)), opts...)
	failing := c.failing()
	switch {
	case errors.Is(err, context.Canceled):
		if ctx.Err() == nil {
			return c.fault("cancelled by nobody")
		}
	case c.keep:
		if len(got) != len(c.plans) || (err == nil) != (len(failing) == 0) {
			return c.fault("%d results, %v", len(got), err)
		}
		for i, r := range got {
			if _, failed := slices.BinarySearch(failing, i); (failed && r != 0) || (!failed && r != 3*i) {
				return c.fault("result %d is %d", i, r)
			}
		}
		return c.ranRight(true) && c.failedRight(err, failing)
	case err != nil:
		var failed *pools.TaskError
		if !errors.As(err, &failed) || !errors.Is(err, errPlanned) || !slices.Contains(failing, failed.Index) || got != nil {
			return c.fault("%v", err)
		}
	case len(failing) > 0:
		return c.fault("no error")
	default:
		for i, r := range got {
			if r != 3*i {
				return c.fault("result %d is %d", i, r)
			}
		}
		return c.ranRight(true)
	}
	return c.ranRight(false) && c.wrong == ""
}

// failedRight compares a joined error with the tasks that must fail.
func (c *randomCall) failedRight(err error, failing []int) bool {
	var all []error
	if err != nil {
		all = err.(interface{ Unwrap() []error }).Unwrap()
	}
	for k, err := range all {
		var failed *pools.TaskError
		if !errors.As(err, &failed) || k >= len(failing) || failed.Index != failing[k] || failed.Attempts != c.retries+1 {
			return c.fault("error %d is %v", k, err)
		}
	}
	return len(all) == len(failing) || c.fault("%d errors for %d failing tasks", len(all), len(failing))
}

// ranRight counts how often tasks ran: as often as they had to, or not more often where the call ended early.
func (c *randomCall) ranRight(all bool) bool {
	for i, x := range c.plans {
		want := min(x.fails, c.retries) + 1
		if n := int(c.runs[i].Load()); n > want || (all && n < want) {
			return c.fault("task %d ran %d times, not %d", i, n, want)
		}
	}
	return true
}

func (c *randomCall) checkStream() bool {
	failing := c.failing()
	seen, fails := 0, 0
	last := -1
	for r, err := range pools.Stream(bg, c.p, c.task, slices.Values(numbers(len(c.plans))), c.opts...) {
		if seen+fails == c.cancel {
			return c.ranRight(false)
		}
		if err == nil {
			if c.inOrder && r <= last {
				return c.fault("stream: %d after %d", r, last)
			}
			seen, last = seen+1, r
			continue
		}
		fails++
		var failed *pools.TaskError
		if !errors.As(err, &failed) || !slices.Contains(failing, failed.Index) || (c.inOrder && 3*failed.Index <= last) {
			return c.fault("stream: %v", err)
		}
		if !c.keep {
			return c.ranRight(false)
		}
	}
	if fails != len(failing) || seen+fails != len(c.plans) {
		return c.fault("stream: %d results, %d failures of %d", seen, fails, len(failing))
	}
	return c.ranRight(true)
}
