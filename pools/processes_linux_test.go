//go:build linux && (amd64 || arm64)

package pools_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

// Functions that the worker processes of this test binary know.
var (
	squareFloat = pools.Register("process.square", func(_ context.Context, x float64) (float64, error) { return x * x, nil })
	mirror      = pools.Register("process.mirror", func(_ context.Context, p point) (*point, error) {
		return &point{X: p.Y, Y: p.X, Tag: p.Tag, Data: p.Data}, nil
	})
	picky = pools.Register("process.picky", func(_ context.Context, i int) (int, error) {
		switch {
		case i%7 == 3:
			return 0, fmt.Errorf("do not like %d", i)
		case i%7 == 5:
			panic(fmt.Sprintf("jump %d", i))
		}
		return i, nil
	})
	act = pools.Register("process.act", actAs)
)

type point struct {
	X, Y float64
	Tag  string `msgpack:"tag,omitempty"`
	Data []float64
}

// deed is what a task does; Once is a file that the first to do it makes, so that a second attempt goes well.
type deed struct{ What, Once string }

func actAs(ctx context.Context, d deed) (int, error) {
	if d.Once != "" {
		f, err := os.OpenFile(d.Once, os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return os.Getpid(), nil
		}
		_ = f.Close()
	}
	switch d.What {
	case "panic":
		panic("on purpose")
	case "exit":
		os.Exit(3)
	case "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "loop":
		for i := 0; ; i++ { // deaf to everything but a signal
			runtime.KeepAlive(i)
		}
	case "goexit":
		runtime.Goexit()
	case "wait":
		<-ctx.Done()
		return 0, ctx.Err()
	case "channel":
	}
	return os.Getpid(), nil
}

// processPool opens a pool of worker processes, and sees to it that the test ends.
func processPool(t *testing.T, n int, opts ...pools.PoolOption) *pools.MultiPool {
	t.Helper()
	dog := time.AfterFunc(time.Minute, func() { panic("this test hangs") })
	p, err := pools.NewMultiPool(n, append(opts, pools.Processes())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		dog.Stop()
	})
	return p
}

func upTo(n int) []float64 {
	xs := make([]float64, n)
	for i := range xs {
		xs[i] = float64(i)
	}
	return xs
}

func TestProcessesMap(t *testing.T) {
	p := processPool(t, 2)
	for _, n := range []int{0, 1, 2, 16, 10000} {
		out, err := squareFloat.Map(t.Context(), p, upTo(n))
		if err != nil || len(out) != n {
			t.Fatal(n, len(out), err)
		}
		for i, x := range out {
			if x != float64(i*i) {
				t.Fatal(i, x)
			}
		}
	}
	points := make([]point, 300)
	for i := range points { // the last ones are beyond 64 KiB, beside the payload
		points[i] = point{float64(i), 1, "a", upTo(i * 40)}
	}
	back, err := mirror.Map(t.Context(), p, points)
	if err != nil {
		t.Fatal(err)
	}
	for i, q := range back {
		if q.Y != float64(i) || q.X != 1 || q.Tag != "a" || !slices.Equal(q.Data, upTo(i*40)) {
			t.Fatal(i, q.X, q.Y, len(q.Data))
		}
	}
	if _, err := squareFloat.Map(t.Context(), p, upTo(4), pools.Callback(func(i int, r float64) {
		if err := p.Close(); err == nil {
			t.Error("Close from within a callback says nothing")
		}
	})); err != nil {
		t.Fatal(err)
	}
	if _, err := pools.Map(t.Context(), p, func(_ context.Context, i int) (int, error) { return i, nil }, []int{1}); !errors.Is(err, pools.ErrNotRegistered) {
		t.Fatal(err)
	}
}

func TestProcessesErrors(t *testing.T) {
	p := processPool(t, 2)
	tasks := make([]int, 100)
	for i := range tasks {
		tasks[i] = i
	}
	for _, retries := range []int{0, 1} { // with and without errors among the results of a chunk
		out, err := picky.Map(t.Context(), p, tasks, pools.ContinueOnError(), pools.Retries(retries))
		several, ok := err.(interface{ Unwrap() []error })
		if !ok || len(several.Unwrap()) != 28 {
			t.Fatal(err)
		}
		for i, e := range several.Unwrap() {
			var te *pools.TaskError
			if !errors.As(e, &te) || te.Index != i/2*7+3+i%2*2 || te.Pid == os.Getpid() || te.Attempts != retries+1 {
				t.Fatalf("%d: %#v", i, e)
			}
		}
		for i, x := range out {
			if i%7 != 3 && i%7 != 5 && x != i {
				t.Fatal(i, x)
			}
		}
		var panicked *pools.PanicError
		if !errors.As(err, &panicked) || panicked.Value != "jump 5" || !strings.Contains(string(panicked.Stack), "processes_linux_test.go") {
			t.Fatalf("%+v", panicked)
		}
		var remote *pools.RemoteError
		if !errors.As(err, &remote) || remote.Message != "do not like 3" || remote.Type != "*errors.errorString" && remote.Type != "*fmt.wrapError" {
			t.Fatalf("%+v", remote)
		}
	}
	if _, err := picky.Map(t.Context(), p, tasks); err == nil {
		t.Fatal("no error")
	}
	if out, err := picky.Map(t.Context(), p, []int{1, 2}); err != nil || out[1] != 2 {
		t.Fatal(out, err)
	}
	type bad struct{ C chan int }
	if _, err := pools.Register("process.bad", func(context.Context, bad) (int, error) { return 0, nil }).Map(t.Context(), p, make([]bad, 1)); !errors.Is(err, pools.ErrArgument) ||
		!strings.Contains(err.Error(), "chan") {
		t.Fatal(err)
	}
	var late = pools.Register("process.late", func(_ context.Context, i int) (int, error) { return i, nil })
	if _, err := late.Map(t.Context(), p, []int{1}); !errors.Is(err, pools.ErrNotRegistered) {
		t.Fatal(err)
	}
}

// TestProcessesCrash: what happens to one task costs nothing but that task.
func TestProcessesCrash(t *testing.T) {
	p := processPool(t, 2)
	lost := func(code int, sig syscall.Signal) func(error) bool {
		return func(err error) bool {
			var l *pools.WorkerLostError
			return errors.As(err, &l) && l.ExitCode == code && l.Signal == sig && l.Pid != 0 && l.Host != ""
		}
	}
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	for _, c := range []struct {
		what string
		want func(error) bool
	}{
		{"panic", func(err error) bool { var e *pools.PanicError; return errors.As(err, &e) && len(e.Stack) > 0 }},
		{"exit", lost(3, 0)},
		{"kill", lost(-1, syscall.SIGKILL)},
		{"goexit", func(err error) bool { return strings.Contains(err.Error(), "Goexit") }},
		{"loop", is(pools.ErrTaskTimeout)},
		{"wait", is(pools.ErrTaskTimeout)},
	} {
		opts := []pools.Option{pools.ContinueOnError()}
		if c.what == "loop" || c.what == "wait" {
			opts = append(opts, pools.TaskTimeout(100*time.Millisecond))
		}
		tasks := make([]deed, 8)
		tasks[3].What = c.what
		pids, err := act.Map(t.Context(), p, tasks, opts...)
		var te *pools.TaskError
		if !errors.As(err, &te) || te.Index != 3 || te.Rank != -1 || !c.want(err) {
			t.Fatalf("%s: %v", c.what, err)
		}
		for i, pid := range pids {
			if (pid == 0) != (i == 3) {
				t.Fatal(c.what, pids)
			}
		}
		tasks[3].Once = t.TempDir() + "/once"
		if pids, err := act.Map(t.Context(), p, tasks, append(opts, pools.Retries(1))...); err != nil || slices.Contains(pids, 0) {
			t.Fatalf("%s, tried again: %v %v", c.what, pids, err)
		}
	}
}

func TestProcessesCancel(t *testing.T) {
	p := processPool(t, 2)
	for _, what := range []string{"loop", "wait"} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := act.Map(ctx, p, []deed{{What: what}, {What: what}, {What: what}})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(what, err)
		}
		if pids, err := act.Map(t.Context(), p, make([]deed, 4)); err != nil {
			t.Fatal(pids, err)
		}
	}
	// The failure of another task ends the context of one that waits for it.
	if _, err := act.Map(t.Context(), p, []deed{{What: "wait"}, {What: "panic"}}, pools.ChunkSize(1)); err == nil {
		t.Fatal("no error")
	}
	if _, err := act.Map(t.Context(), p, make([]deed, 4)); err != nil {
		t.Fatal(err)
	}
}

func TestProcessesStream(t *testing.T) {
	p := processPool(t, 2)
	drawn := 0
	endless := func(yield func(float64) bool) {
		for ; yield(float64(drawn)); drawn++ {
		}
	}
	i := 0
	for x, err := range squareFloat.Stream(t.Context(), p, endless) {
		if err != nil || x != float64(i*i) {
			t.Fatal(i, x, err)
		}
		if i++; i == 20000 {
			break
		}
	}
	if drawn > 2_000_000 {
		t.Fatalf("%d tasks were drawn for 20000", drawn)
	}
	for _, opts := range [][]pools.Option{nil, {pools.Unordered()}, {pools.ChunkSize(7)}} {
		sum, n := 0.0, 0
		for x, err := range squareFloat.Stream(t.Context(), p, slices.Values(upTo(1000)), opts...) {
			if err != nil {
				t.Fatal(err)
			}
			sum, n = sum+x, n+1
		}
		if n != 1000 || sum != 332833500 {
			t.Fatal(n, sum)
		}
	}
	// Each task is made of the result before: nobody waits for a chunk to be full.
	results := make(chan float64, 1)
	results <- 3
	chain := func(yield func(float64) bool) {
		for x := range results {
			if !yield(x) {
				return
			}
		}
	}
	n := 0
	for x, err := range squareFloat.Stream(t.Context(), p, chain) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 20 {
			close(results)
			continue
		}
		results <- x - 6
		if n < 20 && x != 9 {
			t.Fatal(n, x)
		}
	}
	if n != 20 {
		t.Fatal(n)
	}
}

func TestProcessesRetire(t *testing.T) {
	p := processPool(t, 2, pools.MaxTasksPerProcess(5))
	pids, err := act.Map(t.Context(), p, make([]deed, 100))
	if err != nil {
		t.Fatal(err)
	}
	tasks := make(map[int]int)
	for _, pid := range pids {
		tasks[pid]++
	}
	for pid, n := range tasks {
		if n > 5 {
			t.Fatalf("worker %d ran %d tasks", pid, n)
		}
	}
}

// The suite for all pools, over worker processes.
func init() {
	makers = append(makers,
		maker{"MultiPool, Processes", func(t *testing.T) pools.Pool { return must(pools.NewMultiPool(2, pools.Processes())) }, parallel},
		maker{"JoblibPool, Processes, PreDispatch(3)", func(t *testing.T) pools.Pool {
			return must(pools.NewJoblibPool(2, pools.Processes(), pools.PreDispatch(3)))
		}, parallel},
	)
}

func BenchmarkProcesses(b *testing.B) {
	p, err := pools.NewMultiPool(2, pools.Processes())
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	for _, n := range []int{16, 10_000} {
		tasks := upTo(n)
		b.Run(fmt.Sprint(n, " floats"), func(b *testing.B) {
			for b.Loop() {
				if _, err := squareFloat.Map(b.Context(), p, tasks); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	points := make([]point, 1000)
	for i := range points {
		points[i] = point{float64(i), 1, "tag", []float64{1, 2, 3}}
	}
	b.Run("1000 structs", func(b *testing.B) {
		for b.Loop() {
			if _, err := mirror.Map(b.Context(), p, points); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("stream", func(b *testing.B) {
		i := 0
		for _, err := range squareFloat.Stream(b.Context(), p, func(yield func(float64) bool) {
			for yield(1) {
			}
		}) {
			if i++; err != nil || i == b.N {
				break
			}
		}
	})
}

func TestChooseMPI(t *testing.T) {
	p, err := pools.Choose(pools.MPI(true), pools.Workers(3))
	if !errors.Is(err, pools.ErrUnavailable) || p != nil { // no launcher has started this test, whatever it was built with
		t.Fatal(p, err)
	}
	if p, err := pools.Choose(pools.MPI(false)); err != nil || p.Size() != 0 {
		t.Fatal(p, err)
	}
}
