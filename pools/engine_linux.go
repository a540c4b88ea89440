//go:build linux && (amd64 || arm64)

package pools

import (
	"sync"
	"syscall"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/nh"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// EngineConfig says what kind of workers an engine feeds.
type EngineConfig struct {
	Workers    int      // how many, >= 1
	ArenaBytes uint64   // address range reserved for payloads, 0: four times the memory of the machine
	Command    []string // program that the engine starts as a worker; nil: the caller starts workers and calls Attach
	Env        []string // its environment, nil: the caller's
	MaxTasks   int      // a worker leaves after so many tasks and is replaced, 0: never

	Comm    *Comm  // its other ranks work as well; Workers may then be 0
	PerRank int    // worker processes beside each, 0: the rank itself is the worker
	Setup   []byte // what they set themselves up with, as a frame; nil: as their own script says
}

// Engine feeds the worker processes of one pool. All methods may be called from any goroutine or thread; a call that
// waits drives the transport itself, in the caller's thread, so that a small map needs no hand-off between threads.
type Engine struct {
	mu sync.Mutex
	crew
	fleet *fleet // nil: all workers are of the crew
	total int    // workers
	cfg   EngineConfig
	sched *dispatch.Scheduler
	ports [process.PortCount]*port
	jobs  map[dispatch.JobID]*job

	frame   wire.Frame // scratch
	leading bool       // some thread is in the transport's Wait
	helper  helper
	lookout lookout
	digests map[uint64][]nh.Sum // of ranges that were found equal to something, by offset
	awake   awake
	failure error // workers cannot be started: told to every caller until the next Begin
	failOff uint64
	lossTag uint64
	losses  map[uint64]loss

	closing    bool // no new jobs; workers leave when the last one has ended
	terminated bool
	freed      bool
	waiters    int // threads behind the one that watches
	inside     int // calls in progress that use the arena
	joining    int // threads in Join

	bytesOut int64
}

// Go's runtime opens an epoll instance and an eventfd when it first needs a timer, which its own background work may do at any
// moment, and keeps them. Here it does so with the first engine, so that who counts descriptors finds the same number after each.
var openPoller = sync.OnceFunc(func() { time.Sleep(time.Nanosecond) })

// OpenEngine makes an engine; no worker is started yet.
func OpenEngine(cfg EngineConfig) (*Engine, error) {
	if cfg.Workers < 1 && (cfg.Comm == nil || cfg.Workers < 0) || cfg.Workers > 1<<16 {
		return nil, fail(CodeArgument, "number of workers must be between 1 and 65536, not %d", cfg.Workers)
	}
	if cfg.MaxTasks < 0 || cfg.MaxTasks > 1<<31-1 {
		return nil, fail(CodeArgument, "tasks per worker must be between 0 and 2147483647, not %d", cfg.MaxTasks)
	}
	openPoller()
	e := &Engine{cfg: cfg, total: cfg.Workers, jobs: make(map[dispatch.JobID]*job), losses: make(map[uint64]loss), digests: make(map[uint64][]nh.Sum)}
	plan := dispatch.Config{Workers: cfg.Workers}
	if cfg.Comm != nil {
		var err error
		if plan, err = e.enlist(cfg); err != nil {
			return nil, err
		}
	}
	e.sched = dispatch.New(plan)
	e.lookout.open()
	crew := cfg.Workers
	if e.fleet != nil {
		crew = e.fleet.lanes[0].workers
	}
	if err := e.open(e, crew, cfg.ArenaBytes, cfg.MaxTasks, cfg.Command, cfg.Env); err != nil {
		e.lookout.close()
		return nil, err
	}
	if e.fleet != nil {
		if err := e.fleet.begin(cfg.Setup); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// inPlace says whether what is sent may lie in the caller's own memory: not where workers on this machine have to see it.
func (e *Engine) inPlace() bool { return e.fleet != nil && len(e.tr.Workers) == 0 }

// enlist makes the ranks of a communicator workers of this engine.
func (e *Engine) enlist(cfg EngineConfig) (dispatch.Config, error) {
	c := cfg.Comm
	switch {
	case c.Rank() != 0 || !c.ready:
		return dispatch.Config{}, fail(CodeArgument, "rank %d of this communicator has no pool to open", c.Rank())
	case c.fleet != nil:
		return dispatch.Config{}, fail(CodeArgument, "a pool is open on this communicator: close it first")
	case c.Broken():
		return dispatch.Config{}, fail(CodeLost, "a rank of this communicator has died")
	}
	e.fleet = newFleet(e, c, cfg.Workers, cfg.PerRank)
	e.total = 0
	for _, l := range e.fleet.lanes {
		e.total += l.workers
	}
	if e.total == 0 {
		return dispatch.Config{}, fail(CodeArgument, "one rank without workers of its own has nobody to work")
	}
	if !e.fleet.far {
		return dispatch.Config{Workers: e.total, FirstJob: c.lastJob, FirstGeneration: c.generation}, nil
	}
	// One chunk at each worker, one behind it, and some more to hand out at once.
	return dispatch.Config{
		Workers: e.total, Depth: 2*e.total + min(e.total, 32), DeepTime: deepRanks, DeepMost: deepMostRanks, FirstJob: c.lastJob, FirstGeneration: c.generation,
	}, nil
}

// Start starts the workers of an engine that has a command for them.
func (e *Engine) Start() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cfg.Command == nil {
		return fail(CodeArgument, "no command to start workers with")
	}
	for i := range e.tr.Workers {
		if e.tr.Workers[i].State == process.Absent {
			if err := e.tr.StartExec(i, e.cfg.Command, e.cfg.Env); err != nil {
				return &Error{CodeStart, err}
			}
		}
	}
	return nil
}

// Arena tells where the shared memory is mapped in this process, how long it is and its descriptor.
func (e *Engine) Arena() (addr uintptr, length uint64, fd int) {
	return e.tr.Addr(), e.tr.Len(), e.tr.Fd()
}

// WorkerFds are the descriptors that a worker started by the caller must inherit: work, answer, life, arena.
func (e *Engine) WorkerFds() [4]int { return e.tr.WorkerFds() }

// MasterFds are the descriptors that any other child of this process must close; -1: none.
func (e *Engine) MasterFds() [6]int {
	fds := e.tr.MasterFds()
	return [6]int{fds[0], fds[1], fds[2], fds[3], fds[4], e.lookout.fd()}
}

// Attach registers a process that the caller started as worker i; pid 0 says that it could not be started.
func (e *Engine) Attach(i, pid int, child bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.freed {
		return fail(CodeHandle, "the engine is closed")
	}
	return e.attach(i, pid, child)
}

// WorkerPid is the process id of worker i, 0 while there is none; one that has just died counts as none.
func (e *Engine) WorkerPid(i int) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i < 0 || i >= e.cfg.Workers {
		return 0
	}
	if e.freed || e.tr.Gone(i) {
		return 0
	}
	return e.tr.Workers[i].Pid
}

// SetSetup names the blob that started workers read before their first task.
func (e *Engine) SetSetup(off uint64) { e.tr.Store(process.CtlSetup, off) }

// Kill sends a signal to worker i; used to end a worker whose work is not wanted any more.
func (e *Engine) Kill(i int, sig syscall.Signal) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i < 0 || i >= e.cfg.Workers {
		return fail(CodeArgument, "no worker %d in a pool of %d", i, e.cfg.Workers)
	}
	if err := e.tr.Signal(i, sig); err != nil {
		return &Error{CodeSystem, err}
	}
	return nil
}

// Close lets running jobs finish and the workers leave after them. It does not wait: see Join.
func (e *Engine) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closing = true
	e.hangUpIfIdle()
}

func (e *Engine) hangUpIfIdle() {
	if e.closing && !e.hungUp && !e.freed && len(e.jobs) == 0 {
		e.hungUp = true
		if e.fleet != nil {
			e.fleet.tell(wire.Message{Kind: wire.MsgClose})
			_ = e.fleet.flush() // what fails here fails again in Join, which says so
		}
		e.tr.HangUp()
		e.tr.Kick()
	}
}

// Terminate ends the workers now. Calls that wait return CodeTerminated.
func (e *Engine) Terminate() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.freed {
		return
	}
	if e.fleet != nil && !e.hungUp {
		for _, j := range e.jobs {
			e.fleet.cancel(j, true)
		}
		e.fleet.giveUp()
		e.fleet.tell(wire.Message{Kind: wire.MsgClose})
		_ = e.fleet.flush() // what fails here fails again in Join, which says so
	}
	e.closing, e.terminated, e.hungUp = true, true, true
	for i := range e.tr.Workers {
		// ESRCH is handled inside; anything else leaves the lifeline to do it when the descriptors are freed.
		_ = e.tr.Signal(i, syscall.SIGKILL)
	}
	e.tr.HangUp()
	e.tr.Kick()
	for _, p := range e.ports {
		p.poke()
	}
}

// Join waits up to the given time for the workers to leave and says how many are left.
func (e *Engine) Join(timeoutMs int) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.joining++
	defer func() { e.joining-- }()
	end := process.Monotonic() + int64(timeoutMs)*1e6
	for !e.freed && e.left() > 0 {
		left := end - process.Monotonic()
		if left <= 0 {
			break
		}
		signal, err := e.sleep(nil, left)
		if e.freed {
			break
		}
		if err != nil {
			return 0, err
		}
		if signal {
			break
		}
	}
	if e.freed {
		return 0, nil
	}
	left := e.left()
	if left == 0 && e.terminated && e.fleet != nil {
		e.fleet.detach()
	}
	return left, nil
}

// Unsent counts the operations that MPI has not finished.
func (e *Engine) Unsent() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.freed || e.fleet == nil {
		return 0
	}
	return e.fleet.comm.link.Pending()
}

// left counts what must end before the memory can go: workers on this machine, and as one more what is under way: jobs, for which a worker
// may be started although none is alive, and what MPI still reads or writes here.
func (e *Engine) left() int {
	n := e.tr.Alive()
	busy := len(e.jobs) > 0 && !e.terminated
	if f := e.fleet; f != nil {
		busy = !f.detached && !f.comm.Broken() && (busy || f.unsent())
	}
	if busy {
		n++
	}
	return n
}

// Free gives back every descriptor and the mapping; workers that still run are killed by the end of their lifeline.
// It must not be called while another call is in progress or results in place are still in use.
func (e *Engine) Free() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.freed {
		return nil
	}
	if e.inside > 0 {
		return fail(CodeArgument, "the engine is in use by %d calls", e.inside)
	}
	e.freed = true
	e.helper.stop()
	e.lookout.close()
	for e.joining > 0 { // they leave now, and the transport must be there until they have
		e.tr.Kick()
		e.mu.Unlock()
		process.Nap(1e5)
		e.mu.Lock()
	}
	if e.fleet != nil && !e.fleet.detached {
		if e.fleet.unsent() {
			e.tr.Abandon() // a rank is gone: what MPI still means to read or write there stays
		}
		e.fleet.detach()
	}
	if err := e.tr.Close(); err != nil {
		return &Error{CodeSystem, err}
	}
	return nil
}

// Stats are the counters of an engine since it was opened.
type Stats struct {
	Tasks, Chunks, Retries     int64 // delivered tasks, answered chunks, tasks offered again
	Lost, Retired              int64 // workers that died, workers that left after MaxTasks
	BytesIn, BytesOut          int64 // payload bytes to and from the workers
	BusyNanos                  int64 // time inside tasks, over all workers that live now
	Workers, InFlight, JobsNow int64
}

// Stats reads the counters.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.sched.Counters()
	s := Stats{
		Tasks: int64(c.Tasks), Chunks: int64(c.Chunks), Retries: int64(c.Retries), Lost: e.lost, Retired: e.retired,
		BytesIn: int64(c.BytesIn), BytesOut: e.bytesOut, InFlight: int64(e.inFlight), JobsNow: int64(len(e.jobs)),
	}
	if e.freed {
		return s
	}
	s.Workers = int64(e.tr.Alive())
	if e.fleet != nil {
		s.Workers += int64(e.total - e.cfg.Workers)
		s.BusyNanos = c.Busy // the ranks' clocks are not at hand: what their answers said
		return s
	}
	for i := range e.cfg.Workers {
		s.BusyNanos += int64(e.tr.Load(e.tr.Cell(i) + process.CellBusy))
	}
	return s
}
