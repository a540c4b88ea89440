package pools_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

// How long calls take is tested on the false clock of synctest: there it is exact.

// nap is a task that takes its argument's time, seconds if it is negative.
func nap(_ context.Context, d time.Duration) (time.Duration, error) {
	if d > 0 {
		time.Sleep(d)
	}
	return d, nil
}

func multi(t *testing.T, workers int) *pools.MultiPool {
	t.Helper()
	return must(pools.NewMultiPool(workers))
}

// within reports a call that took longer than it may.
func takes(t *testing.T, what string, most time.Duration, f func()) {
	t.Helper()
	begin := time.Now()
	f()
	if d := time.Since(begin); d > most {
		t.Errorf("%s took %v, more than %v", what, d, most)
	}
}

func TestLongTasksAreSpreadAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := multi(t, 16)
		defer p.Close()
		tasks := slices.Repeat([]time.Duration{time.Second}, 16)
		takes(t, "16 tasks of unknown length", time.Second, func() { must(pools.Map(bg, p, nap, tasks)) })
		takes(t, "16 tasks known to be long", time.Second, func() { must(pools.Map(bg, p, nap, tasks)) })
	})
}

// TestAWrongGuess maps a function that was quick so far, so that nobody is woken and all tasks are one chunk.
func TestAWrongGuess(t *testing.T) {
	for name, tasks := range map[string][]time.Duration{
		"all":  slices.Repeat([]time.Duration{time.Second}, 16),
		"last": append(make([]time.Duration, 15), slices.Repeat([]time.Duration{time.Second}, 16)...),
		"ends": append(append([]time.Duration{time.Second}, make([]time.Duration, 900)...), time.Second),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := multi(t, 16)
				defer p.Close()
				for range 10 {
					must(pools.Map(bg, p, nap, make([]time.Duration, 16)))
				}
				takes(t, "the map", 1050*time.Millisecond, func() { must(pools.Map(bg, p, nap, tasks)) })
				must(pools.Map(bg, p, nap, make([]time.Duration, 1000)))
				takes(t, "the map again", 1050*time.Millisecond, func() { must(pools.Map(bg, p, nap, tasks)) })
			})
		})
	}
}

// TestNoTaskWaitsBehindALongOne: whatever the order, the end comes when the work is done or the longest task is.
func TestNoTaskWaitsBehindALongOne(t *testing.T) {
	short, long := 10*time.Millisecond, time.Second
	for name, tasks := range map[string][]time.Duration{
		"first":  append([]time.Duration{long}, slices.Repeat([]time.Duration{short}, 300)...),
		"middle": append(slices.Repeat([]time.Duration{short}, 150), append([]time.Duration{long}, slices.Repeat([]time.Duration{short}, 150)...)...),
		"few":    {short, long, short, short, long, short, short, short},
	} {
		for _, workers := range []int{2, 5} {
			t.Run(fmt.Sprintf("%s/%d", name, workers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := multi(t, workers)
					defer p.Close()
					total := time.Duration(0)
					for _, d := range tasks {
						total += d
					}
					// Never more than list scheduling in the order given: an even share, and then the longest task.
					most := total/time.Duration(workers) + long + 20*time.Millisecond
					for range 2 {
						takes(t, "the map", most, func() { must(pools.Map(bg, p, nap, tasks)) })
					}
				})
			})
		}
	}
}

func TestTheTasksOfAStreamAreSpreadAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := multi(t, 16)
		defer p.Close()
		for range 2 {
			takes(t, "a stream", time.Second, func() {
				for range pools.Stream(bg, p, nap, slices.Values(slices.Repeat([]time.Duration{time.Second}, 16))) {
				}
			})
		}
	})
}

// TestWhoWaitsForAWorkerIsCalled: two callers, one worker. The second one sleeps until the first has done.
func TestWhoWaitsForAWorkerIsCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := multi(t, 1)
		defer p.Close()
		takes(t, "3 maps of one task", 3*time.Second, func() {
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() { must(pools.Map(bg, p, nap, []time.Duration{time.Second})) })
			}
			wg.Wait()
		})
	})
}

func TestAnExplicitChunkIsRunByOneWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := multi(t, 4)
		defer p.Close()
		begin := time.Now()
		must(pools.Map(bg, p, nap, slices.Repeat([]time.Duration{time.Second}, 8), pools.ChunkSize(4)))
		if d := time.Since(begin); d != 4*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

func TestTimeLimitsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := multi(t, 2)
		tasks := []time.Duration{time.Hour, 1, time.Hour, 2, 3, time.Hour}
		begin := time.Now()
		got, err := pools.Map(bg, p, nap, tasks, pools.TaskTimeout(time.Second), pools.ContinueOnError())
		if d := time.Since(begin); d > 3*1050*time.Millisecond {
			t.Errorf("took %v", d)
		}
		if !errors.Is(err, pools.ErrTaskTimeout) || !slices.Equal(got, []time.Duration{0, 1, 0, 2, 3, 0}) {
			t.Errorf("%v, %v", got, err)
		}
		if err := p.Close(); err != nil { // waits for those who ignore their contexts
			t.Error(err)
		}
		if d := time.Since(begin); d < time.Hour {
			t.Errorf("closed after %v", d)
		}
	})
}

func TestRetriesAfterATimeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := multi(t, 2)
		defer p.Close()
		var runs atomic.Int32
		got, err := pools.Map(bg, p, func(_ context.Context, x int) (int, error) {
			if x == 3 && runs.Add(1) < 3 {
				time.Sleep(time.Minute)
				return -1, nil // must not overwrite the result of the next try
			}
			return x, nil
		}, numbers(5), pools.TaskTimeout(time.Second), pools.Retries(2))
		if err != nil || !slices.Equal(got, numbers(5)) {
			t.Errorf("%v, %v", got, err)
		}
		time.Sleep(2 * time.Minute)
		if !slices.Equal(got, numbers(5)) {
			t.Errorf("a task that was left behind has written: %v", got)
		}
	})
}

func TestCancellationIsPrompt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := multi(t, 3)
		quick := func(_ context.Context, d time.Duration) (time.Duration, error) { return d, nil }
		for _, opts := range [][]pools.Option{nil, {pools.ContinueOnError()}, {pools.TaskTimeout(time.Hour)}, {pools.Callback(func(int, time.Duration) {})}} {
			ctx, cancel := context.WithTimeout(bg, time.Second)
			takes(t, "a map that ignores its end", 1050*time.Millisecond, func() {
				if _, err := pools.Map(ctx, p, nap, slices.Repeat([]time.Duration{time.Minute}, 10), opts...); !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			})
			takes(t, "the next call", 0, func() { must(pools.Map(bg, p, quick, make([]time.Duration, 10))) })
			cancel()
		}
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		takes(t, "a stream", 1050*time.Millisecond, func() {
			for _, err := range pools.Stream(ctx, p, nap, func(yield func(time.Duration) bool) {
				for yield(time.Minute) {
				}
			}) {
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			}
		})
		takes(t, "Close", 2*time.Minute, func() {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
	})
}

func TestAStreamGivesResultsAsSoonAsThereAreAny(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := multi(t, 4)
		defer p.Close()
		begin := time.Now()
		source := func(yield func(time.Duration) bool) {
			for range 5 {
				time.Sleep(time.Minute)
				if !yield(time.Second) {
					return
				}
			}
		}
		n := 0
		for _, err := range pools.Stream(bg, p, nap, source) {
			n++
			if d := time.Since(begin); err != nil || d != time.Duration(n)*time.Minute+time.Second {
				t.Errorf("result %d after %v, %v", n, d, err)
			}
		}
		if n != 5 {
			t.Errorf("%d results", n)
		}
	})
}

func TestUnorderedDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := multi(t, 3)
		defer p.Close()
		tasks := []time.Duration{time.Hour, time.Second, 2 * time.Second, 4 * time.Second}
		var got []time.Duration
		for r := range pools.Stream(bg, p, nap, slices.Values(tasks), pools.Unordered()) {
			got = append(got, r)
		}
		if !slices.Equal(got, append(slices.Clone(tasks[1:]), time.Hour)) {
			t.Errorf("%v", got)
		}
	})
}

// TestIntakeIsBounded leaves the consumer standing, and looks how far the source has gone when all others have come to rest.
func TestIntakeIsBounded(t *testing.T) {
	for name, p := range map[string]func() pools.Pool{
		"MultiPool":      func() pools.Pool { return must(pools.NewMultiPool(2)) },
		"PreDispatch(5)": func() pools.Pool { return must(pools.NewJoblibPool(2, pools.PreDispatch(5))) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := p()
				defer p.Close()
				drawn := 0
				n := 0
				for range square.Stream(bg, p, func(yield func(int) bool) {
					for ; yield(drawn); drawn++ {
					}
				}) {
					n++
					if n%100 == 0 {
						synctest.Wait()
						most := 20_000
						if name != "MultiPool" {
							most = 5
						}
						if drawn+1-n > most {
							t.Fatalf("%d tasks drawn, %d results taken", drawn+1, n)
						}
					}
					if n == 2000 {
						break
					}
				}
			})
		})
	}
}
