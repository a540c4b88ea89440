// Package gopeers measures pools side by side with other Go pools, in one run: go test -bench . -benchmem
//
// Each contender maps a function over a slice and collects results and the first error, in the way that its documentation shows. Those
// that only submit closures get one per task.
package gopeers

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/alitto/pond/v2"
	"github.com/panjf2000/ants/v2"
	"github.com/schwimmbad-go/schwimmbad-go/pools"
	"github.com/sourcegraph/conc/iter"
	concpool "github.com/sourcegraph/conc/pool"
	"github.com/sourcegraph/conc/stream"
	"golang.org/x/sync/errgroup"
)

// contender maps f over tasks.
type contender struct {
	name string
	run  func(f func(context.Context, int) (int, error), tasks []int) ([]int, error)
}

func contenders(tb testing.TB) []contender {
	workers := runtime.GOMAXPROCS(0)
	ctx := context.Background()
	multi, err := pools.NewMultiPool(workers)
	if err != nil {
		tb.Fatal(err)
	}
	serial := pools.NewSerialPool()
	ponds := pond.NewPool(workers)
	ants, err := ants.NewPool(workers)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ponds.StopAndWait()
		ants.Release()
		if err := multi.Close(); err != nil {
			tb.Error(err)
		}
	})
	return []contender{
		{"multipool", func(f func(context.Context, int) (int, error), tasks []int) ([]int, error) {
			return pools.Map(ctx, multi, f, tasks)
		}},
		{"serialpool", func(f func(context.Context, int) (int, error), tasks []int) ([]int, error) {
			return pools.Map(ctx, serial, f, tasks)
		}},
		{"loop", func(f func(context.Context, int) (int, error), tasks []int) ([]int, error) {
			out := make([]int, len(tasks))
			for i, t := range tasks {
				r, err := f(ctx, t)
				if err != nil {
					return nil, err
				}
				out[i] = r
			}
			return out, nil
		}},
		{"errgroup", func(f func(context.Context, int) (int, error), tasks []int) ([]int, error) {
			out := make([]int, len(tasks))
			g, ctx := errgroup.WithContext(ctx)
			g.SetLimit(workers)
			for i, t := range tasks {
				g.Go(func() (err error) {
					out[i], err = f(ctx, t)
					return err
				})
			}
			return out, g.Wait()
		}},
		{"conc.iter", func(f func(context.Context, int) (int, error), tasks []int) ([]int, error) {
			return iter.MapErr(tasks, func(t *int) (int, error) { return f(ctx, *t) })
		}},
		{"conc.pool", func(f func(context.Context, int) (int, error), tasks []int) ([]int, error) {
			p := concpool.NewWithResults[int]().WithContext(ctx).WithCancelOnError().WithMaxGoroutines(workers)
			for _, t := range tasks {
				p.Go(func(ctx context.Context) (int, error) { return f(ctx, t) })
			}
			return p.Wait()
		}},
		{"pond", func(f func(context.Context, int) (int, error), tasks []int) ([]int, error) {
			out := make([]int, len(tasks))
			g := ponds.NewGroup()
			for i, t := range tasks {
				g.SubmitErr(func() (err error) {
					out[i], err = f(ctx, t)
					return err
				})
			}
			return out, g.Wait()
		}},
		{"ants", func(f func(context.Context, int) (int, error), tasks []int) ([]int, error) {
			out := make([]int, len(tasks))
			errs := make([]error, len(tasks))
			var wg sync.WaitGroup
			wg.Add(len(tasks))
			for i, t := range tasks {
				if err := ants.Submit(func() {
					defer wg.Done()
					out[i], errs[i] = f(ctx, t)
				}); err != nil {
					return nil, err
				}
			}
			wg.Wait()
			for _, err := range errs {
				if err != nil {
					return nil, err
				}
			}
			return out, nil
		}},
	}
}

func tiny(_ context.Context, x int) (int, error) { return x + 1, nil }

// spin is a task of about a microsecond.
func spin(_ context.Context, x int) (int, error) {
	v := uint64(x) | 1
	for range 1000 {
		v ^= v << 13
		v ^= v >> 7
		v ^= v << 17
	}
	return int(v), nil
}

// BenchmarkMap reports the wall time of a map and of one task.
func BenchmarkMap(b *testing.B) {
	for _, work := range []struct {
		name string
		f    func(context.Context, int) (int, error)
		n    int
	}{{"tiny", tiny, 16}, {"tiny", tiny, 10_000}, {"tiny", tiny, 1_000_000}, {"1us", spin, 16}, {"1us", spin, 10_000}} {
		tasks := make([]int, work.n)
		for i := range tasks {
			tasks[i] = i
		}
		for _, c := range contenders(b) {
			b.Run(fmt.Sprintf("%s/n=%d/%s", work.name, work.n, c.name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := c.run(work.f, tasks); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(work.n), "ns/task")
			})
		}
	}
}

// BenchmarkStream is results in order from a sequence, beside conc's stream; MultiPool.Stream is bounded in memory, as that is.
func BenchmarkStream(b *testing.B) {
	workers := runtime.GOMAXPROCS(0)
	multi, err := pools.NewMultiPool(workers)
	if err != nil {
		b.Fatal(err)
	}
	defer multi.Close()
	source := func(yield func(int) bool) {
		for i := 0; yield(i); i++ {
		}
	}
	for _, work := range []struct {
		name string
		f    func(context.Context, int) (int, error)
	}{{"tiny", tiny}, {"1us", spin}} {
		for name, pool := range map[string]pools.Pool{"multipool": multi, "serialpool": pools.NewSerialPool()} {
			b.Run(work.name+"/"+name, func(b *testing.B) {
				b.ReportAllocs()
				n := 0
				for _, err := range pools.Stream(context.Background(), pool, work.f, source) {
					if err != nil {
						b.Fatal(err)
					}
					if n++; n >= b.N {
						break
					}
				}
			})
		}
		b.Run(work.name+"/conc.stream", func(b *testing.B) {
			b.ReportAllocs()
			s := stream.New().WithMaxGoroutines(workers)
			n := 0
			for i := range b.N {
				s.Go(func() stream.Callback {
					if _, err := work.f(context.Background(), i); err != nil {
						b.Error(err)
					}
					return func() { n++ }
				})
			}
			s.Wait()
		})
	}
}
