package dispatch

import (
	"fmt"
	"slices"
)

// The model is a Scheduler as one would write it without a care for speed: a state per task and a record per chunk.
// play drives both through the same events, chosen by a source of choices, and panics with a modelError at the first
// difference. The random test and the fuzz target differ only in that source.

type chooser interface {
	pick(n int) int // 0 <= pick < n
	spent() bool    // no choices are left: wind up
}

type modelError string

type taskState uint8

const (
	tWaiting taskState = iota // may be offered
	tChunk                    // reserved or in flight
	tResult                   // answered, not delivered
	tFailed                   // final failure, not delivered
	tLost                     // final loss, not delivered
	tGone                     // delivered
)

type modelTask struct {
	state   taskState
	offered bool // part of an earlier offer
	charged int
	strikes int
	alone   bool
	tag     uint64
	chunk   ChunkID // holding it, or its result
}

type modelJob struct {
	id        JobID
	spec      JobSpec
	tasks     []modelTask
	known     bool // the Scheduler was told their true number: not so for Unknown ones, nor for sources that promise too many
	oneByOne  bool // Unknown: one offer at a time
	next      int  // ordered: the task to be delivered next
	gone      int
	cancelled bool
}

type modelChunk struct {
	id       ChunkID
	job      *modelJob
	offer    Offer
	reserved bool
	dead     bool // its job was cancelled
}

type model struct {
	s       *Scheduler
	in      chooser
	jobs    []*modelJob
	open    []*modelChunk // reserved and flying
	read    []ChunkID     // delivered, not released
	stale   []ChunkID
	seen    map[ChunkID]bool
	workers int
	depth   int
	events  int
	tags    uint64
	calm    bool // winding up: nothing goes wrong any more
}

func (m *model) check(ok bool, format string, args ...any) {
	if !ok {
		panic(modelError(fmt.Sprintf(format, args...)))
	}
}

// play runs one Scheduler until the choices are spent, finishes its jobs, and checks that nothing is left. It returns
// the number of events.
func play(in chooser) int {
	m := &model{in: in, seen: map[ChunkID]bool{}, workers: 1 + in.pick(5)}
	c := Config{Workers: m.workers}
	if in.pick(4) == 0 {
		c.Depth = 1 + in.pick(6)
	}
	if in.pick(4) == 0 {
		c.WindowChunks, c.WindowBytes = 1, 1+int64(in.pick(5000))
	}
	m.depth = c.Depth
	m.s = New(c)
	for !in.spent() {
		m.step()
	}
	m.calm = true
	for len(m.jobs) > 0 {
		m.finish(m.jobs[0])
	}
	for len(m.open) > 0 {
		m.answer(m.open[0])
	}
	for len(m.read) > 0 {
		m.release(0)
	}
	m.check(m.s.Counters().InFlight == 0, "%d chunks in flight at the end", m.s.Counters().InFlight)
	free := int32(0)
	for i := m.s.chunks.free; i != none; i = m.s.chunks.at(i).link {
		free++
	}
	m.check(free == m.s.chunks.used, "%d of %d slab entries free at the end", free, m.s.chunks.used)
	m.check(len(m.s.idle) == len(m.s.jobs) && len(m.s.byID) == 0, "jobs left at the end")
	return m.events
}

func (m *model) step() {
	m.events++
	if len(m.jobs) == 0 {
		m.begin()
		return
	}
	j := m.jobs[m.in.pick(len(m.jobs))]
	if m.events%32 == 0 {
		m.audit(j)
	}
	switch k := m.in.pick(64); {
	case k < 18:
		m.offer(j)
	case k < 44:
		if len(m.open) > 0 {
			m.answer(m.open[m.in.pick(len(m.open))])
		}
	case k < 54:
		m.deliver(j)
	case k < 58:
		if len(m.read) > 0 {
			m.release(m.in.pick(len(m.read)))
		}
	case k < 60:
		m.tryStale()
	case k == 60:
		if len(m.jobs) < 4 {
			m.begin()
		}
	case k == 61:
		m.workers = 1 + m.in.pick(8)
		m.s.SetWorkers(m.workers)
	case k == 62:
		if m.in.pick(8) == 0 {
			m.cancel(j)
		}
	default:
		if m.s.Finished(j.id) || m.in.pick(16) == 0 {
			m.end(j)
		}
	}
}

func (m *model) begin() {
	length := m.in.pick(6)
	if m.in.pick(3) > 0 {
		length = m.in.pick(300)
	}
	j := &modelJob{tasks: make([]modelTask, length), known: true}
	j.spec = JobSpec{
		Tasks: int64(length), Func: uint32(m.in.pick(4)), Retries: m.in.pick(3),
		Ordered: m.in.pick(2) == 0, Lazy: m.in.pick(3) == 0, Timed: m.in.pick(4) == 0,
	}
	switch m.in.pick(8) {
	case 0, 1:
		j.spec.Tasks, j.known, j.oneByOne = Unknown, false, true
	case 2:
		j.spec.Tasks, j.known = int64(length+1+m.in.pick(30)), false
	}
	if m.in.pick(3) == 0 {
		j.spec.Chunk = 1 + m.in.pick(20)
	}
	if m.in.pick(4) == 0 {
		j.spec.MaxTasks = 1 + m.in.pick(10)
	}
	if m.in.pick(4) == 0 {
		j.spec.Depth = 1 + m.in.pick(4)
	}
	j.id = m.s.Begin(j.spec)
	m.jobs = append(m.jobs, j)
}

// waiting returns the task that the next offer must start with, or -1.
func (j *modelJob) waiting() (first int, again bool) {
	fresh := -1
	for i := range j.tasks {
		t := &j.tasks[i]
		if t.state != tWaiting {
			continue
		}
		if t.offered {
			return i, true
		}
		if fresh < 0 {
			fresh = i
		}
	}
	return fresh, false
}

func (m *model) inAir(j *modelJob) (all, reserved int) {
	for _, c := range m.open {
		if c.job == j && !c.dead {
			all++
			if c.reserved {
				reserved++
			}
		}
	}
	return all, reserved
}

func (m *model) offer(j *modelJob) bool {
	o, ok := m.s.Offer(j.id)
	if !ok {
		m.check(o == Offer{}, "an offer although there is none")
		return false
	}
	all, reserved := m.inAir(j)
	depth := m.depth
	if depth == 0 {
		depth = m.workers + min(2*m.workers, 32)
	}
	if j.spec.Chunk > 0 { // short chunks of a fixed size go deeper
		depth = max(depth, defaultDeepMost)
	}
	if j.spec.Depth > 0 {
		depth = min(depth, j.spec.Depth)
	}
	m.check(!j.cancelled, "offer of a cancelled job")
	m.check(all < depth, "%d chunks in flight, depth %d", all+1, depth)
	m.check(!j.oneByOne || reserved == 0, "two offers from a source of unknown length")
	m.check(o.Job == j.id && o.Chunk != 0 && !m.seen[o.Chunk], "chunk id %x used twice", o.Chunk)
	m.seen[o.Chunk] = true
	first, again := j.waiting()
	if !j.known && !again && first < 0 {
		first = len(j.tasks) // the source is drained, but nobody has told
		if o.First > int64(first) {
			first = int(o.First)
		}
	}
	m.check(o.First == int64(first), "offer starts with %d, should with %d", o.First, first)
	m.check(o.Fresh != again || first >= len(j.tasks), "fresh is %v for task %d", o.Fresh, first)
	m.check(o.Count >= 1, "offer of %d tasks", o.Count)
	m.check(j.spec.Chunk == 0 || o.Count <= j.spec.Chunk, "explicit chunk of %d has %d", j.spec.Chunk, o.Count)
	m.check(j.spec.MaxTasks == 0 || o.Count <= j.spec.MaxTasks, "%d tasks, at most %d", o.Count, j.spec.MaxTasks)
	m.check(o.Block >= 1 && o.Block <= o.Count, "block %d of %d", o.Block, o.Count)
	m.check(!j.spec.Timed || o.Block == 1, "block %d although timed", o.Block)
	m.check(o.Budget == 0 || (o.Count > 1 && j.spec.Chunk == 0), "budget %d for %d tasks", o.Budget, o.Count)
	m.check(!j.known || o.First+int64(o.Count) <= int64(len(j.tasks)), "offer beyond the end")
	for i := o.First; i < min(o.First+int64(o.Count), int64(len(j.tasks))); i++ {
		t := &j.tasks[i]
		m.check(t.state == tWaiting, "task %d offered in state %d", i, t.state)
		m.check(t.charged == o.Attempt, "task %d charged %d, attempt %d", i, t.charged, o.Attempt)
		m.check(o.Count == 1 || (!t.alone && t.charged == 0), "task %d must go alone", i)
		m.check(t.offered == !o.Fresh, "task %d offered before is %v", i, t.offered)
		t.state, t.offered, t.chunk = tChunk, true, o.Chunk
	}
	m.open = append(m.open, &modelChunk{id: o.Chunk, job: j, offer: o, reserved: true})
	return true
}

func (m *model) drop(c *modelChunk) {
	i := slices.Index(m.open, c)
	m.open[i] = m.open[len(m.open)-1]
	m.open = m.open[:len(m.open)-1]
	m.stale = append(m.stale, c.id)
}

// wait puts tasks of a chunk back.
func (j *modelJob) wait(c *modelChunk, from, to int, change func(*modelTask)) {
	for i := from; i < to; i++ {
		if at := int(c.offer.First) + i; at < len(j.tasks) {
			t := &j.tasks[at]
			t.state, t.chunk = tWaiting, 0
			if change != nil {
				change(t)
			}
		}
	}
}
