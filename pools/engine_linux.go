//go:build linux && (amd64 || arm64)

package pools

import (
	"sync"
	"syscall"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
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
}

// Engine feeds the worker processes of one pool. All methods may be called from any goroutine or thread; a call that
// waits drives the transport itself, in the caller's thread, so that a small map needs no hand-off between threads.
type Engine struct {
	mu     sync.Mutex
	cfg    EngineConfig
	sched  *dispatch.Scheduler
	tr     *process.Transport
	ports  [process.PortCount]*port
	chunks []*chunk // by slab index of the chunk id
	jobs   map[dispatch.JobID]*job

	backlog  []uint64   // records that did not fit in the pipe yet
	answers  []uint64   // scratch
	frame    wire.Frame // scratch
	postSeq  uint64
	inFlight int                        // posted and unanswered, over all jobs
	leading  bool                       // some thread is in tr.Wait
	timed    int                        // jobs with a time limit per task
	suspects bool                       // a dead worker may have taken a chunk along
	missing  map[dispatch.ChunkID]int64 // chunks in nobody's hands, and since when

	needs    []int         // workers to be started by the caller
	starting map[int]bool  // places handed to a caller who has not attached a worker yet
	ended    map[int]int64 // workers that we ended, and the task in the chunk they were ended for (-1: a job given up)
	crashes  int           // workers that died in a row before saying hello
	failure  error         // workers cannot be started: told to every caller until the next Begin
	failOff  uint64
	lossTag  uint64
	losses   map[uint64]loss
	pinned   []uint64 // slots that workers hold views of beyond their chunk

	closing    bool // no new jobs; workers leave when the last one has ended
	terminated bool
	hungUp     bool
	freed      bool
	waiters    int // threads behind the one that watches
	inside     int // calls in progress that use the arena
	joining    int // threads in Join

	lost, retired, bytesOut int64
}

// loss is what is known of a worker's end.
type loss struct {
	exit    process.Exit
	timeout bool
}

// OpenEngine makes an engine; no worker is started yet.
func OpenEngine(cfg EngineConfig) (*Engine, error) {
	if cfg.Workers < 1 || cfg.Workers > 1<<16 {
		return nil, fail(CodeArgument, "number of workers must be between 1 and 65536, not %d", cfg.Workers)
	}
	if cfg.MaxTasks < 0 || cfg.MaxTasks > 1<<31-1 {
		return nil, fail(CodeArgument, "tasks per worker must be between 0 and 2147483647, not %d", cfg.MaxTasks)
	}
	tr, err := process.Open(cfg.Workers, cfg.ArenaBytes)
	if err != nil {
		return nil, &Error{CodeMemory, err}
	}
	e := &Engine{
		cfg: cfg, tr: tr,
		sched:  dispatch.New(dispatch.Config{Workers: cfg.Workers}),
		jobs:   make(map[dispatch.JobID]*job),
		losses: make(map[uint64]loss), starting: make(map[int]bool), ended: make(map[int]int64),
	}
	for i := range cfg.Workers {
		tr.ResetCell(i)
		e.starting[i] = cfg.Command == nil
	}
	tr.Store(process.CtlMaxTasks, uint64(max(cfg.MaxTasks, 0)))
	return e, nil
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

// MasterFds are the descriptors that any other child of this process must close.
func (e *Engine) MasterFds() [5]int { return e.tr.MasterFds() }

// Attach registers a process that the caller started as worker i; pid 0 says that it could not be started.
func (e *Engine) Attach(i, pid int, child bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.freed || i < 0 || i >= e.cfg.Workers {
		return fail(CodeArgument, "no worker %d in a pool of %d", i, e.cfg.Workers)
	}
	if e.tr.Workers[i].Pid != 0 {
		return fail(CodeArgument, "worker %d is there already (pid %d)", i, e.tr.Workers[i].Pid)
	}
	delete(e.starting, i)
	if pid <= 0 {
		e.replace(i) // another caller may have more luck
		return nil
	}
	if err := e.tr.Attach(i, pid, child); err != nil {
		e.needs = append(e.needs, i) // most likely it is dead already
		return &Error{CodeSystem, err}
	}
	return nil
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
	for !e.freed && e.tr.Alive() > 0 {
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
	return e.tr.Alive(), nil
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
	for e.joining > 0 { // they leave now, and the transport must be there until they have
		e.tr.Kick()
		e.mu.Unlock()
		process.Nap(1e5)
		e.mu.Lock()
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
	for i := range e.cfg.Workers {
		s.BusyNanos += int64(e.tr.Load(e.tr.Cell(i) + process.CellBusy))
	}
	return s
}
