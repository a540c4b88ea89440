//go:build linux && (amd64 || arm64)

package pools

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

const (
	// How long a chunk may be in nobody's hands before it is posted again. A worker stores its claim within a
	// microsecond of reading the record; only one that was stopped right there takes longer, and a second
	// answer would be recognised.
	suspectWait = 20e6 // ns
	suspectLook = 1e6  // ns between two looks
	// Workers that die this often in a row before they are ready make the pool give up.
	maxCrashes = 3
)

// chunk is what the owner of a crew knows of one chunk id.
type chunk struct {
	id      dispatch.ChunkID
	job     *job // nil in a Rank, whose jobs are the master's
	slot    uint64
	room    uint64
	count   int
	first   int64
	bytes   int64
	timeout int64 // ns per task, 0 none
	posted  bool
	seq     uint64
	asking  uint32  // status of the question, 0 none
	killed  bool    // its worker was ended for exceeding the time limit
	lane    *lane   // the rank that has it; nil: the crew
	expect  float64 // ns that it should run, 0: nobody knows
	taken   bool    // in the hands of the crew or of a rank

	// In a Rank, from the master's message:
	masterJob uint64
	parks     bool // part of a broadcast: whoever runs it waits for the others
	brief     bool
}

// loss is what is known of a worker's end.
type loss struct {
	exit     process.Exit
	timeout  bool
	vanished bool // the chunk was in nobody's hands
	rank     int  // of the MPI rank whose worker it was, 0: on the master
}

// boss is who a crew works for: the Engine, whose scheduler made the chunks, or a Rank, which got them from the master.
// All calls come with the boss's lock held.
type boss interface {
	settle(c *chunk)                              // the reply block tells what became of the chunk
	bereft(c *chunk, l dispatch.Loss, x loss)     // its worker died in the middle of it
	cannotStart(code Code, why error, off uint64) // workers do not get ready; off is where an error record lies, 0: none
	wantsWorkers() bool                           // whether an empty place is to be filled
	poke()                                        // a place needs a worker that a caller has to start
}

// crew is the worker processes on this machine: their transport, the chunks they have in hand, and what is to be done when
// one of them dies. It decides nothing about tasks; what happened to a chunk goes to the boss.
type crew struct {
	tr      *process.Transport
	boss    boss
	command []string
	env     []string
	chunks  []*chunk // by slab index of the chunk id

	backlog  []uint64 // records that did not fit in the pipe yet
	answers  []uint64 // scratch
	postSeq  uint64
	inFlight int                        // posted and unanswered, over all jobs
	timed    int                        // jobs (in a Rank: chunks) with a time limit per task
	suspects bool                       // a dead worker may have taken a chunk along
	missing  map[dispatch.ChunkID]int64 // chunks in nobody's hands, and since when

	needs    []int         // workers to be started by the caller
	starting map[int]bool  // places handed to a caller who has not attached a worker yet
	ended    map[int]int64 // workers that we ended, and the task in the chunk they were ended for (-1: a job given up)
	crashes  int           // workers that died in a row before saying hello
	pinned   []uint64      // slots that workers hold views of beyond their chunk
	hungUp   bool
	busy     func(slot uint64) bool // whether MPI still reads a slot: it is freed when that ends; nil: never

	lost, retired int64
}

// open prepares the transport and the cells for n workers; none is started yet.
func (w *crew) open(b boss, n int, arena uint64, maxTasks int, command, env []string) error {
	tr, err := process.Open(n, arena)
	if err != nil {
		return &Error{CodeMemory, err}
	}
	*w = crew{tr: tr, boss: b, command: command, env: env, starting: make(map[int]bool), ended: make(map[int]int64)}
	for i := range n {
		tr.ResetCell(i)
		w.starting[i] = command == nil
	}
	tr.Store(process.CtlMaxTasks, uint64(max(maxTasks, 0)))
	return nil
}

// Thread is the pid under which a thread of this process is attached.
const Thread = -1

// attach registers a process, or with Thread a thread, that the caller started as worker i; pid 0 says that it could not be
// started.
func (w *crew) attach(i, pid int, child bool) error {
	if i < 0 || i >= len(w.tr.Workers) {
		return fail(CodeArgument, "no worker %d in a pool of %d", i, len(w.tr.Workers))
	}
	if w.tr.Workers[i].Pid != 0 {
		return fail(CodeArgument, "worker %d is there already (pid %d)", i, w.tr.Workers[i].Pid)
	}
	delete(w.starting, i)
	if w.hungUp { // it ended while this one was being started: Join may be over, and nobody would wait for it
		w.tr.Forget(i) // it may have said hello
		if pid == 0 {
			return nil
		}
		return fail(CodeTerminated, "the pool has ended, and needs no worker %d", i)
	}
	if pid == Thread {
		w.tr.AttachThread(i)
		return nil
	}
	if pid <= 0 {
		w.replace(i) // another caller may have more luck
		return nil
	}
	switch err := w.tr.Attach(i, pid, child); {
	case errors.Is(err, syscall.ESRCH): // it has ended, and the script's own wait() took it, or SIGCHLD is ignored
		who := &w.tr.Workers[i]
		who.Pid, who.State = pid, cmp.Or(who.State, process.Starting)
		w.bury(i)
	case err != nil:
		w.tr.Forget(i)
		w.needs = append(w.needs, i)
		return &Error{CodeSystem, err}
	}
	return nil
}

// post queues a chunk for whichever worker is free.
func (w *crew) post(c *chunk) {
	c.taken = true
	w.backlog = append(w.backlog, uint64(wire.ChunkRecord(uint32(c.slot/process.PageSize), c.id.Generation())))
}

// launch marks a chunk as on its way.
func (w *crew) launch(c *chunk) {
	c.posted = true
	w.postSeq++
	c.seq = w.postSeq
	w.inFlight++
}

func (w *crew) flush() error {
	if len(w.backlog) == 0 || w.hungUp {
		return nil
	}
	n, err := w.tr.Post(w.backlog)
	w.backlog = w.backlog[:copy(w.backlog, w.backlog[n:])]
	if err != nil {
		return &Error{CodeSystem, err}
	}
	return nil
}

// slab returns the record for a chunk id, growing the table.
func (w *crew) slab(id dispatch.ChunkID) *chunk {
	i := int(uint32(id))
	for len(w.chunks) <= i {
		w.chunks = append(w.chunks, new(chunk))
	}
	return w.chunks[i]
}

// chunk finds a live chunk by its id.
func (w *crew) chunk(id dispatch.ChunkID) *chunk {
	i := int(uint32(id))
	if i >= len(w.chunks) || w.chunks[i].id != id || w.chunks[i].slot == 0 {
		return nil
	}
	return w.chunks[i]
}

// claimed is the posted chunk that worker i has in hand, nil: none.
func (w *crew) claimed(i int) *chunk {
	c := w.chunk(dispatch.ChunkID(w.tr.Load(w.tr.Cell(i) + process.CellClaim)))
	if c == nil || !c.posted {
		return nil
	}
	return c
}

// end kills worker i on purpose, for the task of its chunk that stands at this place (-1: a job was given up).
func (w *crew) end(i int, task int64) {
	if who := &w.tr.Workers[i]; who.State == process.Absent || who.Thread || who.Rank > 0 {
		return // of an empty place the next one's death would pass for ours; a thread cannot be ended, and a rank takes the job along
	}
	w.ended[i] = task
	// It cannot fail but for ESRCH, which is handled inside: the worker is our own.
	_ = w.tr.Signal(i, syscall.SIGKILL)
}

// attend sees to what a wait of the transport has found.
func (w *crew) attend(wake process.Wake, ended []int) error {
	if wake.Answers || len(ended) > 0 { // answers first: the last answer of a dead worker still counts
		if err := w.collect(); err != nil {
			return err
		}
	}
	for _, i := range ended {
		w.bury(i)
	}
	w.expire()
	return w.lookForSuspects()
}

// nextLook shortens the wait to the next deadline.
func (w *crew) nextLook(maxNs int64) int64 {
	wait := maxNs
	if w.suspects {
		wait = min(wait, suspectLook)
	}
	if w.timed > 0 {
		now := process.Monotonic()
		for i := range w.tr.Workers {
			if c, deadline := w.deadline(i); c != nil {
				wait = min(wait, max(deadline-now, 0))
			}
		}
		// A task may begin while we sleep: none can then be overdue for longer than this.
		wait = min(wait, 10e6)
	}
	return wait
}

// deadline is the chunk that worker i has in hand and when its running task must have ended; nil where there is no limit.
func (w *crew) deadline(i int) (*chunk, int64) {
	cell := w.tr.Cell(i)
	c := w.chunk(dispatch.ChunkID(w.tr.Load(cell + process.CellClaim)))
	if c == nil || !c.posted || c.killed || c.timeout == 0 || w.tr.Load(cell+process.CellBlock) == 0 {
		return nil, 0
	}
	started := int64(w.tr.Load(cell + process.CellStarted))
	// The worker may have gone on to another chunk while we read.
	if started == 0 || dispatch.ChunkID(w.tr.Load(cell+process.CellClaim)) != c.id {
		return nil, 0
	}
	return c, started + c.timeout
}

// expire ends the workers whose task has exceeded its limit; their death does the rest.
func (w *crew) expire() {
	if w.timed == 0 {
		return
	}
	now := process.Monotonic()
	for i := range w.tr.Workers {
		if c, d := w.deadline(i); c != nil && now >= d {
			c.killed = true
			w.end(i, int64(w.tr.Load(w.tr.Cell(i)+process.CellRunning)))
		}
	}
}

func (w *crew) collect() error {
	var err error
	w.answers, err = w.tr.Answers(w.answers[:0])
	for _, r := range w.answers {
		if r := wire.Record(r); r.Control() {
			w.control(r.Code(), int(r.Worker()))
		} else {
			w.answered(r.Offset(), r.Generation())
		}
	}
	if err != nil {
		return &Error{CodeSystem, err}
	}
	return nil
}

func (w *crew) control(code wire.Code, worker int) {
	if worker >= len(w.tr.Workers) {
		return
	}
	who := &w.tr.Workers[worker]
	switch code {
	case wire.Hello:
		if who.Pid == 0 && !w.starting[worker] {
			return // of one that could not be watched, and so was ended: nobody would see it leave
		}
		who.State = process.Ready
		w.crashes = 0
	case wire.Retired:
		w.retired++
	case wire.InitFailed:
		w.boss.cannotStart(CodeInit, fmt.Errorf("the initializer failed in worker %d (pid %d)", worker, who.Pid),
			w.tr.Load(w.tr.Cell(worker)+process.CellError))
	case wire.Left:
		if who.Thread {
			w.tr.Forget(worker)
			// The job after the one that heard of a failed start may have begun before this: it saw the place taken.
			if !w.hungUp {
				w.replace(worker)
			}
		}
	}
}

// answered takes in the reply of one chunk.
func (w *crew) answered(slot uint64, generation uint32) {
	if slot+process.SlotFrame+headerSize > w.tr.Len() {
		return
	}
	id := dispatch.ChunkID(w.tr.Load(slot + offChunk))
	c := w.chunk(id)
	if c == nil || c.slot != slot || id.Generation() != generation || !c.posted {
		return // of an earlier life of this slot
	}
	c.posted = false
	w.inFlight--
	w.boss.settle(c)
}

// bury settles what a dead worker held and arranges for a new one.
func (w *crew) bury(i int) {
	cell := w.tr.Cell(i)
	exit := w.tr.Bury(i)
	task, byUs := w.ended[i]
	delete(w.ended, i)
	retired := w.tr.Load(cell+process.CellExitWant) != 0
	if c := w.chunk(dispatch.ChunkID(w.tr.Load(cell + process.CellClaim))); c != nil && c.posted {
		// Ended by us for something else: it had gone on to another task before the signal came, which is not to blame.
		innocent := byUs && (!c.killed || task != int64(w.tr.Load(cell+process.CellRunning)))
		w.orphan(c, i, exit, innocent)
	} else if w.inFlight > 0 {
		w.suspects = true
	}
	w.tr.Store(cell+process.CellClaim, 0)
	if w.hungUp {
		return
	}
	if !retired {
		w.lost++
		if exit.WasRead == process.Starting {
			if w.crashes++; w.crashes >= maxCrashes {
				w.boss.cannotStart(CodeStart, fmt.Errorf("workers die before they are ready; the last one, pid %d, ended with %s",
					exit.Pid, exitText(exit)), 0)
			}
		}
	}
	w.replace(i)
}

func exitText(x process.Exit) string {
	switch {
	case !x.Known:
		return "unknown status"
	case x.Code < 0:
		return fmt.Sprintf("signal %d (%s)", -x.Code, syscall.Signal(-x.Code))
	}
	return fmt.Sprintf("exit code %d", x.Code)
}

// orphan settles the chunk that a dead worker held.
func (w *crew) orphan(c *chunk, worker int, exit process.Exit, innocent bool) {
	if s := w.tr.Load32(c.slot + process.ReplyStatus); s != process.StatusRunning {
		c.posted = false
		w.inFlight--
		w.boss.settle(c) // it had finished and died before it could say so
		return
	}
	cell := w.tr.Cell(worker)
	running := int(w.tr.Load(cell + process.CellRunning))
	block := int(w.tr.Load(cell + process.CellBlock))
	safe := min(int(w.tr.Load32(c.slot+process.ReplyDone)), c.count)
	if block == 0 { // it died reading the tasks: any of them can be the cause
		running, block = safe, c.count-safe
	}
	running = max(running, safe)
	block = min(block, c.count-running)
	if innocent {
		running = -1
		c.killed = false
	}
	w.tr.Store32(c.slot+process.ReplyPinned, 0)
	w.tr.Store32(c.slot+process.ReplyWorker, uint32(worker))
	c.posted = false
	w.inFlight--
	w.boss.bereft(c, dispatch.Loss{Safe: safe, Running: running, Block: max(block, 1)}, loss{exit: exit, timeout: c.killed})
}

// lookForSuspects finds chunks that a worker had read from the queue but not yet claimed when it died: posted, not
// waiting in the pipe, in no worker's hands, not answered, and that for a while.
func (w *crew) lookForSuspects() error {
	if !w.suspects {
		return nil
	}
	// The workers go on meanwhile, and a chunk moves from the queue to a claim to the answer pipe: so each place is looked at
	// after the one before, or a chunk on its way would be found in none.
	waiting := w.tr.QueuedWork() + len(w.backlog)
	held := make(map[dispatch.ChunkID]bool)
	for i := range w.tr.Workers { // also of those that have not said hello yet; the dead hold nothing, see bury
		held[dispatch.ChunkID(w.tr.Load(w.tr.Cell(i)+process.CellClaim))] = true
	}
	var open []*chunk
	for _, c := range w.chunks {
		if c.posted && c.slot != 0 && c.taken && c.lane == nil {
			open = append(open, c)
		}
	}
	slices.SortFunc(open, func(a, b *chunk) int { return cmp.Compare(a.seq, b.seq) })
	open = open[:max(len(open)-waiting, 0)] // the pipe is first in, first out
	if err := w.collect(); err != nil {
		return err
	}
	now := process.Monotonic()
	before := w.missing
	w.missing = make(map[dispatch.ChunkID]int64)
	for _, c := range open {
		if !c.posted || held[c.id] {
			continue
		}
		since, known := before[c.id]
		if !known {
			since = now
		}
		if now-since < suspectWait {
			w.missing[c.id] = since
			continue
		}
		c.posted = false
		w.inFlight--
		// The slot is not used again: should a worker that was stopped between reading and claiming wake up after all, it
		// must not write into another chunk's slot. Its late answer is recognised and dropped.
		c.slot = 0
		w.boss.bereft(c, dispatch.Loss{Running: -1}, loss{vanished: true})
	}
	w.suspects = len(w.missing) > 0
	return nil
}

// replace starts a worker in place i, or asks the caller to.
func (w *crew) replace(i int) {
	if !w.boss.wantsWorkers() {
		return
	}
	if w.command == nil {
		w.needs = append(w.needs, i)
		w.boss.poke()
		return
	}
	if err := w.tr.StartExec(i, w.command, w.env); err != nil {
		w.boss.cannotStart(CodeStart, err, 0)
	}
}

// askForWorkers looks for places that nobody fills: after a failed start the next job tries again.
func (w *crew) askForWorkers() {
	for i := range w.tr.Workers {
		if w.tr.Workers[i].State == process.Absent && !slices.Contains(w.needs, i) && !w.starting[i] {
			w.replace(i)
		}
	}
}

// takeNeeds hands out the places that a caller has to fill, no more than fit into out, and says how many.
func (w *crew) takeNeeds(out []int64) int {
	n := min(len(w.needs), len(out))
	for k, i := range w.needs[:n] {
		w.tr.ResetCell(i)
		w.starting[i] = true
		out[k] = int64(i)
	}
	w.needs = w.needs[:copy(w.needs, w.needs[n:])]
	return n
}
