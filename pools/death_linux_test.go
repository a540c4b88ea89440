//go:build linux && (amd64 || arm64)

package pools

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
)

func dieAt(at int64, moment, off uint64) task { return with(at, opDie, off<<8|moment) }

// A worker dies once, at each moment of a chunk's life, with chunks of every kind. Where nothing tells that the task was
// running, or its results are safe, nobody must hear of it.
func TestDeathAtEachMoment(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	c := newClient(t, e)
	names := map[uint64]string{beforeClaim: "before claim", afterClaim: "after claim", inBlock: "in block", afterResults: "after results",
		afterStatus: "after status", afterRecord: "after record"}
	for moment := uint64(beforeClaim); moment <= afterRecord; moment++ {
		for _, s := range []spec{{chunk: 1}, {chunk: 10}, {chunk: 1, retries: 1}, {}, {chunk: 7, flags: JobOrdered}} {
			t.Run(fmt.Sprintf("%s/chunk=%d,retries=%d", names[moment], s.chunk, s.retries), func(t *testing.T) {
				once := flag(t, e)
				lost := e.Stats().Lost
				s.tasks = 40
				r := c.do(s, dieAt(13, moment, once))
				r.check(t, 40, 13)
				o := r.out[13]
				alone := s.chunk == 1 && s.retries == 0
				switch {
				// A chunk of one task that dies while it is read is charged: any task can be the cause.
				case alone && (moment == afterClaim || moment == inBlock):
					if o.flags != EventLost|EventExit || o.code != -int64(syscall.SIGKILL) || o.info <= 0 {
						t.Fatalf("task 13 must be lost: %+v", o)
					}
				case moment != inBlock && moment != afterClaim || s.retries > 0:
					if o.flags != 0 || o.value != once<<8|moment {
						t.Fatalf("task 13 must not be lost: %+v", o)
					}
				}
				c.do(spec{tasks: 20, chunk: 1}, squares).check(t, 20)
				for e.Stats().Lost == lost { // a death behind the last record is noticed later
					if _, err := e.Step(c.port, 0, WaitKick|5<<8); err != nil {
						t.Fatal(err)
					}
				}
				if e.tr.Load(once) != 1 {
					t.Fatal("nobody died")
				}
				if now := e.Stats(); now.Lost != lost+1 || now.InFlight != 0 {
					t.Fatalf("%d lost before, now %+v", lost, now)
				}
			})
		}
	}
}

// A task that always kills its worker is found among others, and only it is lost.
func TestKillerIsFound(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	c := newClient(t, e)
	for _, s := range []spec{{chunk: 1}, {chunk: 20}, {}, {chunk: 20, retries: 2}} {
		s.tasks, s.key = 60, 5
		r := c.do(s, with(31, opExit, 42))
		r.check(t, 60, 31)
		if o := r.out[31]; o.flags != EventLost|EventExit || o.code != 42 {
			t.Fatalf("%+v", o)
		}
	}
}

// With one worker, the only one that could take the lost chunk is its replacement.
func TestLostBeforeClaimWithOneWorker(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 1})
	c := newClient(t, e)
	for range 5 {
		once := flag(t, e)
		r := c.do(spec{tasks: 30, chunk: 3}, dieAt(13, beforeClaim, once))
		r.check(t, 30, 13)
		if o := r.out[13]; o.flags != 0 {
			t.Fatalf("%+v", o)
		}
	}
}

// While chunks are searched for, those that are in hand must not be taken for missing: no task may run twice.
func TestSuspectsAreNotGuilty(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 3})
	c := newClient(t, e)
	count := flag(t, e)
	const n = 3000
	for round := range 20 {
		e.tr.Store(count, 0)
		if err := e.Kill(round%3, syscall.SIGKILL); err != nil { // idle: its death makes the engine look around
			t.Fatal(err)
		}
		r := c.do(spec{tasks: n, chunk: 1}, func(int64) (uint64, uint64) { return opCount, count })
		if r.err != nil {
			t.Fatal(r.err)
		}
		lost := 0
		for _, o := range r.out {
			if o.flags != 0 {
				lost++
			}
		}
		if ran := e.tr.Load(count); ran != uint64(n-lost) && ran != uint64(n) || lost > 1 {
			t.Fatalf("round %d: %d tasks, %d lost, ran %d times", round, n, lost, ran)
		}
	}
}

func TestKilledFromOutside(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	c := newClient(t, e)
	for round := range 10 {
		c.each = func(int) {
			if e.WorkerPid(round%2) > 0 {
				_ = e.Kill(round%2, syscall.SIGKILL)
			}
			c.each = nil
		}
		r := c.do(spec{tasks: 400, retries: 3, chunk: 2}, squares)
		r.check(t, 400)
	}
}

func TestTimeout(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	c := newClient(t, e)
	r := c.do(spec{tasks: 30, timeout: 50 * time.Millisecond}, with(7, opSleep, 60000))
	r.check(t, 30, 7)
	if o := r.out[7]; o.flags != EventLost|EventTimeout|EventExit || o.code != -int64(syscall.SIGKILL) {
		t.Fatalf("%+v", o)
	}
	began := time.Now()
	r = c.do(spec{tasks: 4, timeout: 50 * time.Millisecond, retries: 2}, with(2, opSleep, 60000))
	r.check(t, 4, 2)
	if took := time.Since(began); took < 150*time.Millisecond {
		t.Fatalf("three attempts took only %v", took)
	}
	// The limit of one job is not that of another.
	c.do(spec{tasks: 3}, with(1, opSleep, 120)).check(t, 3, 1)
}

// The end of a task and its limit at the same instant: whoever wins, nothing else may be hit.
func TestTimeoutRace(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2})
	c := newClient(t, e)
	for range 10 {
		r := c.do(spec{tasks: 20, timeout: 10 * time.Millisecond, chunk: 1}, func(i int64) (uint64, uint64) {
			if i%2 == 0 {
				return opSleep, 10
			}
			return squares(i)
		})
		if r.err != nil || len(r.out) != 20 {
			t.Fatal(r.err, len(r.out))
		}
		for i, o := range r.out {
			if o.delivered != 1 || i%2 == 1 && (o.flags != 0 || o.value != uint64(i*i)) {
				t.Fatalf("task %d: %+v", i, o)
			}
		}
	}
}

func TestBroadcastWithADeath(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 3})
	c := newClient(t, e)
	for round := range 10 {
		once := flag(t, e)
		moment := uint64(afterClaim + round%5)
		r := c.do(spec{flags: JobBroadcast | JobOrdered}, dieAt(1, moment, once))
		if r.err != nil || len(r.out) != 3 {
			t.Fatal(r.err, r.out)
		}
		pids := c.do(spec{flags: JobBroadcast | JobOrdered}, func(int64) (uint64, uint64) { return opPid, 0 })
		if pids.err != nil || len(pids.out) != 3 {
			t.Fatal(pids.err, pids.out)
		}
		c.do(spec{tasks: 30, chunk: 1}, squares).check(t, 30)
	}
}

// Workers wait at the gate for the slowest; one of them dies there.
func TestDeathAtTheGate(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 3})
	c := newClient(t, e)
	for range 5 {
		gate := flag(t, e)
		tasks := func(i int64) (uint64, uint64) {
			if i == 2 {
				return opWait, gate
			}
			return opPid, 0
		}
		r := c.begin(spec{flags: JobBroadcast | JobOrdered})
		for len(r.out) < 2 && r.err == nil {
			c.step(r, tasks, WaitAny)
		}
		if err := syscall.Kill(int(r.out[0].value), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for lost := e.Stats().Lost; e.Stats().Lost == lost && r.err == nil; {
			c.step(r, tasks, WaitAny|5<<8)
		}
		e.tr.Store(gate, 1)
		c.finish(r, tasks, WaitAny)
		if r.err != nil || len(r.out) != 3 {
			t.Fatal(r.err, r.out)
		}
		c.do(spec{tasks: 30, chunk: 1}, squares).check(t, 30)
	}
}

func TestStillborn(t *testing.T) {
	for _, v := range []struct {
		env  string
		code Code
		text string
	}{
		{"SWG_TEST_STILLBORN", CodeStart, "exit code 7"},
		{"SWG_TEST_NO_INIT", CodeInit, "initializer failed in worker"},
	} {
		t.Run(v.env, func(t *testing.T) {
			t.Setenv(v.env, "1")
			e := openTest(t, EngineConfig{Workers: 2})
			c := newClient(t, e)
			r := c.do(spec{tasks: 10}, squares)
			wantCode(t, r.err, v.code, v.text)
			if c.words[wordCode] != int64(v.code) || (c.words[wordErrorOff] != 0) != (v.code == CodeInit) {
				t.Fatal(c.words[:8])
			}
			e.Cancel(r.id, false)
		})
	}
}

// After workers could not start, the next job tries again: by the engine, and by a caller who starts them himself.
func TestStartsAgain(t *testing.T) {
	for _, own := range []bool{false, true} {
		t.Run(fmt.Sprintf("own=%v", own), func(t *testing.T) {
			t.Setenv("SWG_TEST_NO_INIT", "1")
			cfg := EngineConfig{Workers: 2}
			if own {
				cfg.Command = []string{""}
			}
			e := openTest(t, cfg)
			c := newClient(t, e)
			if own {
				c.start(0)
				c.start(1)
			}
			r := c.do(spec{tasks: 10}, squares)
			wantCode(t, r.err, CodeInit, "initializer")
			e.Cancel(r.id, false)
			for e.Stats().Workers > 0 { // both ends are noticed before the next job
				if _, err := e.Step(c.port, 0, WaitKick|5<<8); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("SWG_TEST_NO_INIT", "")
			e.cfg.Env = nil
			c.do(spec{tasks: 10}, squares).check(t, 10)
		})
	}
}

func TestCallerStartsWorkers(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 2, Command: []string{""}})
	wantCode(t, e.Start(), CodeArgument, "no command")
	c := newClient(t, e)
	c.start(0)
	c.start(1)
	once := flag(t, e)
	r := c.do(spec{tasks: 40, chunk: 4}, dieAt(13, inBlock, once))
	r.check(t, 40, 13)
	for range 20 {
		if err := e.Kill(1, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		c.do(spec{tasks: 40, chunk: 1, retries: 2}, squares).check(t, 40)
	}
}

// The engine's mistake would be to take down a worker that has gone on to another chunk.
func TestCancelKillsOnlyItsOwn(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 1})
	a, b := newClient(t, e), newClient(t, e)
	for range 200 {
		ra := a.begin(spec{tasks: 1})
		a.step(ra, squares, WaitNone)
		rb := b.begin(spec{tasks: 3, chunk: 1})
		b.step(rb, squares, WaitNone)
		e.Cancel(ra.id, true)
		b.finish(rb, squares, WaitAny)
		rb.check(t, 3)
	}
}

func TestLossesAreForgotten(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 1})
	c := newClient(t, e)
	for range 5 {
		c.do(spec{tasks: 3, chunk: 1, retries: 1}, with(1, opExit, 1)).check(t, 3, 1)
	}
	if n := len(e.losses); n > 0 {
		t.Fatalf("%d losses are remembered after their jobs", n)
	}
}

// Workers must not outlive a master that frees the engine while they are busy.
func TestFreeEndsBusyWorkers(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 1})
	c := newClient(t, e)
	gate := flag(t, e)
	r := c.begin(spec{tasks: 1})
	for e.tr.Load(e.tr.Cell(0)+process.CellBlock) == 0 {
		c.step(r, func(int64) (uint64, uint64) { return opWait, gate }, WaitAny|5<<8)
	}
	pid := e.WorkerPid(0)
	e.Cancel(r.id, false)
	e.ClosePort(c.port)
	if err := e.Free(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, pid)
}

// The caller's own wait() may have taken a worker's end before the caller tells of that worker: one more that has died.
func TestWorkerEndsBeforeItIsAttached(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 1, Command: []string{}})
	c := newClient(t, e)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := syscall.ForkExec(exe, []string{exe}, &syscall.ProcAttr{Env: append(os.Environ(), process.WorkerEnv+"=bad")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
		t.Fatal(err)
	}
	if err := e.Attach(0, pid, true); err != nil {
		t.Fatal(err)
	}
	c.do(spec{tasks: 10}, squares).check(t, 10)
	if s := e.Stats(); s.Workers != 1 || s.Lost != 1 {
		t.Errorf("stats %+v after one worker of one had to be replaced", s)
	}
}
