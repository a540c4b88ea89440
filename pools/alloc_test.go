package pools_test

import (
	"context"
	"slices"
	"testing"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

// TestNoAllocationPerTask: what a call allocates does not depend on its number of tasks, but for the one slice of results.
func TestNoAllocationPerTask(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	id := func(_ context.Context, x int) (int, error) { return x, nil }
	for _, p := range []pools.Pool{pools.NewSerialPool(), multi(t, 3)} {
		for _, n := range []int{16, 100_000} {
			tasks := numbers(n)
			if got := testing.AllocsPerRun(20, func() { must(pools.Map(bg, p, id, tasks)) }); got > 10 {
				t.Errorf("%s: %v allocations for a map of %d tasks", p, got, n)
			}
		}
		tasks := slices.Values(numbers(100_000))
		if got := testing.AllocsPerRun(5, func() {
			for range pools.Stream(bg, p, id, tasks) {
			}
		}); got > 400 { // pages of 256 tasks, as many as are under way
			t.Errorf("%s: %v allocations for a stream of 100000 tasks", p, got)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}
