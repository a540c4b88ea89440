//go:build linux && (amd64 || arm64)

package pools

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/mpix"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// What Rank.Next found.
const (
	RankChunk  = 1 // a chunk to run, in the slot given; then call Answer
	RankOpen   = 2 // a pool begins: set up as the BLOB frame at this offset says (0: as the script said); then call Hello
	RankClose  = 3 // the pool ends
	RankExit   = 4 // leave
	RankNeeds  = 5 // the worker in this place has to be started
	RankResume = 6 // look after signals, and call again
)

// How long answers of brief chunks may wait for each other.
const answerWait = 100e3 // ns

// A rank looks after its signals at least this often; each look costs an idle one some 50 us.
const rankSlice = 1e9 // ns

// RankConfig says how a rank runs tasks.
type RankConfig struct {
	Workers    int    // processes beside it; 0: the caller runs the chunks itself, one at a time
	ArenaBytes uint64 // as in EngineConfig
	MaxTasks   int    // as in EngineConfig
}

// Rank is an MPI rank that serves the master. It moves chunks between messages and an arena like the master's own, in which
// either the caller or a crew of processes runs them: both are workers as docs/PROTOCOL.md describes. All methods are for one
// thread.
type Rank struct {
	crew
	comm    *Comm
	cfg     RankConfig
	ready   []*chunk // to be run by the caller
	events  []rankEvent
	session int64
	serving bool
	halted  bool  // workers could not be started: the master knows
	held    int64 // when the oldest answer that has not been sent was given, 0: none
	brief   bool  // the chunk that runs now is so short that its answer may wait

	blobs   map[uint64]localBlob // by the master's offset
	retired []retiredBlob
	inHand  map[uint64]int // chunks, by job
	lastJob uint64
	server  int            // socket of the process that starts the workers, -1: there is none
	parked  map[uint64]int // answers of a broadcast, by job
	sending map[uint64]int // slots that MPI still reads
	zombies map[uint64]bool
	frame   wire.Frame  // scratch
	parts   []mpix.Part // scratch
}

type rankEvent struct {
	what int
	at   uint64
}

type localBlob struct{ off, length uint64 }

type retiredBlob struct{ off, job uint64 }

// OpenRank makes the serving end of a rank other than 0.
func OpenRank(c *Comm, cfg RankConfig) (*Rank, error) {
	if c.Rank() == 0 || c.rank != nil || !c.ready {
		return nil, fail(CodeArgument, "rank %d cannot serve on this communicator", c.Rank())
	}
	r := &Rank{
		comm: c, cfg: cfg, server: -1, blobs: make(map[uint64]localBlob), inHand: make(map[uint64]int), parked: make(map[uint64]int),
		sending: make(map[uint64]int), zombies: make(map[uint64]bool),
	}
	if err := r.open(r, max(cfg.Workers, 1), cfg.ArenaBytes, cfg.MaxTasks, nil, nil); err != nil {
		return nil, err
	}
	r.busy, r.tr.Discard, r.tr.Unmap = r.isSending, mpix.Discard, mpix.Unmap
	c.rank = r
	return r, nil
}

// Arena tells where the rank's memory is mapped, how long it is and its descriptor.
func (r *Rank) Arena() (addr uintptr, length uint64, fd int) {
	return r.tr.Addr(), r.tr.Len(), r.tr.Fd()
}

// WorkerFds are the descriptors that a worker started by the caller must inherit.
func (r *Rank) WorkerFds() [4]int { return r.tr.WorkerFds() }

// MasterFds are the descriptors that any other child of this process must close.
func (r *Rank) MasterFds() [5]int { return r.tr.MasterFds() }

// Attach registers a process that the caller started as worker i; pid 0 says that it could not be started.
func (r *Rank) Attach(i, pid int, child bool) error { return r.attach(i, pid, child) }

// Hello tells the master that this rank is set up for the pool that begins.
func (r *Rank) Hello() error {
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	b, err := wire.Marshal(wire.RankInfo{Host: host, Pid: os.Getpid(), Workers: max(r.cfg.Workers, 1)}, 0)
	if err != nil {
		return &Error{CodeInternal, err}
	}
	r.comm.link.Send(0, wire.Message{Kind: wire.MsgHello, Chunk: uint64(r.session)}, []mpix.Part{{Data: b}}, nil)
	r.serving = true
	if r.cfg.Workers > 0 {
		r.askForWorkers()
	}
	return r.flushLink()
}

// Refuse tells the master that this rank cannot work, with the error record whose frame lies at off (0: none).
func (r *Rank) Refuse(code Code, text string, off uint64) error {
	m := wire.Message{Kind: wire.MsgFailed, Chunk: uint64(r.session), A: int64(code)}
	parts := []mpix.Part{{}, {Data: []byte(text)}}
	if off != 0 {
		end, err := frameEnd(&r.frame, r.tr.Mem(), off)
		if err != nil {
			return &Error{CodeArgument, err}
		}
		parts[0] = mpix.Part{Base: off, Data: r.tr.Mem()[off:end]}
	}
	r.comm.link.Send(0, m, parts, nil)
	return r.flushLink()
}

func (r *Rank) flushLink() error {
	r.held = 0
	_, err := mpiError(0, r.comm.link.Flush())
	return err
}

// Next waits for something to do, 100 ms at most, and says what and where (see the Rank constants).
func (r *Rank) Next() (what int, at uint64, err error) {
	end := process.Monotonic() + rankSlice
	for {
		if len(r.events) > 0 {
			e := r.events[0]
			r.events = r.events[1:]
			return e.what, e.at, nil
		}
		if len(r.needs) > 0 && r.serving {
			var place [1]int64
			r.takeNeeds(place[:])
			return RankNeeds, uint64(place[0]), nil
		}
		if len(r.ready) > 0 {
			return r.run()
		}
		if err := r.crew.flush(); err != nil {
			return 0, at, err
		}
		if err := r.flushLink(); err != nil {
			return 0, at, err
		}
		left := end - process.Monotonic()
		if left <= 0 {
			return RankResume, at, nil
		}
		signal, err := r.sleep(left)
		if err != nil {
			return 0, at, err
		}
		if signal {
			return RankResume, at, nil
		}
	}
}

// run hands the caller the next chunk. Answers that were held back go out first, unless this one takes no time either.
func (r *Rank) run() (what int, at uint64, err error) {
	c := r.ready[0]
	r.ready = r.ready[:copy(r.ready, r.ready[1:])]
	r.brief = c.brief
	if r.held != 0 && (!c.brief || process.Monotonic()-r.held > answerWait) {
		if err := r.flushLink(); err != nil {
			return 0, at, err
		}
	}
	return RankChunk, c.slot, nil
}

// sleep waits for messages, for the crew and for signals.
func (r *Rank) sleep(ns int64) (signal bool, err error) {
	var fds []int
	if r.cfg.Workers > 0 {
		fds = []int{r.tr.Epoll()}
	}
	w, err := mpiError(r.comm.link.Wait(fds, r.nextLook(ns), &r.comm.tune))
	if err != nil {
		return false, err
	}
	if err := r.Look(); err != nil {
		return false, err
	}
	if r.cfg.Workers > 0 {
		var wake process.Wake
		var ended []int
		if w.Ready {
			if wake, ended, err = r.tr.Wait(0); err != nil {
				return false, &Error{CodeSystem, err}
			}
		}
		if err := r.attend(wake, ended); err != nil {
			return false, err
		}
	}
	return w.Signal, nil
}

// Look takes in what has come, without waiting: a chunk may have been cancelled while it runs.
func (r *Rank) Look() error {
	_, err := mpiError(r.comm.link.Progress())
	return err
}

// Answer sends the reply that the caller has left in the slot of a chunk.
func (r *Rank) Answer(slot uint64) error {
	if slot == 0 || slot > r.tr.Len()-process.SlotFrame-headerSize {
		return fail(CodeArgument, "no chunk at %d", slot)
	}
	c := r.chunk(dispatch.ChunkID(r.tr.Load(slot + offChunk)))
	if c == nil || c.slot != slot || !c.posted {
		return nil // of a pool that has ended meanwhile: nobody waits for it
	}
	brief := r.brief
	c.posted = false
	r.inFlight--
	r.settle(c)
	if r.held == 0 {
		r.held = process.Monotonic()
	}
	if !brief || len(r.ready) == 0 {
		return r.flushLink()
	}
	return nil
}

// settle sends the answer of a chunk to the master.
func (r *Rank) settle(c *chunk) {
	r.reply(c, wire.Message{Kind: wire.MsgResult, Chunk: uint64(c.id), Job: c.masterJob})
}

// bereft tells the master of a chunk that a worker took along when it died.
func (r *Rank) bereft(c *chunk, l dispatch.Loss, x loss) {
	if !x.exit.Known && !x.vanished {
		x.exit.Code, x.exit.Known = r.askServer(x.exit.Pid)
	}
	m := wire.Message{Kind: wire.MsgLost, Chunk: uint64(c.id), Job: c.masterJob, A: int64(l.Running), B: int64(l.Block)}
	m.C = int64(x.exit.Pid)<<32 | int64(boolWord(x.exit.Known))
	m.D = int64(x.exit.Code)
	if x.timeout {
		m.Flags = wire.FlagKill
	}
	r.reply(c, m)
}

// Serves names the socket of the process that starts the workers: as their parent it knows how they ended.
func (r *Rank) Serves(socket int) { r.server = socket }

// askServer asks how a worker ended. The fork server answers at once, or is gone. The messages are those of _start.py: a letter and
// a 64-bit number, then two of them, the second an error.
func (r *Rank) askServer(pid int) (code int, known bool) {
	if r.server < 0 {
		return 0, false
	}
	request := binary.LittleEndian.AppendUint64([]byte{'W'}, uint64(pid))
	if n, err := syscall.Write(r.server, request); n != len(request) || err != nil {
		return 0, false
	}
	var reply [16]byte
	for got := 0; got < len(reply); {
		n, err := syscall.Read(r.server, reply[got:])
		if err == syscall.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return 0, false
		}
		got += n
	}
	const unknown = 1 << 20
	code = int(int64(binary.LittleEndian.Uint64(reply[:])))
	return code, code != unknown
}

// reply sends reply block and results of a chunk, then forgets it.
func (r *Rank) reply(c *chunk, m wire.Message) {
	slot := c.slot
	if slot == 0 { // in nobody's hands, and not to be used again: nothing can be said of it
		m.Kind, m.A = wire.MsgLost, -1
		r.comm.link.Send(0, m, []mpix.Part{{Data: make([]byte, process.SlotFrame)}}, nil)
		r.done(c)
		return
	}
	mem := r.tr.Mem()
	parts := append(r.parts[:0], mpix.Part{Base: slot, Data: mem[slot : slot+process.SlotFrame]})
	seg := r.tr.Load(slot + process.ReplySegments)
	for n := 0; seg != 0 && n < wire.MaxBuffers; n++ { // bounded: a dying process may have written the chain
		end, err := frameEnd(&r.frame, mem, seg)
		if err != nil {
			break
		}
		parts = append(parts, mpix.Part{Base: seg, Data: mem[seg:end]})
		for _, b := range r.frame.Buffers { // where the master puts them is its business: it may hand them on without a copy
			parts = append(parts, mpix.Part{Base: b.Offset, Apart: true, Data: mem[b.Offset : b.Offset+b.Length]})
		}
		seg = r.frame.Next
	}
	if mpix.Copied(parts) {
		r.comm.link.Send(0, m, parts, nil)
	} else {
		r.sending[slot]++
		r.comm.link.Send(0, m, parts, func() { r.sent(slot) })
	}
	r.parts = parts[:0]
	if c.parks {
		r.unpark(c.masterJob)
	}
	r.done(c)
}

// sent frees a slot that MPI has read.
func (r *Rank) sent(slot uint64) {
	if r.sending[slot]--; r.sending[slot] > 0 {
		return
	}
	delete(r.sending, slot)
	if r.zombies[slot] {
		delete(r.zombies, slot)
		r.freeAt(slot)
	}
}

// unpark lets the workers of a broadcast go on when each has run its task.
func (r *Rank) unpark(job uint64) {
	if r.parked[job]++; r.parked[job] < r.cfg.Workers {
		return
	}
	delete(r.parked, job)
	r.tr.Store(process.CtlGate, max(r.tr.Load(process.CtlGate), job))
}

// done forgets a chunk.
func (r *Rank) done(c *chunk) {
	if r.inHand[c.masterJob]--; r.inHand[c.masterJob] == 0 {
		delete(r.inHand, c.masterJob)
	}
	if c.timeout > 0 {
		r.timed--
	}
	r.freeSlot(c)
	r.reclaim()
}

func (r *Rank) isSending(slot uint64) bool {
	if len(r.sending) == 0 || r.sending[slot] == 0 {
		return false
	}
	r.zombies[slot] = true
	return true
}

// cannotStart tells the master that no worker gets ready.
func (r *Rank) cannotStart(code Code, why error, off uint64) {
	if r.halted {
		return
	}
	r.halted = true
	if err := r.Refuse(code, why.Error(), off); err != nil {
		fmt.Fprintf(os.Stderr, "schwimmbad-go: rank %d: %v\n", r.comm.Rank(), err)
	}
}

func (r *Rank) wantsWorkers() bool { return r.serving && !r.halted }

func (r *Rank) poke() {} // there is one thread, and it is here

// place finds room for what the master sends.
func (r *Rank) place(m *wire.Message, size uint64) []byte {
	head, want := uint64(0), size
	switch m.Kind {
	case wire.MsgTasks:
		// Results go behind their tasks: often they are as long.
		head, want = process.SlotFrame, 2*size+process.SlotFrame
	case wire.MsgBlob, wire.MsgOpen:
	case wire.MsgForget:
		return make([]byte, size)
	default:
		return nil
	}
	off, room, err := r.tr.Alloc(max(want, process.MinSlot))
	if err != nil {
		r.cannotStart(CodeMemory, err, 0)
		return nil
	}
	r.tr.Store(off+process.ReplyCapacity, room)
	return r.tr.Mem()[off+head:][:size]
}

// take acts on a message from the master.
func (r *Rank) take(m *wire.Message, parts []wire.Part, at []byte) error {
	switch m.Kind {
	case wire.MsgOpen:
		if err := r.forgetAll(); err != nil {
			return err
		}
		r.session, r.halted, r.crashes = int64(m.Chunk), false, 0
		r.tr.Store(process.CtlMaxTasks, uint64(max(m.A, 0)))
		e := rankEvent{what: RankOpen}
		if len(parts) > 0 {
			e.at = r.tr.Offset(at)
			r.tr.Store(process.CtlSetup, e.at) // for workers that start from now on
		}
		r.events = append(r.events, e)
	case wire.MsgClose:
		for job := range r.inHand { // given up, or the pool would not end
			r.cancel(job, true)
		}
		r.serving = false
		r.events = append(r.events, rankEvent{what: RankClose})
	case wire.MsgExit:
		r.serving = false
		r.events = append(r.events, rankEvent{what: RankExit})
	case wire.MsgBlob:
		return r.keep(m, parts[0], at)
	case wire.MsgForget:
		for len(at) >= 8 {
			r.drop(binary.LittleEndian.Uint64(at))
			at = at[8:]
		}
	case wire.MsgCancel:
		r.cancel(m.Job, m.Flags&wire.FlagKill != 0)
	case wire.MsgTasks:
		return r.accept(m, parts, at)
	}
	return nil
}

// forgetAll drops what belongs to the pool before: its chunks, which were given up, and its blobs, whose offsets mean nothing any
// more. A chunk that the caller is running now stays in its slot until Answer.
func (r *Rank) forgetAll() error {
	if r.cfg.Workers > 0 && r.session > 0 {
		if err := r.endWorkers(); err != nil {
			return err
		}
	}
	for _, c := range r.ready {
		c.posted = false
		r.done(c)
	}
	r.ready = r.ready[:0]
	for off := range r.blobs {
		r.drop(off)
	}
	return nil
}

// endWorkers ends the workers, which have the set-up of the pool before, and settles what they had in hand. It returns when they are
// gone: one that is about to die may still take a chunk along. Chunks that nobody has read, since no worker would start, are forgotten;
// their records, which stay in the pipe, are recognised as old.
func (r *Rank) endWorkers() error {
	for i := range r.tr.Workers {
		r.end(i, -1)
	}
	for r.tr.Alive() > 0 {
		wake, ended, err := r.tr.Wait(10)
		if err == nil {
			err = r.attend(wake, ended)
		}
		if err != nil {
			return err
		}
	}
	r.backlog = r.backlog[:0]
	for _, c := range r.chunks {
		if c.posted {
			c.posted = false
			r.inFlight--
			r.done(c)
		}
	}
	return nil
}

// keep stores what chunks will refer to.
func (r *Rank) keep(m *wire.Message, part wire.Part, at []byte) error {
	r.drop(m.Chunk)
	off := r.tr.Offset(at)
	if m.A == 1 { // a function: its table names other blobs
		if err := relocate(at, r.local); err != nil {
			return err
		}
	}
	r.blobs[m.Chunk] = localBlob{off, part.Length}
	return nil
}

// local is where the bytes at an offset of the master's lie here.
func (r *Rank) local(off uint64) (uint64, bool) {
	b, ok := r.blobs[off]
	return b.off, ok
}

// drop forgets a blob; its memory is free when no chunk in hand and no mapping of a worker can refer to it.
func (r *Rank) drop(off uint64) {
	if b, ok := r.blobs[off]; ok {
		delete(r.blobs, off)
		r.retired = append(r.retired, retiredBlob{b.off, r.lastJob})
		r.reclaim()
	}
}

func (r *Rank) reclaim() {
	if len(r.retired) == 0 {
		return
	}
	oldest := ^uint64(0)
	for job := range r.inHand {
		oldest = min(oldest, job)
	}
	for i := range r.tr.Workers {
		if floor := r.tr.Load(r.tr.Cell(i) + process.CellFloor); floor != 0 {
			oldest = min(oldest, floor)
		}
	}
	r.retired = slices.DeleteFunc(r.retired, func(b retiredBlob) bool {
		if b.job >= oldest {
			return false
		}
		r.tr.Free(b.off)
		return true
	})
}

// accept turns a message with tasks into a chunk like the master's own.
func (r *Rank) accept(m *wire.Message, parts []wire.Part, at []byte) error {
	part := parts[0]
	slot := r.tr.Offset(at) - process.SlotFrame
	mem := r.tr.Mem()
	room := r.tr.Load(slot + process.ReplyCapacity)
	clear(mem[slot : slot+process.SlotFrame])
	r.tr.Store(slot+process.ReplyCapacity, room)
	r.tr.Store(slot+process.ReplyLimit, uint64(m.A))
	delta := slot + process.SlotFrame - part.Base
	h, err := wire.ParseHeader(at, wire.Limits{Arena: 1 << 62})
	if err != nil {
		return err
	}
	next, pos := 1, part.Length // buffers that lay outside of the master's slot follow in the order of the table
	if h.NBuf > 0 {
		err := relocate(at[:part.Length], func(off uint64) (uint64, bool) {
			switch {
			case off-part.Base < part.Length:
				return off + delta, true
			case off&wire.External == 0:
				return r.local(off)
			case next == len(parts):
				return 0, false
			}
			here := mpix.Align(pos)
			pos = here + parts[next].Length
			next++
			return slot + process.SlotFrame + here, true
		})
		if err != nil {
			return err
		}
	}
	if h.Next != 0 { // where the free part of the slot begins
		h.Next = mpix.Align(slot + process.SlotFrame + pos)
	}
	if h.Extra != 0 {
		off, ok := r.local(h.Extra)
		if !ok {
			return fmt.Errorf("%w: the function at %d was not sent", wire.ErrBadTable, h.Extra)
		}
		h.Extra = off
	}
	parks := h.Flags&TaskPark != 0
	h.Put(at)
	id := dispatch.ChunkID(m.Chunk)
	c := r.slab(id)
	if c.posted { // a stray of the pool before, which the caller is running at this moment
		c.posted = false
		r.inFlight--
		if r.inHand[c.masterJob]--; r.inHand[c.masterJob] == 0 {
			delete(r.inHand, c.masterJob)
		}
	}
	*c = chunk{id: id, slot: slot, room: room, count: int(h.Count), first: int64(h.First), timeout: m.A, masterJob: m.Job,
		parks: parks, brief: m.Flags&wire.FlagBrief != 0}
	r.inHand[m.Job]++
	r.lastJob = max(r.lastJob, m.Job)
	if m.A > 0 {
		r.timed++
	}
	r.launch(c)
	if r.cfg.Workers > 0 {
		r.post(c)
	} else {
		r.ready = append(r.ready, c)
	}
	return nil
}

// cancel stops what runs of a job.
func (r *Rank) cancel(job uint64, kill bool) {
	for _, c := range r.chunks {
		if c.posted && c.masterJob == job && c.slot != 0 {
			r.tr.Store32(c.slot+process.ReplyCancel, 1)
		}
	}
	if !kill || r.cfg.Workers == 0 {
		return
	}
	for i := range r.tr.Workers {
		if c := r.claimed(i); c != nil && c.masterJob == job {
			r.end(i, -1)
		}
	}
}

// Close ends the crew and gives everything back.
func (r *Rank) Close() error {
	r.serving = false
	for i := range r.tr.Workers {
		_ = r.tr.Signal(i, syscall.SIGKILL) // what is left of them; the end of the lifeline does the same
	}
	r.comm.rank = nil
	if r.comm.link.Pending() > 0 {
		return nil // MPI may still read the arena: it goes with the process
	}
	if err := r.tr.Close(); err != nil {
		return &Error{CodeSystem, err}
	}
	return nil
}
