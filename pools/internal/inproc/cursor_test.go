package inproc

import (
	"sync"
	"sync/atomic"
	"testing"
)

// TestClaimsAndCuts lets a worker claim while others cut: each task goes to one of them, whatever the steps.
func TestClaimsAndCuts(t *testing.T) {
	const tasks = 100_000
	for _, step := range []int{1, 3, 64} {
		var c Cursor
		c.reset(7, tasks, step)
		owner := make([]atomic.Int32, tasks)
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				from, to, ok := c.Claim()
				if !ok {
					return
				}
				for i := from; i < to; i++ {
					owner[i-7].Add(1)
				}
			}
		})
		var mu sync.Mutex
		end := tasks
		for range 2 {
			wg.Go(func() {
				for {
					mu.Lock() // the crew's lock
					keep, ok := c.cut()
					if !ok {
						mu.Unlock()
						return
					}
					for i := keep; i < end; i++ {
						owner[i].Add(1)
					}
					end = keep
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		for i := range owner {
			if n := owner[i].Load(); n != 1 {
				t.Fatalf("step %d: task %d went to %d", step, i, n)
			}
		}
		if c.left() != 0 || c.claimed() != int64(end) {
			t.Errorf("step %d: %d left, %d claimed of %d", step, c.left(), c.claimed(), end)
		}
	}
}

func TestCutKeepsWhatIsClaimed(t *testing.T) {
	var c Cursor
	c.reset(0, 10, 1)
	if keep, ok := c.cut(); !ok || keep != 5 {
		t.Errorf("%d, %v", keep, ok)
	}
	c.reset(0, 1, 1)
	if _, ok := c.cut(); ok {
		t.Error("the first task of a chunk was cut off")
	}
	c.reset(0, 10, 1)
	for range 8 {
		c.Claim()
	}
	if keep, ok := c.cut(); !ok || keep != 9 {
		t.Errorf("%d, %v", keep, ok)
	}
	if keep, ok := c.cut(); !ok || keep != 8 {
		t.Errorf("%d, %v", keep, ok)
	}
	if _, ok := c.cut(); ok {
		t.Error("a claimed task was cut off")
	}
	if _, _, ok := c.Claim(); ok {
		t.Error("a task that was cut off was claimed")
	}
}

func TestStop(t *testing.T) {
	var c Cursor
	c.reset(0, 10, 1)
	c.Claim()
	c.stop.Store(true)
	if _, _, ok := c.Claim(); ok || !c.Stopped() {
		t.Error("claimed after the stop")
	}
}
