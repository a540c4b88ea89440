package inproc

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
)

// fake is a Work whose tasks do what do says.
type fake struct {
	do     func(ctx context.Context, task int64) error
	tasks  int64
	mu     sync.Mutex
	ran    int
	handed int
	stop   int // give up after so many, 0: never
	keep   bool
}

func (f *fake) Run(ctx context.Context, at *Cursor) error {
	for {
		i, end, ok := at.Claim()
		if !ok {
			return nil
		}
		for ; i < end && !at.Stopped(); i++ {
			at.Task = i
			if _, err := f.Call(ctx, i); err != nil {
				return err
			}
		}
	}
}

func (f *fake) Call(ctx context.Context, task int64) (func(), error) {
	f.mu.Lock()
	f.ran++
	f.mu.Unlock()
	return func() {}, f.do(ctx, task)
}

func (f *fake) Deliver(first int64, n int) bool {
	f.handed += n
	return f.stop == 0 || f.handed < f.stop
}

func (f *fake) Fail(int64, Failure) bool {
	f.handed++
	return f.keep
}

func (f *fake) Feed(stored func() bool) {
	for range f.tasks {
		if !stored() {
			return
		}
	}
}

// audit checks that a crew at rest has everything back.
func audit(t *testing.T, c *Crew) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.free != c.size || len(c.names) != c.size || len(c.jobs) != 0 || c.calls != 0 {
		t.Errorf("%d of %d tokens, %d names, %d jobs, %d calls", c.free, c.size, len(c.names), len(c.jobs), c.calls)
	}
	seen := map[int]bool{}
	for _, name := range c.names {
		if name < 1 || name > c.size || seen[name] {
			t.Errorf("names %v", c.names)
		}
		seen[name] = true
	}
	for _, j := range c.idle {
		if j.token || j.lent || j.over || j.asleep || len(j.running) > 0 || len(j.wake) > 0 || len(j.failures) > 0 {
			t.Errorf("a call was put aside as %+v", j)
		}
	}
	if n := c.sched.Counters().InFlight; n != 0 {
		t.Errorf("%d chunks in flight", n)
	}
}

var errFake = errors.New("fake")

// TestAChunkLeftBehindIsOffTheBooks cancels a call whose task does not heed it.
func TestAChunkLeftBehindIsOffTheBooks(t *testing.T) {
	c := New(2)
	ctx, cancel := context.WithCancel(context.Background())
	release := make(chan struct{})
	f := &fake{do: func(context.Context, int64) error {
		cancel()
		<-release
		return nil
	}}
	if err := c.Do(ctx, Spec{Work: f, Tasks: 1}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	audit(t, c)
	close(release)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	audit(t, c)
}

// TestNothingIsLostOnTheWay makes calls that end in every way, several at once, and counts what the crew has afterwards.
func TestNothingIsLostOnTheWay(t *testing.T) {
	for _, size := range []int{1, 2, 5} {
		c := New(size)
		var wg sync.WaitGroup
		for g := range uint64(4) {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(g, uint64(size)))
				for range 200 {
					wayward(t, c, r)
				}
			})
		}
		wg.Wait()
		rest(c)
		audit(t, c)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := c.Do(context.Background(), Spec{Work: &fake{}}); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	}
}

// rest waits until workers that have nothing to do any more, and those left behind, have gone.
func rest(c *Crew) {
	for {
		c.mu.Lock()
		alone := c.free == c.size && c.ticks.stuck == 0
		c.mu.Unlock()
		if alone {
			return
		}
		runtime.Gosched()
	}
}

// wayward is a call that ends well, fails, is cancelled, is left by a consumer, by a panic in one, or by the end of its goroutine.
func wayward(t *testing.T, c *Crew, r *rand.Rand) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n := int64(r.IntN(50))
	f := &fake{tasks: n, keep: r.IntN(2) == 0}
	s := Spec{Work: f, Tasks: n, Key: uint32(1 + r.IntN(3)), Retries: r.IntN(2), Quiet: r.IntN(2) == 0, Unordered: r.IntN(2) == 0, Chunk: r.IntN(3)}
	if r.IntN(3) == 0 {
		s.Tasks, s.Quiet, s.Ahead, s.Bytes = dispatch.Unknown, false, r.IntN(5), 8
	}
	if r.IntN(4) == 0 {
		s.Limit = time.Hour
	}
	if r.IntN(2) == 0 {
		ctx = context.Background()
	}
	way, at := r.IntN(6), int64(r.IntN(int(n)+1))
	f.do = func(_ context.Context, task int64) error {
		if task == at {
			switch way {
			case 0:
				return errFake
			case 1:
				panic(errFake)
			case 2:
				runtime.Goexit()
			case 3:
				cancel()
			}
		}
		return nil
	}
	if way == 4 {
		f.stop = 1 + r.IntN(10)
	}
	done := make(chan error, 1)
	go func() {
		defer close(done)
		done <- c.Do(ctx, s)
	}()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if way == 5 && f.handed != int(n) {
		t.Errorf("%d of %d tasks handed over", f.handed, n)
	}
}
