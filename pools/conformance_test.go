package pools_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

// One suite for every pool. A pool joins by appending to makers, from an init function of another test file: its name, how it is made,
// and what it can do. A case that needs more than a pool can do is skipped there, with the reason.

// maker makes a pool of at least 2 workers, if it has any.
type maker struct {
	name string
	make func(t *testing.T) pools.Pool
	can  ability
}

// ability is what not every pool has.
type ability uint

const (
	closures   ability = 1 << iota // runs functions that are not registered
	memory                         // tasks share the memory of the test
	parallel                       // several tasks run at once
	abandons                       // a task that ignores its context is not waited for
	everything ability = 1<<iota - 1
)

var makers = []maker{
	{"SerialPool", func(*testing.T) pools.Pool { return pools.NewSerialPool() }, closures | memory},
	{"MultiPool", func(t *testing.T) pools.Pool { return must(pools.NewMultiPool(3)) }, everything},
	{"MultiPool of one", func(t *testing.T) pools.Pool { return must(pools.NewMultiPool(1)) }, closures | memory | abandons},
	{"JoblibPool", func(t *testing.T) pools.Pool { return must(pools.NewJoblibPool(2)) }, everything},
	{"JoblibPool, PreDispatch(3)", func(t *testing.T) pools.Pool { return must(pools.NewJoblibPool(2, pools.PreDispatch(3))) }, everything},
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// onEach runs a case on each pool, closes the pool, and counts goroutines.
func onEach(t *testing.T, needs ability, f func(t *testing.T, p pools.Pool)) {
	t.Helper()
	for _, m := range makers {
		t.Run(m.name, func(t *testing.T) {
			if lacks := needs &^ m.can; lacks != 0 {
				t.Skipf("%s has not got ability %b", m.name, lacks)
			}
			before := goroutines()
			p := m.make(t)
			f(t, p)
			if !strings.Contains(p.String(), "closed") {
				stillWorks(t, p)
			}
			if err := p.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			noneLeft(t, before)
		})
	}
}

// noneLeft waits until there are no more goroutines than before: one that has told that it ends may need a moment to do so.
func noneLeft(t *testing.T, before int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before && goroutines() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before\n%s", goroutines(), before, stacks())
		}
	}
}

// goroutines counts them. Those by which the ranks of an MPI job watch each other are left out: they belong to the job, and may begin at
// any moment of its first pool.
func goroutines() (n int) {
	for _, stack := range strings.Split(stacks(), "\n\n") {
		if !strings.Contains(stack, "internal/lifeline") {
			n++
		}
	}
	return n
}

func stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}

// stillWorks is the end of every case: whatever went wrong, the next call is right.
func stillWorks(t *testing.T, p pools.Pool) {
	t.Helper()
	tasks := numbers(50)
	got, err := square.Map(bg, p, tasks)
	if err != nil || !slices.Equal(got, squares(50)) {
		t.Errorf("afterwards: %v, %v", got, err)
	}
}

var bg = context.Background()

func numbers(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

func squares(n int) []int {
	s := numbers(n)
	for i := range s {
		s[i] *= s[i]
	}
	return s
}

// count is an endless sequence.
func count(yield func(int) bool) {
	for i := 0; yield(i); i++ {
	}
}

var errOdd = errors.New("odd")

// try is a task that fails until a file is there, which it makes.
type try struct {
	Dir  string
	N    int
	Fail int // how often
}

var (
	square = pools.Register("test.square", func(_ context.Context, x int) (int, error) { return x * x, nil })
	even   = pools.Register("test.even", func(_ context.Context, x int) (int, error) {
		if x%2 == 1 {
			return -1, fmt.Errorf("%d is %w", x, errOdd)
		}
		return x, nil
	})
	panics = pools.Register("test.panics", func(_ context.Context, x int) (int, error) {
		if x == 5 {
			deepPanic(x)
		}
		return x, nil
	})
	tries = pools.Register("test.tries", func(_ context.Context, x try) (int, error) {
		for k := range x.Fail {
			name := filepath.Join(x.Dir, fmt.Sprintf("%d.%d", x.N, k))
			if _, err := os.Stat(name); err == nil {
				continue
			}
			if err := os.WriteFile(name, nil, 0o600); err != nil {
				return 0, err
			}
			return 0, fmt.Errorf("try %d of task %d", k, x.N)
		}
		return x.N, nil
	})
	// obeys sleeps until its context ends.
	obeys = pools.Register("test.obeys", func(ctx context.Context, x int) (int, error) {
		if x >= 0 {
			return x, nil
		}
		<-ctx.Done()
		return 0, ctx.Err()
	})
	text = pools.Register("test.text", func(_ context.Context, s string) ([]string, error) { return strings.Fields(s), nil })
)

//go:noinline
func deepPanic(x int) { panic(fmt.Sprintf("five is %d", x)) }

func TestResultsAreInOrder(t *testing.T) {
	onEach(t, 0, func(t *testing.T, p pools.Pool) {
		ctx, cancel := context.WithCancel(bg)
		defer cancel()
		for _, ctx := range []context.Context{bg, ctx} {
			for _, n := range []int{0, 1, 2, 16, 17, 1000, 20_000} {
				for range 3 { // before and after the time of its tasks is known
					got, err := square.Map(ctx, p, numbers(n))
					if err != nil || !slices.Equal(got, squares(n)) || got == nil {
						t.Fatalf("%d tasks: %v", n, err)
					}
				}
			}
		}
		got, err := text.Map(bg, p, []string{"a b", "", "c"}, pools.ChunkSize(2))
		if err != nil || fmt.Sprint(got) != "[[a b] [] [c]]" {
			t.Errorf("%v, %v", got, err)
		}
	})
}

func TestAFailedTaskEndsTheMap(t *testing.T) {
	onEach(t, 0, func(t *testing.T, p pools.Pool) {
		got, err := even.Map(bg, p, []int{2, 4, 6, 7, 8})
		var failed *pools.TaskError
		if got != nil || !errors.As(err, &failed) {
			t.Fatalf("%v, %v", got, err)
		}
		if failed.Index != 3 || failed.Attempts != 1 || failed.Pid == 0 || failed.Worker == "" || failed.Host == "" {
			t.Errorf("%+v", failed)
		}
		if !strings.Contains(err.Error(), "task 3") || !strings.Contains(err.Error(), "7 is odd") {
			t.Errorf("message: %v", err)
		}
	})
}

func TestErrorsKeepTheirIdentity(t *testing.T) {
	onEach(t, memory, func(t *testing.T, p pools.Pool) {
		if _, err := even.Map(bg, p, []int{7}); !errors.Is(err, errOdd) {
			t.Errorf("%v", err)
		}
	})
}

func TestContinueOnError(t *testing.T) {
	onEach(t, 0, func(t *testing.T, p pools.Pool) {
		n := 501
		got, err := even.Map(bg, p, numbers(n), pools.ContinueOnError())
		if len(got) != n {
			t.Fatalf("%d results, %v", len(got), err)
		}
		for i, v := range got {
			if want := i * (1 - i%2); v != want {
				t.Fatalf("result %d is %d", i, v)
			}
		}
		joined, ok := err.(interface{ Unwrap() []error })
		if !ok || len(joined.Unwrap()) != n/2 {
			t.Fatalf("%T %v", err, err)
		}
		for k, err := range joined.Unwrap() {
			var failed *pools.TaskError
			if !errors.As(err, &failed) || failed.Index != 2*k+1 {
				t.Fatalf("error %d is %v", k, err)
			}
		}
		if got, err := even.Map(bg, p, []int{2, 4}, pools.ContinueOnError()); err != nil || len(got) != 2 {
			t.Errorf("nothing failed: %v, %v", got, err)
		}
	})
}

func TestAPanicIsAnErrorWithItsStack(t *testing.T) {
	onEach(t, 0, func(t *testing.T, p pools.Pool) {
		for range 3 {
			_, err := panics.Map(bg, p, numbers(20))
			var failed *pools.TaskError
			var panicked *pools.PanicError
			if !errors.As(err, &failed) || failed.Index != 5 || !errors.As(err, &panicked) {
				t.Fatalf("%v", err)
			}
			if !strings.Contains(string(panicked.Stack), "deepPanic") || !strings.Contains(err.Error(), "five is 5") {
				t.Errorf("%v\n%s", err, panicked.Stack)
			}
			if long := fmt.Sprintf("%+v", panicked); !strings.Contains(long, "deepPanic") {
				t.Errorf("%%+v: %s", long)
			}
		}
		got, err := panics.Map(bg, p, numbers(20), pools.ContinueOnError())
		if err == nil || len(got) != 20 || got[19] != 19 || got[5] != 0 {
			t.Errorf("%v, %v", got, err)
		}
	})
}

func TestRetries(t *testing.T) {
	onEach(t, 0, func(t *testing.T, p pools.Pool) {
		work := func(fail int) (tasks []try) {
			dir := t.TempDir()
			for i := range 40 {
				tasks = append(tasks, try{dir, i, (i % 4) * fail})
			}
			return tasks
		}
		for _, opts := range [][]pools.Option{{}, {pools.ChunkSize(7)}, {pools.Unordered()}} {
			got, err := tries.Map(bg, p, work(1), append(opts, pools.Retries(3))...)
			if err != nil || !slices.Equal(got, numbers(40)) {
				t.Errorf("%v, %v", got, err)
			}
		}
		_, err := tries.Map(bg, p, work(1)[:4], pools.Retries(2))
		var failed *pools.TaskError
		if !errors.As(err, &failed) || failed.Index != 3 || failed.Attempts != 3 || !strings.Contains(err.Error(), "try 2 of task 3") {
			t.Errorf("%v", err)
		}
	})
}

func TestATaskHasItsTime(t *testing.T) {
	onEach(t, 0, func(t *testing.T, p pools.Pool) {
		got, err := obeys.Map(bg, p, []int{1, -1, 3}, pools.TaskTimeout(20*time.Millisecond), pools.ContinueOnError())
		var late *pools.TimeoutError
		if !errors.As(err, &late) || late.Limit != 20*time.Millisecond || !errors.Is(err, pools.ErrTaskTimeout) {
			t.Fatalf("%v", err)
		}
		if !slices.Equal(got, []int{1, 0, 3}) || !strings.Contains(err.Error(), "task 1") {
			t.Errorf("%v, %v", got, err)
		}
		if _, err := square.Map(bg, p, numbers(100), pools.TaskTimeout(time.Minute)); err != nil {
			t.Errorf("in time: %v", err)
		}
	})
}

func TestATaskThatIgnoresItsTimeIsLeftBehind(t *testing.T) {
	onEach(t, memory|abandons, func(t *testing.T, p pools.Pool) {
		release, late := make(chan struct{}), new(atomic.Int32)
		stubborn := func(_ context.Context, x int) (int, error) {
			if x == 2 {
				<-release
				late.Add(1)
			}
			return x + 1, nil
		}
		tasks := numbers(p.Size()*3 + 3)
		for k := range 3 {
			got, err := pools.Map(bg, p, stubborn, tasks, pools.TaskTimeout(5*time.Millisecond), pools.ContinueOnError())
			if !errors.Is(err, pools.ErrTaskTimeout) || got[2] != 0 || got[0] != 1 || got[len(got)-1] != len(got) {
				t.Fatalf("%v, %v", got, err)
			}
			if want := fmt.Sprintf("%d tasks left behind", k+1); !strings.Contains(p.String(), want) {
				t.Errorf("%s, want %s", p, want)
			}
		}
		stillWorks(t, p)
		closed := make(chan error)
		go func() { closed <- p.Close() }()
		select {
		case err := <-closed:
			t.Fatalf("Close did not wait: %v", err)
		default:
		}
		close(release)
		if err := <-closed; err != nil || late.Load() != 3 {
			t.Errorf("%v, %d", err, late.Load())
		}
	})
}

func TestTheEndOfTheContext(t *testing.T) {
	onEach(t, 0, func(t *testing.T, p pools.Pool) {
		for name, opts := range map[string][]pools.Option{"plain": nil, "continue": {pools.ContinueOnError()}, "timed": {pools.TaskTimeout(time.Hour)}} {
			ctx, cancel := context.WithTimeout(bg, 20*time.Millisecond)
			got, err := obeys.Map(ctx, p, append(numbers(100), -1, -1, -1, -1), opts...)
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v, %v", name, got, err)
			}
			if name != "continue" && (got != nil || err != context.DeadlineExceeded) { //nolint:errorlint // exactly this one
				t.Errorf("%s: %v, %v", name, got, err)
			}
			if _, err := square.Map(ctx, p, numbers(10)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a context that has ended: %v", err)
			}
			for _, err := range square.Stream(ctx, p, count) {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("stream: %v", err)
				}
			}
		}
	})
}

// A task that fails because its context has ended is not tried again, whoever notices the end first.
func TestNoRetryAfterTheEndOfTheContext(t *testing.T) {
	onEach(t, memory, func(t *testing.T, p pools.Pool) {
		for range 20 {
			ctx, cancel := context.WithCancel(bg)
			var runs atomic.Int32
			leave := func(context.Context, int) (int, error) {
				runs.Add(1)
				cancel()
				return 0, errors.New("left")
			}
			if _, err := pools.Map(ctx, p, leave, numbers(1), pools.Retries(100)); err != context.Canceled { //nolint:errorlint // exactly this one
				t.Fatal(err)
			}
			if n := runs.Load(); n != 1 {
				t.Fatalf("the task ran %d times", n)
			}
		}
	})
}

func TestACancelledMapDoesNotWaitForTheStubborn(t *testing.T) {
	onEach(t, memory|abandons, func(t *testing.T, p pools.Pool) {
		release := make(chan struct{})
		ctx, cancel := context.WithCancel(bg)
		started := make(chan struct{}, 10)
		got, err := pools.Map(ctx, p, func(_ context.Context, x int) (int, error) {
			if x > 0 {
				started <- struct{}{}
				cancel()
				<-release
			}
			return 1, nil
		}, numbers(2), pools.ContinueOnError(), pools.ChunkSize(1))
		if !errors.Is(err, context.Canceled) || len(got) != 2 || got[1] != 0 {
			t.Errorf("%v, %v", got, err)
		}
		stillWorks(t, p) // with as many workers as before
		close(release)
		if err := p.Close(); err != nil { // when the stubborn have ended
			t.Error(err)
		}
		if got[1] != 0 {
			t.Error("a task that was left behind has written a result")
		}
	})
}

func TestStreamsAreInOrder(t *testing.T) {
	onEach(t, 0, func(t *testing.T, p pools.Pool) {
		for _, n := range []int{0, 1, 2, 300, 5000} {
			var got []int
			for r, err := range square.Stream(bg, p, slices.Values(numbers(n))) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, r)
			}
			if !slices.Equal(got, squares(n)) {
				t.Errorf("%d tasks: %d results", n, len(got))
			}
			got = got[:0]
			for r, err := range square.Stream(bg, p, slices.Values(numbers(n)), pools.Unordered(), pools.ChunkSize(3)) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, r)
			}
			slices.Sort(got)
			if !slices.Equal(got, squares(n)) {
				t.Errorf("%d tasks, unordered: %d results", n, len(got))
			}
		}
	})
}

func TestAnEndlessStreamEndsWhenItsLoopIsLeft(t *testing.T) {
	onEach(t, 0, func(t *testing.T, p pools.Pool) {
		drawn, ended := 0, false
		tasks := func(yield func(int) bool) {
			defer func() { ended = true }()
			for ; yield(drawn); drawn++ {
			}
		}
		n := 0
		for r, err := range square.Stream(bg, p, tasks) {
			if err != nil || r != n*n {
				t.Fatalf("%d: %d, %v", n, r, err)
			}
			if n++; n == 3000 {
				break
			}
		}
		if !ended || n != 3000 {
			t.Errorf("ended %v after %d results", ended, n)
		}
		// How far the workers get while the results are read depends on who gets the CPUs; what bounds it is 64 chunks per worker, and
		// chunks of at most a part of what came so far.
		if most := 3000 + 500_000*max(p.Size(), 1); drawn > most {
			t.Errorf("%d tasks drawn for 3000 results", drawn)
		}
	})
}

func TestAFailedTaskEndsTheStream(t *testing.T) {
	onEach(t, 0, func(t *testing.T, p pools.Pool) {
		for _, opts := range [][]pools.Option{nil, {pools.ContinueOnError()}} {
			var got, failed []int
			for r, err := range even.Stream(bg, p, slices.Values([]int{0, 2, 3, 4, 5, 6}), opts...) {
				var e *pools.TaskError
				if errors.As(err, &e) {
					failed = append(failed, e.Index)
				} else {
					got = append(got, r)
				}
			}
			want := "[0 2] [2]"
			if opts != nil {
				want = "[0 2 4 6] [2 4]"
			}
			if s := fmt.Sprint(got, failed); s != want {
				t.Errorf("%s, want %s", s, want)
			}
		}
	})
}

func TestASourceThatWaits(t *testing.T) {
	onEach(t, parallel, func(t *testing.T, p pools.Pool) {
		// Each task comes of the result before it. Nothing may be held back for want of more tasks.
		follow := make(chan int, 1)
		follow <- 2
		tasks := func(yield func(int) bool) {
			for x := range follow {
				if !yield(x) {
					return
				}
			}
		}
		var got []int
		for r, err := range square.Stream(bg, p, tasks) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, r)
			if len(got) == 4 {
				close(follow)
			} else {
				follow <- r
			}
		}
		if fmt.Sprint(got) != "[4 16 256 65536]" {
			t.Errorf("%v", got)
		}
	})
}

func TestASourceThatPanics(t *testing.T) {
	onEach(t, 0, func(t *testing.T, p pools.Pool) {
		n := 0
		defer func() {
			if v := recover(); v != nil && (p.Size() > 0 || v != "no more") {
				t.Errorf("%v", v)
			}
			if n > 10 {
				t.Errorf("%d results", n)
			}
			stillWorks(t, p)
		}()
		var last error
		for _, err := range square.Stream(bg, p, func(yield func(int) bool) {
			for i := range 10 {
				yield(i)
			}
			panic("no more")
		}) {
			if last = err; err == nil {
				n++
			}
		}
		var panicked *pools.PanicError
		if !errors.As(last, &panicked) || panicked.Value != "no more" || n != 10 {
			t.Errorf("%v after %d", last, n)
		}
	})
}

func TestCallbacks(t *testing.T) {
	onEach(t, 0, func(t *testing.T, p pools.Pool) {
		for _, opts := range [][]pools.Option{nil, {pools.Unordered()}, {pools.ChunkSize(7)}, {pools.ContinueOnError()}} {
			var seen []int
			done := 0
			got, err := square.Map(bg, p, numbers(300), append(opts,
				pools.Callback(func(i, r int) {
					if r != i*i {
						t.Errorf("result %d is %d", i, r)
					}
					seen = append(seen, i)
				}),
				pools.OnProgress(func(n, total int) {
					if n <= done || total != 300 {
						t.Errorf("%d of %d after %d", n, total, done)
					}
					done = n
				}))...)
			if err != nil || len(got) != 300 || done != 300 {
				t.Errorf("%v, %d done", err, done)
			}
			if len(opts) == 0 && !slices.IsSorted(seen) {
				t.Error("callbacks in the order of the tasks expected")
			}
			slices.Sort(seen)
			if !slices.Equal(seen, numbers(300)) {
				t.Errorf("%d callbacks", len(seen))
			}
		}
		done := 0
		for _, err := range even.Stream(bg, p, slices.Values(numbers(50)), pools.ContinueOnError(), pools.OnProgress(func(n, total int) {
			if done = n; total != -1 {
				t.Errorf("total %d", total)
			}
		})) {
			_ = err
		}
		if done != 50 {
			t.Errorf("%d done", done)
		}
	})
}

func TestACallbackThatPanics(t *testing.T) {
	onEach(t, 0, func(t *testing.T, p pools.Pool) {
		defer func() {
			if v := recover(); v != "enough" {
				t.Errorf("%v", v)
			}
			stillWorks(t, p)
		}()
		_, err := square.Map(bg, p, numbers(100), pools.Callback(func(i, r int) {
			if i == 50 {
				panic("enough")
			}
		}))
		t.Errorf("no panic, %v", err)
	})
}

func TestMisuse(t *testing.T) {
	ran := new(atomic.Int32)
	f := func(context.Context, int) (int, error) { ran.Add(1); return 0, nil }
	onEach(t, closures, func(t *testing.T, p pools.Pool) {
		for name, opt := range map[string]pools.Option{
			"ChunkSize(0)": pools.ChunkSize(0), "Retries(-1)": pools.Retries(-1), "TaskTimeout(0s)": pools.TaskTimeout(0),
			"func(int, string)": pools.Callback(func(int, string) {}), "Callback(nil)": pools.Callback[int](nil), "OnProgress(nil)": pools.OnProgress(nil),
		} {
			if _, err := pools.Map(bg, p, f, numbers(3), opt); !errors.Is(err, pools.ErrArgument) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v", name, err)
			}
			for _, err := range pools.Stream(bg, p, f, count, opt) {
				if !errors.Is(err, pools.ErrArgument) {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		var none pools.Func[int, int]
		if _, err := none.Map(bg, p, numbers(3)); !errors.Is(err, pools.ErrArgument) {
			t.Error(err)
		}
		if err := pools.ForEach[int](bg, p, nil, numbers(3)); !errors.Is(err, pools.ErrArgument) {
			t.Error(err)
		}
		for _, err := range pools.Stream(bg, p, f, iter.Seq[int](nil)) {
			if !errors.Is(err, pools.ErrArgument) {
				t.Error(err)
			}
		}
	})
	if _, err := pools.Map(bg, nil, f, numbers(3)); !errors.Is(err, pools.ErrArgument) {
		t.Error(err)
	}
	if ran.Load() != 0 {
		t.Errorf("%d tasks ran", ran.Load())
	}
}

func TestClose(t *testing.T) {
	onEach(t, 0, func(t *testing.T, p pools.Pool) {
		stillWorks(t, p)
		for range 2 {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
		if _, err := square.Map(bg, p, numbers(3)); !errors.Is(err, pools.ErrClosed) {
			t.Error(err)
		}
		for _, err := range square.Stream(bg, p, count) {
			if !errors.Is(err, pools.ErrClosed) {
				t.Error(err)
			}
		}
		if !strings.Contains(p.String(), "closed") {
			t.Error(p)
		}
	})
}

func TestCloseWaits(t *testing.T) {
	onEach(t, memory|closures, func(t *testing.T, p pools.Pool) {
		started, release, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		go func() {
			_, err := pools.Map(bg, p, func(context.Context, int) (int, error) {
				close(started)
				<-release
				return 0, nil
			}, numbers(1))
			ended <- err
		}()
		<-started
		closed := make(chan error, 1)
		go func() { closed <- p.Close() }()
		for !strings.Contains(p.String(), "closed") {
			runtime.Gosched()
		}
		select {
		case err := <-closed:
			t.Errorf("Close did not wait: %v", err)
		default:
		}
		close(release)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
}

func TestCloseFromWithin(t *testing.T) {
	onEach(t, memory|closures, func(t *testing.T, p pools.Pool) {
		err := pools.ForEach(bg, p, func(context.Context, int) error { return p.Close() }, numbers(1))
		if err == nil || !strings.Contains(err.Error(), "from within") {
			t.Error(err)
		}
	})
	onEach(t, memory|closures, func(t *testing.T, p pools.Pool) {
		for range square.Stream(bg, p, count) {
			if err := p.Close(); err == nil || !strings.Contains(err.Error(), "from within") {
				t.Error(err)
			}
			break
		}
	})
}

func TestManyGoroutinesShareAPool(t *testing.T) {
	onEach(t, 0, func(t *testing.T, p pools.Pool) {
		var wg sync.WaitGroup
		for g := range 12 {
			wg.Go(func() {
				for k := range 30 {
					n := (g*31 + k*7) % 120
					switch g % 3 {
					case 0:
						if got, err := square.Map(bg, p, numbers(n)); err != nil || !slices.Equal(got, squares(n)) {
							t.Errorf("%d: %v", n, err)
						}
					case 1:
						i := 0
						for r, err := range square.Stream(bg, p, slices.Values(numbers(n))) {
							if err != nil || r != i*i {
								t.Errorf("%d: %d, %v", i, r, err)
							}
							i++
						}
						if i != n {
							t.Errorf("%d of %d", i, n)
						}
					case 2:
						if _, err := even.Map(bg, p, numbers(n)); (err != nil) != (n > 1) {
							t.Errorf("%d: %v", n, err)
						}
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestNoMoreTasksAtOnceThanWorkers(t *testing.T) {
	onEach(t, memory|closures, func(t *testing.T, p pools.Pool) {
		if p.Size() == 0 {
			t.Skip("runs in its callers")
		}
		var now, most atomic.Int32
		task := func(_ context.Context, x int) (int, error) {
			n := now.Add(1)
			defer now.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			for range x % 50 {
				runtime.Gosched()
			}
			return x, nil
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 5 {
					if _, err := pools.Map(bg, p, task, numbers(100)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if n := int(most.Load()); n > p.Size() {
			t.Errorf("%d tasks at once on %d workers", n, p.Size())
		}
	})
}

func TestNesting(t *testing.T) {
	onEach(t, memory|closures, func(t *testing.T, p pools.Pool) {
		for name, inner := range map[string]func(context.Context) context.Context{
			"the task's context": func(ctx context.Context) context.Context { return ctx },
			"one made of it":     func(ctx context.Context) context.Context { return context.WithValue(ctx, new(int), 1) },
			"another context":    func(context.Context) context.Context { return bg },
		} {
			for _, opts := range [][]pools.Option{nil, {pools.TaskTimeout(time.Minute)}, {pools.ChunkSize(1)}} {
				var sum func(ctx context.Context, depth int) (int, error)
				sum = func(ctx context.Context, depth int) (int, error) {
					if depth == 0 {
						return 1, nil
					}
					parts, err := pools.Map(inner(ctx), p, sum, slices.Repeat([]int{depth - 1}, 4), opts...)
					n := 0
					for _, x := range parts {
						n += x
					}
					return n, err
				}
				if got, err := sum(bg, 4); err != nil || got != 256 {
					t.Errorf("%s: %d, %v", name, got, err)
				}
				got, err := pools.Map(bg, p, func(ctx context.Context, n int) (int, error) {
					s := 0
					for r, err := range square.Stream(inner(ctx), p, slices.Values(numbers(n))) {
						if err != nil {
							return 0, err
						}
						s += r
					}
					return s, nil
				}, slices.Repeat([]int{10}, 20))
				if err != nil || !slices.Equal(got, slices.Repeat([]int{285}, 20)) {
					t.Errorf("%s: %v, %v", name, got, err)
				}
			}
		}
	})
}

func TestGoexit(t *testing.T) {
	onEach(t, memory|closures, func(t *testing.T, p pools.Pool) {
		for range 20 {
			result := make(chan error, 1)
			go func() {
				defer close(result) // a task that runs on this goroutine ends it
				_, err := pools.Map(bg, p, func(_ context.Context, x int) (int, error) {
					if x == 3 {
						runtime.Goexit()
					}
					return x, nil
				}, numbers(10))
				result <- err
			}()
			if err, ok := <-result; ok && !errors.Is(err, pools.ErrGoexit) {
				t.Error(err)
			}
			stillWorks(t, p)
		}
		if p.Size() == 0 {
			return // it is always this goroutine that ends
		}
		got, err := pools.Map(bg, p, func(_ context.Context, x int) (int, error) {
			if x < 10 {
				runtime.Goexit()
			}
			return x, nil
		}, numbers(30), pools.ContinueOnError(), pools.ChunkSize(4), pools.TaskTimeout(time.Hour)) // with which tasks run elsewhere
		if !errors.Is(err, pools.ErrGoexit) || len(got) != 30 || got[9] != 0 || got[29] != 29 {
			t.Errorf("%v, %v", got, err)
		}
	})
}

func TestTheErrorOfANestedMapNamesBothTasks(t *testing.T) {
	onEach(t, memory|closures, func(t *testing.T, p pools.Pool) {
		_, err := pools.Map(bg, p, func(ctx context.Context, x int) ([]int, error) {
			return even.Map(ctx, p, []int{0, x, 2 * x})
		}, []int{2, 4, 5})
		var outer, inner *pools.TaskError
		if !errors.As(err, &outer) || outer.Index != 2 || !errors.As(outer.Err, &inner) || inner.Index != 1 {
			t.Errorf("%v", err)
		}
	})
}

func TestForEach(t *testing.T) {
	onEach(t, memory|closures, func(t *testing.T, p pools.Pool) {
		var sum atomic.Int64
		err := pools.ForEach(bg, p, func(_ context.Context, x int) error { sum.Add(int64(x)); return nil }, numbers(1000))
		if err != nil || sum.Load() != 499_500 {
			t.Errorf("%v, %d", err, sum.Load())
		}
		err = pools.ForEach(bg, p, func(_ context.Context, x int) error { return errOdd }, numbers(5))
		if !errors.Is(err, errOdd) {
			t.Error(err)
		}
	})
}

func TestTasksLearnThatTheyAreNotWanted(t *testing.T) {
	onEach(t, memory|closures|parallel, func(t *testing.T, p pools.Pool) {
		waiting := make(chan struct{})
		_, err := pools.Map(bg, p, func(ctx context.Context, x int) (int, error) {
			if x == 1 {
				<-waiting
				return 0, errOdd
			}
			inner, cancel := context.WithCancel(ctx)
			defer cancel()
			close(waiting)
			<-inner.Done()
			if !errors.Is(context.Cause(ctx), errOdd) {
				t.Errorf("cause: %v", context.Cause(ctx))
			}
			return 0, ctx.Err()
		}, numbers(2), pools.ChunkSize(1))
		var failed *pools.TaskError
		if !errors.As(err, &failed) || failed.Index != 1 {
			t.Error(err)
		}
	})
}

func TestContextsOfTasksAreContexts(t *testing.T) {
	onEach(t, memory|closures, func(t *testing.T, p pools.Pool) {
		type key struct{}
		deadline := time.Now().Add(time.Hour)
		ctx, cancel := context.WithDeadline(context.WithValue(bg, key{}, "value"), deadline)
		defer cancel()
		var kept context.Context
		_, err := pools.Map(ctx, p, func(ctx context.Context, x int) (int, error) {
			if d, ok := ctx.Deadline(); !ok || !d.Equal(deadline) || ctx.Value(key{}) != "value" || ctx.Err() != nil {
				t.Errorf("%v", ctx)
			}
			kept = ctx
			return x, nil
		}, numbers(1))
		if err != nil {
			t.Error(err)
		}
		<-kept.Done() // it ends with the call
		if kept.Err() == nil {
			t.Error("no error")
		}
	})
}
