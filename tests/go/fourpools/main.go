// Fourpools maps the same functions over all four pools, and Python's over those that run it, alone or on MPI ranks, and tells on
// stdout what it saw. The tests run it: alone, under mpirun, and with a rank that dies.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
	_ "github.com/schwimmbad-go/schwimmbad-go/pyshim"
)

type body struct {
	Name     string
	Mass     float64
	Position []float64 `msgpack:"position"`
}

var (
	square = pools.Register("square", func(_ context.Context, x float64) (float64, error) { return x * x, nil })
	push   = pools.Register("push", func(_ context.Context, b body) (body, error) {
		for i := range b.Position {
			b.Position[i] += b.Mass
		}
		return b, nil
	})
	picky = pools.Register("picky", func(_ context.Context, i int) (int, error) {
		switch {
		case i%10 == 3:
			return 0, fmt.Errorf("no %d", i)
		case i%10 == 7:
			panic(fmt.Sprint("jump ", i))
		}
		return -i, nil
	})
	act = pools.Register("act", func(ctx context.Context, what string) (int, error) {
		switch what {
		case "exit":
			os.Exit(0) // the worst code: to a launcher it looks like a good end
		case "kill":
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		case "wait":
			<-ctx.Done()
			return 0, ctx.Err()
		case "sleep":
			time.Sleep(time.Hour)
		case "goexit":
			runtime.Goexit()
		}
		return os.Getpid(), nil
	})
	root = pools.Python[float64, float64]("math:sqrt")
	name = pools.Python[body, string]("name", pools.Source("def name(b):\n    return f\"{b['Name']} {b['position'][0]:.0f} {type(b['Mass']).__name__}\"\n"))
)

func main() {
	pools.Main()
	log.SetFlags(0)
	which := flag.String("pools", "serial,multi,processes,joblib", "pools to try: also mpi, mpi-processes, mpi-python")
	crash := flag.String("crash", "", "what one task is to do after that: exit, kill, wait, sleep")
	python := flag.Bool("python", true, "map Python's functions, too")
	flag.Parse()
	for _, kind := range strings.Split(*which, ",") {
		p, err := open(kind)
		if err != nil {
			log.Fatalf("%s: %v (unavailable: %v)", kind, err, errors.Is(err, pools.ErrUnavailable))
		}
		if kind != "mpi-python" {
			check(kind, p)
		}
		if *python && kind != "mpi" && kind != "mpi-processes" {
			checkPython(kind, p)
		}
		if *crash != "" {
			fmt.Println(kind, "crash:", collapse(p, *crash))
		}
		if err := p.Close(); err != nil {
			log.Fatalf("%s: close: %v", kind, err)
		}
		if _, err := square.Map(context.Background(), p, []float64{1}); !errors.Is(err, pools.ErrClosed) {
			log.Fatalf("%s: after its end: %v", kind, err)
		}
		fmt.Println(kind, "ok, workers:", p.Size())
	}
}

func open(kind string) (pools.Pool, error) {
	switch kind {
	case "serial":
		return pools.NewSerialPool(), nil
	case "multi":
		return pools.NewMultiPool(2)
	case "processes":
		return pools.NewMultiPool(2, pools.Processes())
	case "joblib":
		return pools.NewJoblibPool(2)
	case "mpi":
		return pools.NewMPIPool()
	case "mpi-processes":
		return pools.NewMPIPool(pools.WorkersPerRank(2))
	case "mpi-python":
		return pools.NewMPIPool(pools.PythonWorkers(""))
	}
	return nil, fmt.Errorf("no pool %q", kind)
}

func must(kind string, err error, ok bool, seen ...any) {
	if err != nil || !ok {
		log.Fatalf("%s: %v, saw %v", kind, err, seen)
	}
}

func check(kind string, p pools.Pool) {
	ctx := context.Background()
	xs := make([]float64, 5000)
	for i := range xs {
		xs[i] = float64(i)
	}
	ys, err := square.Map(ctx, p, xs)
	must(kind, err, len(ys) == len(xs) && ys[4999] == 4999*4999 && ys[17] == 289, len(ys))

	bodies := make([]body, 40)
	for i := range bodies { // the longest ones travel beside their message
		bodies[i] = body{fmt.Sprint("b", i), 1, make([]float64, i*i*i)}
	}
	moved, err := push.Map(ctx, p, bodies, pools.Unordered())
	must(kind, err, len(moved) == 40 && moved[39].Name == "b39" && len(moved[39].Position) == 39*39*39 && moved[39].Position[5] == 1, len(moved))

	n := 0
	for y, err := range square.Stream(ctx, p, slices.Values(xs)) {
		must(kind, err, y == float64(n*n), n, y)
		n++
	}
	must(kind, nil, n == len(xs), n)

	tasks := make([]int, 50)
	for i := range tasks {
		tasks[i] = i
	}
	out, err := picky.Map(ctx, p, tasks, pools.ContinueOnError())
	several, ok := err.(interface{ Unwrap() []error })
	must(kind, nil, ok && len(several.Unwrap()) == 10 && out[49] == -49 && out[8] == -8, err)
	var panicked *pools.PanicError
	must(kind, nil, errors.As(err, &panicked) && len(panicked.Stack) > 0, err)
	_, err = picky.Map(ctx, p, tasks)
	var te *pools.TaskError
	must(kind, nil, errors.As(err, &te) && te.Index%10 == 3 || te.Index%10 == 7, err)
	if strings.HasPrefix(kind, "mpi") {
		must(kind, nil, te.Rank > 0 && te.Host != "" && te.Pid != os.Getpid(), te)
	}

	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = act.Map(short, p, []string{"wait", "wait", "wait"})
	must(kind, nil, errors.Is(err, context.DeadlineExceeded), err)
	_, err = act.Map(ctx, p, []string{"", "wait", ""}, pools.TaskTimeout(50*time.Millisecond))
	must(kind, nil, errors.Is(err, pools.ErrTaskTimeout), err)
	if kind == "processes" || strings.HasPrefix(kind, "mpi") { // elsewhere the task is waited for
		_, err = act.Map(ctx, p, []string{"", "sleep", ""}, pools.TaskTimeout(50*time.Millisecond))
		must(kind, nil, errors.Is(err, pools.ErrTaskTimeout), err)
		_, err = act.Map(ctx, p, []string{"", "goexit", ""}, pools.ContinueOnError())
		must(kind, nil, err != nil && strings.Contains(err.Error(), "Goexit"), err)
	}
	pids, err := act.Map(ctx, p, make([]string, 4))
	must(kind, err, !slices.Contains(pids, 0), pids)
}

func checkPython(kind string, p pools.Pool) {
	ctx := context.Background()
	xs := make([]float64, 3000)
	for i := range xs {
		xs[i] = float64(i * i)
	}
	ys, err := root.Map(ctx, p, xs)
	must(kind, err, len(ys) == len(xs) && ys[2999] == 2999 && !slices.ContainsFunc(ys, math.IsNaN), len(ys))
	names, err := name.Map(ctx, p, []body{{"Sun", 1, []float64{3}}, {"Moon", 2, []float64{4}}})
	must(kind, err, slices.Equal(names, []string{"Sun 3 float", "Moon 4 float"}), names)
	_, err = root.Map(ctx, p, []float64{1, -1})
	var raised *pools.PythonError
	must(kind, nil, errors.As(err, &raised) && raised.Type == "ValueError" && strings.Contains(raised.Traceback, "ValueError"), err)
}

// collapse maps a task that ends its process among others, and says what came of it.
func collapse(p pools.Pool, what string) string {
	_, err := act.Map(context.Background(), p, []string{"", what, ""}, pools.ChunkSize(1))
	var lost *pools.WorkerLostError
	if errors.As(err, &lost) {
		return fmt.Sprintf("lost, %v", err)
	}
	return fmt.Sprint(err)
}
