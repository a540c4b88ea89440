//go:build linux && (amd64 || arm64)

package pools

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
)

func TestMap(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	c := newClient(t, e)
	for _, n := range []int64{0, 1, 2, 3, 16, 1000, 20000} {
		for _, s := range []spec{{}, {key: 1}, {chunk: 7}, {flags: JobOrdered}, {timeout: time.Hour}} {
			s.tasks = n
			r := c.do(s, squares)
			r.check(t, n)
			if s.flags&JobOrdered != 0 && !slices.IsSorted(r.order) {
				t.Fatalf("%d tasks came out of order", n)
			}
		}
	}
	s := e.Stats()
	if want := int64(5 * (1 + 2 + 3 + 16 + 1000 + 20000)); s.Tasks != want || s.JobsNow != 0 || s.InFlight != 0 || s.Workers != 2 {
		t.Fatalf("stats %+v, want %d tasks", s, want)
	}
}

func TestLazySource(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	c := newClient(t, e)
	for _, n := range []int64{0, 1, 5, 64, 3000} {
		drawn := int64(0)
		c.fill = func(first int64, count int) int {
			have := max(min(n-first, int64(count)), 0)
			drawn = max(drawn, first+have)
			return int(have)
		}
		r := c.begin(spec{tasks: dispatch.Unknown, flags: JobLazy | JobOrdered})
		c.finish(r, squares, WaitAny)
		r.check(t, n)
		if drawn != n {
			t.Fatalf("%d of %d tasks were drawn", drawn, n)
		}
	}
}

// A consumer that reads nothing must not make the engine draw a source without end.
func TestLazySourceIsBounded(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	c := newClient(t, e)
	gate := flag(t, e)
	highest := int64(0)
	c.fill = func(first int64, count int) int { highest = max(highest, first+int64(count)); return count }
	c.each = func(int) {}
	r := c.begin(spec{tasks: dispatch.Unknown, chunk: 1, flags: JobLazy | JobOrdered})
	tasks := func(i int64) (uint64, uint64) { // the first one blocks delivery, the others go on
		if i == 0 {
			return opWait, gate
		}
		return squares(i)
	}
	const least, bound = 16, 64*2 + 64
	started := time.Now()
	for quiet := 0; quiet < 20 && r.err == nil; quiet++ {
		was := highest
		c.step(r, tasks, WaitAny|5<<8)
		// Silence counts only once the free worker has been seen at work: it may get its first time slice late.
		if highest > was || highest < least && time.Since(started) < time.Minute {
			quiet = 0
		}
	}
	if highest > bound || highest < least {
		t.Fatalf("%d tasks were drawn ahead of delivery, from %d to %d are meant", highest, least, bound)
	}
	e.tr.Store(gate, 1)
	e.Cancel(r.id, false)
}

func TestTaskFails(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	c := newClient(t, e)
	for _, chunk := range []int64{0, 1, 7, 50} {
		r := c.do(spec{tasks: 50, chunk: chunk}, with(13, opFail, 0))
		r.check(t, 50, 13)
		if r.out[13].flags != EventFailed {
			t.Fatalf("task 13: %+v", r.out[13])
		}
	}
}

func TestRetries(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	c := newClient(t, e)
	ran := flag(t, e)
	fails := func(i int64) (uint64, uint64) {
		switch i {
		case 5:
			return opFail, 0
		case 6:
			return opCount, ran
		}
		return squares(i)
	}
	r := c.do(spec{tasks: 20, chunk: 20, retries: 3}, fails)
	r.check(t, 20, 5, 6)
	if r.out[5].flags != EventFailed || e.Stats().Retries != 3 {
		t.Fatalf("%+v, %+v", r.out[5], e.Stats())
	}
	if n := e.tr.Load(ran); n != 1 {
		t.Fatalf("the task behind the one that fails ran %d times", n)
	}
}

func TestCancel(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	c := newClient(t, e)
	for _, kill := range []bool{false, true} {
		gate := flag(t, e)
		r := c.begin(spec{tasks: 1000, chunk: 1})
		for e.tr.Load(gate) == 0 && r.err == nil { // until one runs
			c.step(r, func(i int64) (uint64, uint64) {
				if i == 3 {
					return opWait, gate + 8
				}
				return squares(i)
			}, WaitAny)
			if len(r.out) > 2 {
				break
			}
		}
		e.Cancel(r.id, kill)
		e.Cancel(r.id, kill) // again: nothing happens
		if !kill {
			e.tr.Store(gate+8, 1)
		}
		c.do(spec{tasks: 100}, squares).check(t, 100)
		if s := e.Stats(); s.JobsNow != 0 {
			t.Fatalf("%+v", s)
		}
	}
}

// What a cancelled job left in the workers' heaps must be given back, read or not.
func TestCancelReleasesHeapBlocks(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 1})
	c := newClient(t, e)
	heap := func(int64) (uint64, uint64) { return opHeap, 1 << 20 }
	start, _ := e.tr.Heap(0)
	for range 40 {
		r := c.begin(spec{tasks: 6, chunk: 1, flags: JobOrdered})
		c.step(r, heap, WaitAny) // some events are listed and not read, others wait in the engine
		e.Cancel(r.id, false)
		c.do(spec{tasks: 1}, squares).check(t, 1)
	}
	// As many blocks as one round can use, and those of the round before, which may still be in use.
	if used := e.tr.Load(e.tr.Cell(0)+process.CellHeapTop) - start; used > 2*6*(1<<20+process.PageSize) {
		t.Fatalf("the worker's heap has grown to %d bytes", used)
	}
}

func TestClosedPortCancels(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	for range 5 {
		c := newClient(t, e)
		r := c.begin(spec{tasks: 500, chunk: 1})
		c.step(r, squares, WaitAny)
		e.ClosePort(c.port)
	}
	newClient(t, e).do(spec{tasks: 100}, squares).check(t, 100)
}

func TestBroadcast(t *testing.T) {
	const workers = 3
	e := openTest(t, EngineConfig{Workers: workers})
	c := newClient(t, e)
	pids := func(int64) (uint64, uint64) { return opPid, 0 }
	for round := range 300 {
		r := c.do(spec{flags: JobBroadcast | JobOrdered}, pids)
		if r.err != nil {
			t.Fatal(r.err)
		}
		seen := map[uint64]bool{}
		for i := range int64(workers) {
			seen[r.out[i].value] = true
		}
		if len(seen) != workers {
			t.Fatalf("round %d: %d tasks ran on %d workers", round, workers, len(seen))
		}
		if round%50 == 0 {
			c.do(spec{tasks: 40}, squares).check(t, 40)
		}
	}
}

// A worker that cannot read the function does not wait at the gate; those that could must be let go all the same.
func TestBroadcastRefusedByOne(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	c := newClient(t, e)
	done := flag(t, e)
	for range 3 {
		r := c.begin(spec{flags: JobBroadcast | JobOrdered})
		for r.err == nil {
			found := c.step(r, func(i int64) (uint64, uint64) {
				if i == 0 {
					return opUnreadable, done
				}
				return opPid, 0
			}, WaitBatch)
			if o, ok := r.out[-1]; ok && len(r.events) > 0 && o.delivered > 0 {
				delete(r.out, -1)
				for _, id := range r.events {
					_ = e.Reject(c.port, id) // those of plain results ask nothing
				}
			}
			if found&FlagIdle != 0 && c.words[wordOffers] == 0 {
				break
			}
		}
		if r.err != nil {
			t.Fatal(r.err)
		}
		if r.out[0].flags != EventFailed {
			t.Fatalf("%+v", r.out)
		}
		e.tr.Store(done, 0)
		c.do(spec{tasks: 50, chunk: 1}, squares).check(t, 50)
	}
}

func TestQuestions(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	c := newClient(t, e)
	ask := func(s spec, tasks task, answer func(id int64) error) *run {
		r := c.begin(s)
		for r.err == nil {
			found := c.step(r, tasks, WaitBatch)
			if o := r.out[-1]; o.delivered > 0 {
				delete(r.out, -1)
				for _, id := range r.events {
					if err := answer(id); err != nil && CodeOf(err) != CodeArgument {
						t.Fatal(err)
					}
				}
			}
			if found&FlagIdle != 0 && c.words[wordOffers] == 0 {
				break
			}
		}
		return r
	}
	t.Run("function", func(t *testing.T) {
		r := ask(spec{tasks: 30, chunk: 10, serial: badFunction}, squares, func(id int64) error { return e.Requeue(c.port, id, false, 7, 0) })
		r.check(t, 30)
	})
	t.Run("requeue", func(t *testing.T) {
		once := flag(t, e)
		r := ask(spec{tasks: 30, chunk: 10}, with(4, opUnreadable, once), func(id int64) error { return e.Requeue(c.port, id, false, 0, 0) })
		r.check(t, 30, 4)
	})
	t.Run("split", func(t *testing.T) {
		once := flag(t, e)
		single := 0
		c.each = func(int) {
			if c.words[wordOffers] > 0 && c.words[process.PortOffers+5] == 1 {
				single++
			}
		}
		r := ask(spec{tasks: 30, chunk: 10}, with(4, opUnreadable, once), func(id int64) error { return e.Requeue(c.port, id, true, 0, 0) })
		c.each = nil
		r.check(t, 30, 4)
		if single == 0 {
			t.Fatal("the chunk was not split")
		}
	})
	t.Run("reject", func(t *testing.T) {
		once := flag(t, e)
		r := ask(spec{tasks: 30, chunk: 1}, with(4, opUnreadable, once), func(id int64) error { return e.Reject(c.port, id) })
		r.check(t, 30, 4)
		if r.out[4].flags != EventFailed {
			t.Fatalf("%+v", r.out[4])
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		once := flag(t, e)
		r := c.begin(spec{tasks: 30, chunk: 10})
		for r.out[-1].delivered == 0 && r.err == nil {
			c.step(r, with(4, opUnreadable, once), WaitAny)
		}
		e.Cancel(r.id, false)
		for _, id := range r.events {
			wantCode(t, e.Reject(c.port, id), CodeArgument, "asks nothing")
			wantCode(t, e.Requeue(c.port, id, true, 0, 0), CodeArgument, "asks nothing")
		}
	})
	c.do(spec{tasks: 30}, squares).check(t, 30)
}

func TestManyPorts(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	const callers = 12
	rounds := int64(60)
	if testing.Short() {
		rounds = 15
	}
	inParallel(callers, func(k int) {
		c := newClient(t, e)
		defer e.ClosePort(c.port)
		for i := range rounds {
			n := i*int64(k)%97 + 1
			r := c.do(spec{tasks: n, key: int64(k), flags: i % 2, chunk: i % 3}, squares)
			if r.err != nil || int64(len(r.out)) != n {
				t.Errorf("caller %d: %v, %d of %d results", k, r.err, len(r.out), n)
				return
			}
			for j, o := range r.out {
				if o.value != uint64(j*j) || o.delivered != 1 {
					t.Errorf("caller %d: task %d: %+v", k, j, o)
				}
			}
			if i%7 == 3 {
				r = c.begin(spec{tasks: 500, chunk: 1})
				c.step(r, squares, WaitAny)
				e.Cancel(r.id, false)
			}
		}
	})
}

func TestPortsRunOut(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 1})
	for range process.PortCount {
		newClient(t, e)
	}
	_, _, err := e.OpenPort()
	wantCode(t, err, CodePorts, "256")
	e.ClosePort(17)
	if i, _, err := e.OpenPort(); i != 17 || err != nil {
		t.Fatal(i, err)
	}
}

// Several jobs on one port, as a background thread runs them.
func TestJobsShareAPort(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	c := newClient(t, e)
	want := map[int64]bool{}
	r := &run{out: make(map[int64]outcome)}
	for range 5 { // tasks with the same numbers: one outcome counts the deliveries of all
		b := c.begin(spec{tasks: 40, chunk: 3})
		if b.err != nil || want[b.id] {
			t.Fatal(b.err, b.id)
		}
		want[b.id] = true
		c.step(r, squares, WaitNone)
	}
	c.finish(r, squares, WaitAny)
	if r.err != nil {
		t.Fatal(r.err)
	}
	for i := range int64(40) {
		if o := r.out[i]; o.delivered != 5 || o.value != uint64(i*i) {
			t.Fatalf("task %d: %+v", i, o)
		}
	}
}

func TestKick(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 1})
	c := newClient(t, e)
	e.Kick(c.port)
	if found, err := e.Step(c.port, 0, WaitKick); err != nil || found != FlagIdle|FlagKicked {
		t.Fatal(found, err)
	}
	for range 100 {
		inParallel(2, func(k int) {
			if k == 0 {
				e.Kick(c.port)
				return
			}
			for {
				found, err := e.Step(c.port, 0, WaitKick)
				if err != nil {
					t.Error(err)
				}
				if err != nil || found&FlagKicked != 0 {
					return
				}
			}
		})
	}
	e.Kick(77) // no such port: nothing happens
}

func TestStepTimesOut(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 1})
	c := newClient(t, e)
	gate := flag(t, e)
	wait := func(int64) (uint64, uint64) { return opWait, gate }
	r := c.begin(spec{tasks: 1})
	began := time.Now()
	found := c.step(r, wait, WaitAny|30<<8)
	if took := time.Since(began); found != FlagResume || took < 29*time.Millisecond {
		t.Fatal(found, took)
	}
	e.tr.Store(gate, 1)
	c.finish(r, wait, WaitAny)
	if o := r.out[0]; o.value != gate || o.delivered != 1 {
		t.Fatalf("%+v", r.out)
	}
}

func TestBadArguments(t *testing.T) {
	for _, n := range []int{0, -1, 1 << 17} {
		_, err := OpenEngine(EngineConfig{Workers: n})
		wantCode(t, err, CodeArgument, fmt.Sprint(n))
	}
	e := openTest(t, EngineConfig{Workers: 1})
	c := newClient(t, e)
	for _, s := range []spec{{tasks: -2}, {chunk: -1}, {retries: -1}, {timeout: -1}} {
		if r := c.begin(s); CodeOf(r.err) != CodeArgument {
			t.Fatalf("%+v: %v", s, r.err)
		}
	}
	c.begin(spec{tasks: 10})
	for _, n := range []int{-1, int(c.words[wordOffers]) + 1} {
		_, err := e.Step(c.port, n, WaitNone)
		wantCode(t, err, CodeArgument, "submitted")
	}
	_, err := e.Grow(c.port, 99, 1)
	wantCode(t, err, CodeArgument, "offer")
	_, err = e.Begin(99)
	wantCode(t, err, CodeHandle, "port")
	wantCode(t, e.Attach(5, 1, false), CodeArgument, "no worker 5")
	wantCode(t, e.Kill(-1, 9), CodeArgument, "no worker -1")
	wantCode(t, e.FreeRange(123), CodeArgument, "not allocated")
	wantCode(t, e.Requeue(c.port, 12345, false, 0, 0), CodeArgument, "asks nothing")
	if e.WorkerPid(5) != 0 || e.WorkerPid(0) <= 0 {
		t.Fatal("pids")
	}
	e.Cancel(424242, true) // unknown: nothing happens
}

// A range that is given back twice would be handed out twice.
func TestDoubleFreeIsRefused(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 1})
	off := flag(t, e)
	if err := e.FreeRange(off); err != nil {
		t.Fatal(err)
	}
	wantCode(t, e.FreeRange(off), CodeArgument, "not allocated")
}

// With no slot to be had and nothing under way that could give one back, waiting would last for ever.
func TestArenaFull(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 1, ArenaBytes: 16 << 20})
	c := newClient(t, e)
	var all []uint64
	for size := uint64(4 << 20); size >= process.MinSlot; {
		off, _, err := e.Alloc(size)
		if err != nil {
			wantCode(t, err, CodeMemory, "SCHWIMMBAD_GO_ARENA")
			size /= 2
			continue
		}
		all = append(all, off)
	}
	r := c.begin(spec{tasks: 10})
	for n := 0; r.err == nil; n++ {
		if c.step(r, squares, WaitAny); n > 30 {
			t.Fatal("the caller waits for a slot that cannot come")
		}
	}
	wantCode(t, r.err, CodeMemory, "SCHWIMMBAD_GO_ARENA")
	e.Cancel(r.id, false)
	for _, off := range all {
		if err := e.FreeRange(off); err != nil {
			t.Fatal(err)
		}
	}
	c.do(spec{tasks: 10}, squares).check(t, 10)
}

func TestMaxTasks(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2, MaxTasks: 10})
	c := newClient(t, e)
	pids := map[uint64]int{}
	r := c.do(spec{tasks: 100}, func(int64) (uint64, uint64) { return opPid, 0 })
	if r.err != nil || len(r.out) != 100 {
		t.Fatal(r.err, len(r.out))
	}
	for _, o := range r.out {
		pids[o.value]++
	}
	for pid, n := range pids {
		if n > 10 {
			t.Fatalf("worker %d ran %d tasks", pid, n)
		}
	}
	if s := e.Stats(); s.Lost != 0 || s.Retired == 0 {
		t.Fatalf("%+v", s)
	}
}

func TestCloseLetsJobsFinish(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	c := newClient(t, e)
	r := c.begin(spec{tasks: 500, chunk: 5})
	c.step(r, squares, WaitNone)
	e.Close()
	e.Close()
	if got := newClient(t, e).begin(spec{tasks: 1}); CodeOf(got.err) != CodeTerminated {
		t.Fatal(got.err)
	}
	c.finish(r, squares, WaitBatch)
	r.check(t, 500)
	joinAll(t, e)
	if s := e.Stats(); s.Lost != 0 {
		t.Fatalf("workers that left count as lost: %+v", s)
	}
}

func TestTerminateWakesEveryCaller(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	gate := flag(t, e)
	var waiting atomic.Int32
	inParallel(5, func(k int) {
		if k == 4 {
			for waiting.Load() < 4 {
				time.Sleep(time.Millisecond)
			}
			e.Terminate()
			e.Terminate()
			return
		}
		c := newClient(t, e)
		r := c.begin(spec{tasks: 4, chunk: 1})
		c.step(r, func(int64) (uint64, uint64) { return opWait, gate }, WaitNone)
		waiting.Add(1)
		c.finish(r, squares, WaitAny)
		if CodeOf(r.err) != CodeTerminated {
			t.Errorf("caller %d: %v", k, r.err)
		}
	})
}

// Nothing may be taken away under a caller who waits.
func TestFreeWhileInUse(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 1})
	c := newClient(t, e)
	gate := flag(t, e)
	done := make(chan error)
	go func() {
		r := c.begin(spec{tasks: 1})
		c.finish(r, func(int64) (uint64, uint64) { return opWait, gate }, WaitAny)
		done <- r.err
	}()
	for e.Stats().InFlight == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := e.Free(); err == nil {
		t.Error("freed under a caller")
	}
	e.tr.Store(gate, 1)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestFreeWhileAnotherJoins(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 1})
	pid := e.WorkerPid(0)
	joined := make(chan error)
	go func() {
		_, err := e.Join(20000)
		joined <- err
	}()
	for leading := false; !leading; time.Sleep(time.Millisecond) {
		e.mu.Lock()
		leading = e.leading
		e.mu.Unlock()
	}
	if err := e.Free(); err != nil {
		t.Error(err)
	}
	if err := <-joined; err != nil {
		t.Error("join:", err)
	}
	waitFor(t, pid)
}

func TestFreed(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 1})
	c := newClient(t, e)
	e.Terminate()
	joinAll(t, e)
	if err := errors.Join(e.Free(), e.Free()); err != nil {
		t.Fatal(err)
	}
	_, err := e.Begin(c.port)
	wantCode(t, err, CodeHandle, "")
	_, err = e.Step(c.port, 0, WaitAny)
	wantCode(t, err, CodeHandle, "")
	_, _, err = e.OpenPort()
	wantCode(t, err, CodeHandle, "closed")
	_, _, err = e.Alloc(1)
	wantCode(t, err, CodeHandle, "closed")
	e.Close()
	e.Terminate()
	e.Kick(c.port)
	e.Cancel(1, true)
	_ = e.Stats()
}

func TestMemory(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 1})
	off := flag(t, e)
	data := []byte("some bytes")
	p, n := unsafe.Pointer(&data[0]), uint64(len(data))
	if err := e.Copy(off, p, n); err != nil {
		t.Fatal(err)
	}
	if !e.Same(off, p, n) || e.Same(off+1, p, n) || !e.Same(off, nil, 0) {
		t.Fatal("comparison")
	}
	end := e.tr.Len()
	for _, at := range []uint64{end - 3, end, end + 1, ^uint64(0) - 2} {
		if e.Same(at, p, n) {
			t.Fatalf("equal at %d", at)
		}
		wantCode(t, e.Copy(at, p, n), CodeArgument, "outside")
	}
}
