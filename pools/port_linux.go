//go:build linux && (amd64 || arm64)

package pools

import (
	"errors"
	"sync/atomic"
	"unsafe"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// What Step found, as a set of flags.
const (
	FlagEvents = 1 << iota // results, losses or questions are listed in the port
	FlagOffers             // chunks may be encoded
	FlagNeeds              // workers have to be started by the caller
	FlagIdle               // no job of this port is unfinished
	FlagResume             // a signal came, or the time slice is over: look after signals and call again
	FlagKicked             // Kick was called for this port
)

// How Step waits.
const (
	WaitNone  = 0 // post and look, never sleep
	WaitAny   = 1 // until one result can be read
	WaitBatch = 2 // until reading pays: all is done, the workers need feeding, or much has come
	WaitKick  = 3 // as WaitAny, and also while no job is there
	WaitHold  = 4 // as WaitAny, while nothing can be encoded: offers that were not submitted are kept, and are no reason to return
)

// Flags of an event.
const (
	EventFailed  = 1  // an error record for the task after the results follows them
	EventLost    = 2  // the task after the results was lost with its worker
	EventTasks   = 4  // a question: the worker could not read the tasks; answer with Requeue or Reject
	EventFunc    = 8  // a question: the worker could not read the function
	EventTimeout = 16 // with EventLost: the worker was ended because the task exceeded its time limit
	EventExit    = 32 // with EventLost: the exit code is known
)

// Flags of a job.
const (
	JobOrdered   = 1
	JobLazy      = 2
	JobBroadcast = 4 // one task per worker: a worker that ran one waits until all have
	JobDepth     = 8 // parameter 9 says how many chunks may be encoded and unanswered at once, >= 1
)

// TaskPark is the flag in a TASKS frame that makes a worker wait after its answer until CtlGate says that the broadcast has ended.
const TaskPark = 1 << 16

const (
	waitSlice    = 100e6    // ns after which Step returns so that signals are seen even if one slipped between check and sleep
	batchBytes   = 64 << 10 // results of that size are worth reading while others are still computed
	maxPosted    = 4096     // chunks in flight over all jobs: half of what a 64 KiB pipe holds
	headerSize   = wire.HeaderSize
	offChunk     = process.SlotFrame + 24
	offNBuf      = 12
	offNext      = 72 // of a RESULTS frame
	offBlock     = 80
	wordEvents   = 0
	wordOffers   = 1
	wordNeeds    = 2
	wordCode     = 3
	wordErrorOff = 4
	wordBell     = 5 // futex
)

// port is the engine's side of one exchange area: one caller thread at a time.
type port struct {
	index   int
	words   []int64
	jobs    int // unfinished jobs
	latest  dispatch.JobID
	dirty   []*job   // may have something to deliver
	hungry  []*job   // may have something to encode
	offers  []*chunk // nil: withdrawn, its place in the list stays
	held    []uint64 // slots of delivered events, free at the next call
	evBytes int64
	events  int
	kicked  bool
	waiting bool
	fault   error    // told by the next Step
	ask     []*chunk // questions to put to the caller
}

// job is one map call.
type job struct {
	id           dispatch.JobID
	port         *port
	timeout      int64 // ns per task, 0 none
	broadcast    bool
	bounded      bool // by JobDepth
	left         int  // broadcast: chunks not answered yet
	seated       int  // broadcast: results of worker processes beside neighbours that were delivered
	isDirty      bool
	isHungry     bool
	losses       []uint64
	gone         bool // ended or cancelled: late answers are dropped
	flags        uint32
	blob, blobAt uint64
	perTask      int64 // bytes, from the last chunk encoded
}

// poke wakes the thread of a port that waits behind the one that watches. A futex in the port's own words, not a
// channel with a timer: Go's timers open an epoll instance and an eventfd for good, and a signal to the waiting thread
// would go unseen until the timer fires.
func (p *port) poke() {
	if p != nil && p.waiting {
		atomic.AddInt32(p.bell(), 1)
		process.FutexWake(p.bell())
	}
}

func (p *port) bell() *int32 { return (*int32)(unsafe.Pointer(&p.words[wordBell])) }

// OpenPort reserves an exchange area and says where it lies in the arena.
func (e *Engine) OpenPort() (index int, offset uint64, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.freed {
		return 0, 0, fail(CodeHandle, "the engine is closed")
	}
	for i, p := range e.ports {
		if p == nil {
			e.ports[i] = &port{index: i, words: e.tr.Port(i)}
			return i, e.tr.PortOffset(i), nil
		}
	}
	return 0, 0, fail(CodePorts, "more than %d callers use the pool at once", len(e.ports))
}

// ClosePort gives the exchange area back and cancels what it still ran.
func (e *Engine) ClosePort(i int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.port(i)
	if p == nil || e.freed {
		return
	}
	for _, j := range e.jobs {
		if j.port == p {
			e.cancel(j)
		}
	}
	e.releaseHeld(p)
	e.ports[i] = nil
}

func (e *Engine) port(i int) *port {
	if i < 0 || i >= len(e.ports) {
		return nil
	}
	return e.ports[i]
}

// Begin starts a job; its parameters lie in the port: tasks (-1 unknown), key of the function's task time,
// chunk size (0 adaptive), retries, job flags, time limit per task in ns, task flags, blob serial, blob offset, and with
// JobDepth the most chunks out at once. The first offers are listed when it returns.
func (e *Engine) Begin(pi int) (int64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.port(pi)
	if p == nil || e.freed {
		return 0, fail(CodeHandle, "no such port")
	}
	if e.closing {
		return 0, fail(CodeTerminated, "the pool is closed")
	}
	if e.fleet != nil {
		if err := e.fleet.checkThread(); err != nil {
			return 0, err
		}
	}
	a := p.words[process.PortParams:]
	spec := dispatch.JobSpec{
		Tasks: a[0], Func: uint32(a[1]), Chunk: int(a[2]), Retries: int(a[3]),
		Ordered: a[4]&JobOrdered != 0, Lazy: a[4]&JobLazy != 0, Timed: a[5] > 0, MaxTasks: e.cfg.MaxTasks,
	}
	if a[2] > 1<<31-1 || a[3] > 1<<31-1 {
		return 0, fail(CodeArgument, "begin: chunk size and retries are at most 2147483647")
	}
	if spec.Tasks < dispatch.Unknown || spec.Chunk < 0 || spec.Retries < 0 || a[5] < 0 {
		return 0, fail(CodeArgument, "begin: negative argument")
	}
	if a[4]&JobDepth != 0 {
		if a[9] < 1 {
			return 0, fail(CodeArgument, "begin: %d chunks at once", a[9])
		}
		spec.Depth = int(a[9])
	}
	broadcast := a[4]&JobBroadcast != 0
	if broadcast {
		spec.Tasks, spec.Chunk = int64(e.total), 1
	}
	e.failure, e.crashes = nil, 0
	if e.fleet != nil {
		e.failure, e.failOff = e.fleet.failure, e.fleet.failOff // a rank that cannot work does not come back
	}
	e.askForWorkers()
	e.releaseHeld(p)
	if err := e.submit(p, 0, false); err != nil { // offers of a job that was given up
		return 0, err
	}
	j := &job{
		id: e.sched.Begin(spec), port: p, timeout: a[5], broadcast: broadcast, left: int(spec.Tasks),
		bounded: spec.Depth > 0, flags: uint32(a[6]), blob: uint64(a[7]), blobAt: uint64(a[8]),
	}
	if broadcast {
		j.flags |= TaskPark
	}
	if j.timeout > 0 {
		e.timed++
	}
	e.jobs[j.id] = j
	p.jobs++
	p.latest = j.id
	p.feed(j)
	p.touch(j)
	// Only offers: the caller steps before it reads events and needs, and stepping lists them anew.
	p.begin()
	e.listOffers(p)
	return int64(j.id), nil
}

func (p *port) touch(j *job) {
	if !j.isDirty {
		j.isDirty = true
		p.dirty = append(p.dirty, j)
	}
}

func (p *port) feed(j *job) {
	if !j.isHungry {
		j.isHungry = true
		p.hungry = append(p.hungry, j)
	}
}

func (p *port) begin() {
	p.events, p.evBytes = 0, 0
	p.words[wordEvents], p.words[wordOffers], p.words[wordNeeds] = 0, 0, 0
}

// Step (mode: one of the Wait constants, plus 256 times the most milliseconds to wait) submits the first `submitted` offers of the last call, then waits as mode says. The other offers go back, with
// WaitNone and WaitHold they stay and are listed again. Slots of the events listed before are free from now on.
func (e *Engine) Step(pi, submitted, mode int) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.port(pi)
	if p == nil || e.freed {
		return 0, fail(CodeHandle, "no such port")
	}
	e.inside++
	defer e.leave()
	e.releaseHeld(p)
	p.begin()
	if err := e.submit(p, submitted, mode&255 == WaitNone || mode&255 == WaitHold); err != nil {
		return 0, err
	}
	until := int64(0)
	if ms := mode >> 8; ms > 0 {
		until = process.Monotonic() + int64(ms)*1e6
	}
	mode &= 255
	if mode == WaitNone && e.fleet != nil && e.fleet.far {
		if err := e.fleet.makeRoom(); err != nil {
			return 0, err
		}
	}
	for {
		if err := e.push(); err != nil {
			return 0, err
		}
		if err := e.check(p); err != nil {
			return 0, err
		}
		e.listEvents(p)
		e.listOffers(p)
		e.listNeeds(p)
		if p.fault != nil {
			continue
		}
		if flags, done := e.ready(p, mode); done {
			return flags, nil
		}
		slice := int64(waitSlice)
		if until != 0 {
			if slice = min(slice, until-process.Monotonic()); slice <= 0 {
				return p.flags() | FlagResume, nil
			}
		}
		signal, err := e.sleep(p, slice)
		if err != nil {
			return 0, err
		}
		if signal {
			if err := e.check(p); err != nil { // a job that ended with the pool is not one that is done
				return 0, err
			}
			e.listEvents(p)
			e.listNeeds(p)
			return p.flags() | FlagResume, nil
		}
	}
}

func (e *Engine) leave() {
	e.inside--
	if !e.leading && e.waiters > 0 { // somebody else must watch now
		for _, q := range e.ports {
			if q != nil && q.waiting {
				q.poke()
				return
			}
		}
	}
}

func (e *Engine) check(p *port) error {
	if e.terminated {
		return fail(CodeTerminated, "the pool was terminated")
	}
	if err := p.fault; err != nil {
		p.fault = nil
		return err
	}
	if e.failure != nil && p.jobs > 0 {
		p.words[wordCode] = int64(CodeOf(e.failure))
		p.words[wordErrorOff] = int64(e.failOff)
		return e.failure
	}
	return nil
}

func (p *port) flags() (f int) {
	if p.words[wordEvents] > 0 {
		f |= FlagEvents
	}
	if p.words[wordOffers] > 0 {
		f |= FlagOffers
	}
	if p.words[wordNeeds] > 0 {
		f |= FlagNeeds
	}
	if p.jobs == 0 {
		f |= FlagIdle
	}
	if p.kicked {
		p.kicked = false
		f |= FlagKicked
	}
	return f
}

// ready decides whether Step returns now.
func (e *Engine) ready(p *port, mode int) (int, bool) {
	switch {
	case mode == WaitNone, p.words[wordNeeds] > 0, p.words[wordOffers] > 0 && mode != WaitHold, p.kicked, p.jobs == 0 && mode != WaitKick:
		return p.flags(), true
	case p.events == 0:
		return 0, false
	case mode != WaitBatch, p.evBytes >= batchBytes, p.events >= process.MaxEvents/2:
		return p.flags(), true
	}
	return 0, false
}

// submit takes over the encoded offers and queues their records.
func (e *Engine) submit(p *port, n int, keep bool) error {
	if n < 0 || n > len(p.offers) {
		return fail(CodeArgument, "%d chunks submitted, %d offered", n, len(p.offers))
	}
	last := p.words[process.PortParams+15] != 0 // the lazy source of the last submitted chunk is drained
	p.words[process.PortParams+15] = 0
	var err error
	kept := 0
	for i, c := range p.offers {
		switch {
		case c == nil: // its job was cancelled
		case i < n:
			err = errors.Join(err, e.submitChunk(c, last && i == n-1))
		case keep:
			p.offers[kept] = c
			copy(p.offerWords(kept), p.offerWords(i))
			kept++
		default:
			e.sched.Return(c.id)
			p.feed(c.job)
			e.freeSlot(c)
		}
	}
	p.offers = p.offers[:kept]
	p.words[wordOffers] = int64(kept)
	return err
}

func (p *port) offerWords(i int) []int64 {
	return p.words[process.PortOffers+i*process.OfferWords:][:process.OfferWords]
}

// submitChunk takes over one encoded chunk. What the encoder wrote is checked as if it came from a wire: a frame that is
// wrong is an error of the call, not of a worker.
func (e *Engine) submitChunk(c *chunk, last bool) error {
	c.job.port.feed(c.job)
	f := &e.frame
	at := c.slot + process.SlotFrame
	if err := f.Decode(e.tr.Mem()[at:c.slot+c.room], wire.Limits{Arena: e.tr.Len(), Bytes: c.room, External: e.inPlace()}); err != nil {
		e.sched.Return(c.id)
		e.freeSlot(c)
		return &Error{CodeArgument, err}
	}
	bytes := int64(len(f.Inband))
	for _, b := range f.Buffers {
		if b.Offset >= c.slot && b.Offset < c.slot+c.room || b.Offset&wire.External != 0 { // else a shared blob
			bytes += int64(b.Length)
		}
	}
	count := min(int(f.Count), c.count)
	if count > 0 {
		c.job.perTask = bytes / int64(count)
	}
	if !e.sched.Submit(c.id, count, bytes, last) {
		c.job.port.touch(c.job)
		e.freeSlot(c)
		return nil
	}
	c.count, c.bytes = count, bytes
	e.launch(c)
	if e.fleet != nil && e.fleet.far {
		e.fleet.post(c)
	} else {
		e.post(c)
	}
	return nil
}

// push hands on what waits: to the ranks, and to the workers on this machine.
func (e *Engine) push() error {
	if e.fleet != nil && e.fleet.talks() {
		if err := e.fleet.flush(); err != nil {
			return err
		}
	}
	return e.flush()
}
