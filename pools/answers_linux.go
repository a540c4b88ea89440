//go:build linux && (amd64 || arm64)

package pools

import (
	"cmp"
	"fmt"
	"slices"
	"sync/atomic"
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
	// A caller that waits while another thread watches the workers looks after signals this often.
	followerSlice = 50e6 // ns
)

// sleep waits for something to happen, maxNs at most, in this thread or behind the one that watches already. It is
// called with the lock and returns with it.
func (e *Engine) sleep(p *port, maxNs int64) (signal bool, err error) {
	if e.leading {
		return e.follow(p, maxNs), nil
	}
	timeout := e.nextLook(maxNs)
	e.leading = true
	e.mu.Unlock()
	wake, ended, err := e.tr.Wait(int((timeout + 999_999) / 1e6))
	e.mu.Lock()
	e.leading = false
	if err != nil {
		return false, &Error{CodeSystem, err}
	}
	if wake.Answers || len(ended) > 0 { // answers first: the last answer of a dead worker still counts
		if err := e.collect(); err != nil {
			return false, err
		}
	}
	for _, i := range ended {
		e.bury(i)
	}
	e.expire()
	if err := e.lookForSuspects(); err != nil {
		return false, err
	}
	return wake.Signal || timeout == maxNs && !wake.Answers && len(ended) == 0, nil
}

// follow waits until the watching thread has something for p or leaves. It says whether a signal came.
func (e *Engine) follow(p *port, maxNs int64) bool {
	if p == nil { // Join: nobody wakes it, so it looks again soon
		e.mu.Unlock()
		process.Nap(min(maxNs, 1e6))
		e.mu.Lock()
		return false
	}
	p.waiting = true
	e.waiters++
	bell := atomic.LoadInt32(p.bell())
	e.mu.Unlock()
	signal := process.FutexWait(p.bell(), bell, min(maxNs, followerSlice))
	e.mu.Lock()
	p.waiting = false
	e.waiters--
	return signal
}

// nextLook shortens the wait to the next deadline.
func (e *Engine) nextLook(maxNs int64) int64 {
	wait := maxNs
	if e.suspects {
		wait = min(wait, suspectLook)
	}
	if e.timed > 0 {
		now := process.Monotonic()
		for i := range e.tr.Workers {
			if c, deadline := e.deadline(i); c != nil {
				wait = min(wait, max(deadline-now, 0))
			}
		}
		// A task may begin while we sleep: none can then be overdue for longer than this.
		wait = min(wait, 10e6)
	}
	return wait
}

// deadline is the chunk that worker i has in hand and when its running task must have ended; nil where there is no limit.
func (e *Engine) deadline(i int) (*chunk, int64) {
	cell := e.tr.Cell(i)
	c := e.chunk(dispatch.ChunkID(e.tr.Load(cell + process.CellClaim)))
	if c == nil || !c.posted || c.killed || c.job.timeout == 0 || e.tr.Load(cell+process.CellBlock) == 0 {
		return nil, 0
	}
	started := int64(e.tr.Load(cell + process.CellStarted))
	// The worker may have gone on to another chunk while we read.
	if started == 0 || dispatch.ChunkID(e.tr.Load(cell+process.CellClaim)) != c.id {
		return nil, 0
	}
	return c, started + c.job.timeout
}

// expire ends the workers whose task has exceeded its limit; their death does the rest.
func (e *Engine) expire() {
	if e.timed == 0 {
		return
	}
	now := process.Monotonic()
	for i := range e.tr.Workers {
		if c, d := e.deadline(i); c != nil && now >= d {
			c.killed = true
			e.ended[i] = int64(e.tr.Load(e.tr.Cell(i) + process.CellRunning))
			// It cannot fail but for ESRCH, which is handled inside: the worker is our own.
			_ = e.tr.Signal(i, syscall.SIGKILL)
		}
	}
}

func (e *Engine) collect() error {
	var err error
	e.answers, err = e.tr.Answers(e.answers[:0])
	for _, r := range e.answers {
		if r := wire.Record(r); r.Control() {
			e.control(r.Code(), int(r.Worker()))
		} else {
			e.answered(r.Offset(), r.Generation())
		}
	}
	if err != nil {
		return &Error{CodeSystem, err}
	}
	return nil
}

func (e *Engine) control(code wire.Code, worker int) {
	if worker >= e.cfg.Workers {
		return
	}
	w := &e.tr.Workers[worker]
	switch code {
	case wire.Hello:
		w.State = process.Ready
		e.crashes = 0
	case wire.Retired:
		e.retired++
	case wire.InitFailed:
		e.failOff = e.tr.Load(e.tr.Cell(worker) + process.CellError)
		e.fail(fail(CodeInit, "the initializer failed in worker %d (pid %d)", worker, w.Pid))
	}
}

func (e *Engine) fail(err error) {
	e.failure = err
	for _, q := range e.ports {
		q.poke()
	}
}

// answered takes in the reply of one chunk.
func (e *Engine) answered(slot uint64, generation uint32) {
	if slot+process.SlotFrame+headerSize > e.tr.Len() {
		return
	}
	id := dispatch.ChunkID(e.tr.Load(slot + offChunk))
	c := e.chunk(id)
	if c == nil || c.slot != slot || id.Generation() != generation || !c.posted {
		return // of an earlier life of this slot
	}
	e.settle(c)
}

// settle settles a posted chunk by its reply block.
func (e *Engine) settle(c *chunk) {
	c.posted = false
	e.inFlight--
	status := e.tr.Load32(c.slot + process.ReplyStatus)
	done := int(e.tr.Load32(c.slot + process.ReplyDone))
	j := c.job
	if (status == process.StatusUnreadable || status == process.StatusNoFunction) && !j.gone {
		c.asking = status
		j.port.ask = append(j.port.ask, c)
		j.port.poke()
		return
	}
	e.broadcastStep(j)
	keep, ok := e.sched.Done(c.id, dispatch.Outcome{
		Done: min(done, c.count), Failed: status == process.StatusFailed && done < c.count,
		Elapsed: int64(e.tr.Load(c.slot + process.ReplyElapsed)), Bytes: int64(e.tr.Load(c.slot + process.ReplyBytes)),
	})
	e.settled(c, keep && ok)
}

func (e *Engine) settled(c *chunk, keep bool) {
	j := c.job
	if !keep {
		e.freeSlot(c)
	}
	if !j.gone {
		j.port.feed(j)
		j.port.touch(j)
		j.port.poke()
	}
}

// broadcastStep counts the answers of a broadcast; after the last one the parked workers go on.
func (e *Engine) broadcastStep(j *job) {
	if !j.broadcast {
		return
	}
	if j.left--; j.left > 0 {
		return
	}
	// Parked workers look at this word. Waking them through a pipe was tried and refused: a worker that comes late finds
	// the record meant for it eaten by one that parks for the next broadcast already.
	e.tr.Store(process.CtlGate, max(e.tr.Load(process.CtlGate), uint64(j.id)))
}

// bury settles what a dead worker held and arranges for a new one.
func (e *Engine) bury(i int) {
	cell := e.tr.Cell(i)
	exit := e.tr.Bury(i)
	task, byUs := e.ended[i]
	delete(e.ended, i)
	retired := e.tr.Load(cell+process.CellExitWant) != 0
	if c := e.chunk(dispatch.ChunkID(e.tr.Load(cell + process.CellClaim))); c != nil && c.posted {
		// Ended by us for something else: it had gone on to another task before the signal came, which is not to blame.
		innocent := byUs && (!c.killed || task != int64(e.tr.Load(cell+process.CellRunning)))
		e.bereft(c, i, exit, innocent)
	} else if e.inFlight > 0 {
		e.suspects = true
	}
	e.tr.Store(cell+process.CellClaim, 0)
	if e.hungUp {
		return
	}
	if !retired {
		e.lost++
		if exit.WasRead == process.Starting && e.failure == nil {
			if e.crashes++; e.crashes >= maxCrashes {
				e.failOff = 0
				e.fail(fail(CodeStart, "workers die before they are ready; the last one, pid %d, ended with %s",
					exit.Pid, exitText(exit)))
			}
		}
	}
	e.replace(i)
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

// bereft settles the chunk that a dead worker held.
func (e *Engine) bereft(c *chunk, worker int, exit process.Exit, innocent bool) {
	if s := e.tr.Load32(c.slot + process.ReplyStatus); s != process.StatusRunning {
		e.settle(c) // it had finished and died before it could say so
		return
	}
	cell := e.tr.Cell(worker)
	running := int(e.tr.Load(cell + process.CellRunning))
	block := int(e.tr.Load(cell + process.CellBlock))
	safe := min(int(e.tr.Load32(c.slot+process.ReplyDone)), c.count)
	if block == 0 { // it died reading the tasks: any of them can be the cause
		running, block = safe, c.count-safe
	}
	running = max(running, safe)
	block = min(block, c.count-running)
	if innocent {
		running = -1
		c.killed = false
	}
	e.lossTag++
	c.job.losses = append(c.job.losses, e.lossTag)
	e.losses[e.lossTag] = loss{exit: exit, timeout: c.killed}
	e.tr.Store32(c.slot+process.ReplyPinned, 0)
	e.tr.Store32(c.slot+process.ReplyWorker, uint32(worker))
	c.posted = false
	e.inFlight--
	e.broadcastStep(c.job)
	keep, ok := e.sched.Lost(c.id, dispatch.Loss{Safe: safe, Running: running, Block: max(block, 1), Tag: e.lossTag})
	e.settled(c, keep && ok)
}

// lookForSuspects finds chunks that a worker had read from the queue but not yet claimed when it died: posted, not
// waiting in the pipe, in no worker's hands, not answered, and that for a while.
func (e *Engine) lookForSuspects() error {
	if !e.suspects {
		return nil
	}
	// The workers go on meanwhile, and a chunk moves from the queue to a claim to the answer pipe: so each place is looked at
	// after the one before, or a chunk on its way would be found in none.
	waiting := e.tr.QueuedWork() + len(e.backlog)
	held := make(map[dispatch.ChunkID]bool)
	for i := range e.tr.Workers { // also of those that have not said hello yet; the dead hold nothing, see bury
		held[dispatch.ChunkID(e.tr.Load(e.tr.Cell(i)+process.CellClaim))] = true
	}
	var open []*chunk
	for _, c := range e.chunks {
		if c.posted && c.slot != 0 {
			open = append(open, c)
		}
	}
	slices.SortFunc(open, func(a, b *chunk) int { return cmp.Compare(a.seq, b.seq) })
	open = open[:max(len(open)-waiting, 0)] // the pipe is first in, first out
	if err := e.collect(); err != nil {
		return err
	}
	now := process.Monotonic()
	before := e.missing
	e.missing = make(map[dispatch.ChunkID]int64)
	for _, c := range open {
		if !c.posted || held[c.id] {
			continue
		}
		since, known := before[c.id]
		if !known {
			since = now
		}
		if now-since < suspectWait {
			e.missing[c.id] = since
			continue
		}
		c.posted = false
		e.inFlight--
		// The slot is not used again: should a worker that was stopped between reading and claiming wake up after all, it
		// must not write into another chunk's slot. Its late answer is recognised and dropped.
		c.slot = 0
		keep, ok := e.sched.Lost(c.id, dispatch.Loss{Running: -1, Tag: e.lossTag})
		e.settled(c, keep && ok)
	}
	e.suspects = len(e.missing) > 0
	return nil
}

// replace starts a worker in place i, or asks the caller to.
func (e *Engine) replace(i int) {
	if e.closing && len(e.jobs) == 0 || e.failure != nil {
		return
	}
	if e.cfg.Command == nil {
		e.needs = append(e.needs, i)
		for _, q := range e.ports { // any caller can start it
			q.poke()
		}
		return
	}
	if err := e.tr.StartExec(i, e.cfg.Command, e.cfg.Env); err != nil {
		e.fail(&Error{CodeStart, err})
	}
}

// askForWorkers looks for places that nobody fills: after a failed start the next job tries again.
func (e *Engine) askForWorkers() {
	for i := range e.tr.Workers {
		if e.tr.Workers[i].State == process.Absent && !slices.Contains(e.needs, i) && !e.starting[i] {
			e.replace(i)
		}
	}
}

// listNeeds hands the places to fill to this caller.
func (e *Engine) listNeeds(p *port) {
	if len(e.needs) == 0 {
		return
	}
	n := min(len(e.needs), process.MaxNeeds)
	for k, i := range e.needs[:n] {
		e.tr.ResetCell(i)
		e.starting[i] = true
		p.words[process.PortNeeds+k] = int64(i)
	}
	e.needs = e.needs[:copy(e.needs, e.needs[n:])]
	p.words[wordNeeds] = int64(n)
}
