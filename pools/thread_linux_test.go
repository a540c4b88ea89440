//go:build linux && (amd64 || arm64)

package pools

import (
	"sync"
	"syscall"
	"testing"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// threads are workers of this very process, on the descriptors and the memory that processes would inherit.
type threads struct {
	e    *Engine
	all  sync.WaitGroup
	fail bool          // the next one cannot set itself up
	late chan struct{} // if there is one, that one leaves when it is closed
}

func (x *threads) start(t *testing.T, index int) {
	t.Helper()
	if err := x.e.Attach(index, Thread, false); err != nil {
		t.Error(err)
		return
	}
	fds := x.e.WorkerFds()
	mem := x.e.tr.Mem()
	w := testWorker{index: index, mem: mem, work: fds[0], answer: fds[1]}
	w.cell = w.load(process.CtlCells) + uint64(index)*w.load(process.CtlCellSize)
	heap := w.load(process.CtlHeaps) + uint64(index)*w.load(process.CtlHeapSize)
	w.top, w.end = max(w.load(w.cell+process.CellHeapTop), heap), heap+w.load(process.CtlHeapSize)
	failed := x.fail
	x.fail = false
	x.all.Add(1)
	go func() {
		defer x.all.Done()
		defer w.send(uint64(wire.Left)<<24|uint64(index), 0)
		if failed {
			w.send(uint64(wire.InitFailed)<<24|uint64(index), 0)
			if x.late != nil {
				<-x.late
			}
			return
		}
		w.send(uint64(wire.Hello)<<24|uint64(index), 0)
		var b [8]byte
		for {
			n, err := syscall.Read(w.work, b[:])
			if err == syscall.EINTR {
				continue
			}
			if err != nil || n < 8 {
				return
			}
			r := wire.ParseRecord(b[:])
			w.run(r.Offset(), uint64(r.Generation()))
		}
	}()
}

// client also sees to it that the threads have ended before the engine's own clean-up looks.
func (x *threads) client(t *testing.T) *client {
	t.Cleanup(x.all.Wait)
	t.Cleanup(x.e.Terminate)
	c := newClient(t, x.e)
	c.starter = func(i int) { x.start(t, i) }
	return c
}

func openThreads(t *testing.T, n int) (*threads, *client) {
	t.Helper()
	x := &threads{e: openTest(t, EngineConfig{Workers: n, Command: []string{}})}
	c := x.client(t)
	for i := range n {
		x.start(t, i)
	}
	return x, c
}

func TestThreadsRunMapsAndLeave(t *testing.T) {
	x, c := openThreads(t, 3)
	for _, n := range []int64{1, 3, 100, 20000} {
		c.do(spec{tasks: n}, squares).check(t, n)
	}
	if s := x.e.Stats(); s.Workers != 3 || s.Lost != 0 {
		t.Errorf("stats %+v of three threads", s)
	}
	if pid := x.e.WorkerPid(1); pid != syscall.Getpid() {
		t.Errorf("worker 1 has pid %d, this process %d", pid, syscall.Getpid())
	}
	wantCode(t, x.e.Attach(1, Thread, false), CodeArgument, "worker 1 is there already")
	x.e.Close()
	joinAll(t, x.e)
	if s := x.e.Stats(); s.Workers != 0 || s.Lost != 0 || s.Retired != 0 {
		t.Errorf("stats %+v after all threads have left", s)
	}
}

// A signal meant for a worker would end this process.
func TestThreadsAreNeverKilled(t *testing.T) {
	x, c := openThreads(t, 2)
	gate := flag(t, x.e)
	r := c.begin(spec{tasks: 2, chunk: 1, timeout: 1})
	for x.e.Stats().InFlight < 2 {
		c.step(r, func(int64) (uint64, uint64) { return opWait, gate }, WaitNone)
	}
	if err := x.e.Kill(0, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if _, err := x.e.Join(50); err != nil { // long enough for the time limit to be looked at
		t.Error(err)
	}
	x.e.Cancel(r.id, true)
	x.e.tr.Store(gate, 1)
	c.do(spec{tasks: 50}, squares).check(t, 50)
	if s := x.e.Stats(); s.Lost != 0 || s.Workers != 2 {
		t.Errorf("stats %+v of two threads", s)
	}
}

// refused is a pool whose only thread could not set itself up, after the job that heard of it.
func refused(t *testing.T, late chan struct{}) *client {
	x := &threads{e: openTest(t, EngineConfig{Workers: 1, Command: []string{}}), fail: true, late: late}
	c := x.client(t)
	x.start(t, 0)
	r := c.begin(spec{tasks: 5})
	c.finish(r, squares, WaitBatch)
	wantCode(t, r.err, CodeInit, "the initializer failed")
	x.e.Cancel(r.id, false)
	return c
}

func TestThreadThatCannotStart(t *testing.T) {
	refused(t, nil).do(spec{tasks: 5}, squares).check(t, 5) // the place is filled again
}

// A thread says that it cannot start, and a moment later that it has left. A job that begins in between needs the place as well.
func TestThreadLeavesLate(t *testing.T) {
	late := make(chan struct{})
	c := refused(t, late)
	r := c.begin(spec{tasks: 5})
	close(late)
	c.finish(r, squares, WaitBatch).check(t, 5)
}

// However fast the workers are, a source is drawn no further than the job allows.
func TestDepthOfAJob(t *testing.T) {
	_, c := openThreads(t, 2)
	n, drawn, most := int64(300), int64(0), int64(0)
	c.fill = func(first int64, count int) int {
		have := max(min(n-first, int64(count)), 0)
		drawn = max(drawn, first+have)
		return int(have)
	}
	c.words[process.PortParams+9] = 3
	r := c.begin(spec{tasks: dispatch.Unknown, chunk: 1, flags: JobDepth})
	c.each = func(int) { most = max(most, drawn-int64(len(r.out))) }
	c.finish(r, squares, WaitAny).check(t, n)
	if most > 3 {
		t.Errorf("%d tasks were drawn and not answered, at most 3 may be", most)
	}
	c.words[process.PortParams+9] = 0
	wantCode(t, c.begin(spec{tasks: 1, flags: JobDepth}).err, CodeArgument, "begin: 0 chunks at once")
}
