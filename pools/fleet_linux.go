//go:build linux && (amd64 || arm64)

package pools

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"
	"unsafe"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/mpix"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

const (
	// A chunk that takes longer is not queued behind another: what is waiting there could run elsewhere.
	prefetchMost = 20e6 // ns
	// Short chunks are queued for this long, so that a rank does not wait for the next one. On a crowded node a process that is not
	// running comes back after some milliseconds.
	prefetchTime = 1e6 // ns
	// But no more of them than this.
	prefetchDeep = 128
	// The same for all ranks together, for chunks whose size the user fixed.
	deepRanks     = 1 * time.Millisecond
	deepMostRanks = 256
	// Answers of shorter chunks may wait for each other.
	briefTime = 50e3 // ns
	// Results of this size are handed on in memory of their own: below it a copy costs no more than making an object that owns it.
	looseLeast = 64 << 10
	// A caller who does not wait is kept for so long by chunks that were given up, since a rank drops them within that time unless
	// its task is a long one.
	roomWait = 10e6 // ns
)

// lane is where chunks go: one MPI rank, or (rank 0) the crew on this machine.
type lane struct {
	rank    int
	workers int
	flying  []*chunk
	blobs   map[uint64]uint64 // offsets of what the rank has, and the stamp it had when it was sent
	forget  []uint64          // what it need not keep
	ready   bool              // it has said hello in this session: what came before is of an earlier one
	at      int               // in the heap
	used    uint64
}

// fleet is the lanes of a pool whose workers are MPI ranks. A chunk that is posted waits here until a lane has room for it: the
// queue that local workers share, for workers that share nothing.
type fleet struct {
	e       *Engine
	comm    *Comm
	session int64
	lanes   []*lane // by rank; lanes[0] is the crew, with 0 workers where rank 0 only distributes
	order   []*lane // heap of those with workers, the least loaded one first
	queue   []*chunk
	clock   uint64

	stamps  map[uint64]uint64  // of the blobs allocated now, by offset
	sending map[uint64]int     // ranges of the arena that MPI still reads, by offset
	loose   map[uint64][]loose // by slot
	zombies map[uint64]bool    // those of them that are free when it has done
	frame   wire.Frame         // scratch
	parts   []mpix.Part        // scratch
	failure error              // a rank cannot work
	failOff uint64

	detached bool // the communicator is another pool's
}

func newFleet(e *Engine, c *Comm, local, perRank int) *fleet {
	f := &fleet{
		e: e, comm: c, session: c.sessions + 1, stamps: make(map[uint64]uint64), sending: make(map[uint64]int), zombies: make(map[uint64]bool),
		loose: make(map[uint64][]loose),
	}
	for r := range c.Size() {
		l := &lane{rank: r, workers: perRank, blobs: make(map[uint64]uint64)}
		if r == 0 {
			l.workers, l.ready = local, true
		}
		f.lanes = append(f.lanes, l)
		if l.workers > 0 {
			f.order = append(f.order, l)
		}
	}
	for i, l := range f.order {
		l.at = i
	}
	return f
}

// The heap of lanes: by load, and of equal ones the one that answered last, which is still awake.
func (f *fleet) Len() int { return len(f.order) }
func (f *fleet) Less(i, j int) bool {
	a, b := f.order[i], f.order[j]
	x, y := len(a.flying)*b.workers, len(b.flying)*a.workers
	return x < y || x == y && a.used > b.used
}
func (f *fleet) Swap(i, j int) {
	o := f.order
	o[i], o[j] = o[j], o[i]
	o[i].at, o[j].at = i, j
}
func (f *fleet) Push(any) {}
func (f *fleet) Pop() any { return nil }

// open begins a session: the ranks set themselves up anew, from what setup holds or, without it, from what their own script said.
func (f *fleet) open(setup []byte) {
	for _, l := range f.lanes[1:] {
		m := wire.Message{Kind: wire.MsgOpen, Chunk: uint64(f.session), A: int64(f.e.cfg.MaxTasks)}
		if setup == nil {
			f.comm.link.Send(l.rank, m, nil, nil)
		} else {
			f.comm.link.Send(l.rank, m, []mpix.Part{{Data: setup}}, nil)
		}
	}
}

// tell sends every rank a message without parts.
func (f *fleet) tell(m wire.Message) {
	for _, l := range f.lanes[1:] {
		f.comm.link.Send(l.rank, m, nil, nil)
	}
}

// detach leaves the communicator to another pool: nothing of this one is under way there any more. A caller may still hold a port of
// its engine, and results that lie in its memory.
func (f *fleet) detach() {
	if !f.detached {
		f.detached = true
		f.comm.begin(nil, nil)
		f.comm.lastJob, f.comm.generation = f.e.sched.Marks()
	}
}

// post takes over a chunk.
func (f *fleet) post(c *chunk) { f.queue = append(f.queue, c) }

// assign hands queued chunks to the lanes that have room.
func (f *fleet) assign() {
	n := 0
	for ; n < len(f.queue); n++ {
		c := f.queue[n]
		if f.e.tr.Load32(c.slot+process.ReplyCancel) != 0 { // its job was given up before it left
			f.e.tr.Store32(c.slot+process.ReplyStatus, process.StatusStopped)
			c.posted = false
			f.e.inFlight--
			f.e.settle(c)
			continue
		}
		l := f.pick(c)
		if l == nil {
			break
		}
		if err := f.send(l, c); err != nil {
			f.fail(CodeInternal, err, 0)
			break
		}
	}
	if n > 0 {
		f.queue = f.queue[:copy(f.queue, f.queue[n:])]
	}
}

// makeRoom takes in answers for a caller who is not going to wait: nobody else would until he comes back, and his chunks might stay
// behind those of a job that was given up, which the ranks have long dropped.
func (f *fleet) makeRoom() error {
	for end := process.Monotonic() + roomWait; !f.e.leading && !f.e.terminated && !f.detached; {
		if err := f.progress(); err != nil {
			return err
		}
		f.assign()
		if len(f.queue) == 0 || !f.blocked() || process.Monotonic() >= end {
			return nil
		}
		process.Nap(20e3)
	}
	return nil
}

// blocked says whether a chunk that was given up keeps a lane from getting another one.
func (f *fleet) blocked() bool {
	return slices.ContainsFunc(f.order, func(l *lane) bool {
		return slices.ContainsFunc(l.flying, func(c *chunk) bool { return c.job.gone })
	})
}

// pick finds the lane for a chunk; nil: none has room.
func (f *fleet) pick(c *chunk) *lane {
	if c.job.broadcast { // one task for each worker
		return f.laneOf(int(c.first))
	}
	l := f.order[0]
	if len(l.flying) < l.workers*(1+f.ahead(c)) {
		return l
	}
	return nil
}

// laneOf is the lane with the i-th worker, in the order of ranks.
func (f *fleet) laneOf(i int) *lane {
	for _, l := range f.lanes {
		if i < l.workers {
			return l
		}
		i -= l.workers
	}
	return f.lanes[len(f.lanes)-1]
}

// ahead is how many chunks like c may wait at a worker that has one.
func (f *fleet) ahead(c *chunk) int {
	c.expect = f.e.sched.TaskTime(c.job.id) * float64(c.count)
	if c.expect <= 0 || c.expect >= prefetchMost {
		return 0
	}
	return min(max(int(prefetchTime/c.expect), 1), prefetchDeep)
}

// send hands a chunk to a lane.
func (f *fleet) send(l *lane, c *chunk) error {
	c.lane, c.taken = l, true
	l.flying = append(l.flying, c)
	heap.Fix(f, l.at)
	if l.rank == 0 {
		c.lane = nil
		f.e.crew.post(c)
		return nil
	}
	if len(l.forget) > 0 {
		list := make([]byte, 0, 8*len(l.forget))
		for _, off := range l.forget {
			list = binary.LittleEndian.AppendUint64(list, off)
		}
		l.forget = l.forget[:0]
		f.comm.link.Send(l.rank, wire.Message{Kind: wire.MsgForget}, []mpix.Part{{Data: list}}, nil)
	}
	mem, at := f.e.tr.Mem(), c.slot+process.SlotFrame
	end, err := frameEnd(&f.frame, mem, at)
	if err != nil {
		return err
	}
	parts := append(f.parts[:0], mpix.Part{})
	for _, b := range f.frame.Buffers {
		switch {
		case b.Offset&wire.External != 0:
			at := b.Offset &^ wire.External
			data := unsafe.Slice(*(**byte)(unsafe.Pointer(&at)), b.Length) // the caller's memory, none of Go's
			parts = append(parts, mpix.Part{Base: b.Offset, Apart: true, Data: data})
		case b.Offset < c.slot || b.Offset >= c.slot+c.room:
			f.blob(l, b.Offset, b.Length, false)
		default:
			end = max(end, b.Offset+b.Length)
		}
	}
	if f.frame.Extra != 0 {
		if err := f.function(l, f.frame.Extra); err != nil {
			return err
		}
	}
	m := wire.Message{Kind: wire.MsgTasks, Chunk: uint64(c.id), Job: uint64(c.job.id), A: c.timeout}
	if c.expect > 0 && c.expect < briefTime {
		m.Flags |= wire.FlagBrief
	}
	if c.job.broadcast && l.workers == 1 { // alone in its lane: nobody could take a second task of the broadcast
		flags := binary.LittleEndian.Uint32(mem[at+8:]) &^ TaskPark
		binary.LittleEndian.PutUint32(mem[at+8:], flags)
	}
	parts[0] = mpix.Part{Base: at, Data: mem[at:end]}
	f.transmit(l, m, c.slot, parts)
	f.parts = parts[:0]
	return nil
}

// transmit sends parts of the arena's range at off, which must stay as it is until they have left.
func (f *fleet) transmit(l *lane, m wire.Message, off uint64, parts []mpix.Part) {
	if mpix.Copied(parts) {
		f.comm.link.Send(l.rank, m, parts, nil)
		return
	}
	f.sending[off]++
	f.comm.link.Send(l.rank, m, parts, func() {
		if f.sending[off]--; f.sending[off] > 0 {
			return
		}
		delete(f.sending, off)
		if f.zombies[off] {
			delete(f.zombies, off)
			f.e.tr.Free(off)
		}
	})
}

// busy says whether MPI still reads the range at off; it is then freed when that ends.
func (f *fleet) busy(off uint64) bool {
	if len(f.loose) > 0 {
		f.drop(off)
	}
	if len(f.sending) == 0 || f.sending[off] == 0 {
		return false
	}
	f.zombies[off] = true
	return true
}

// function sends the function whose frame lies at off, unless the rank has it.
func (f *fleet) function(l *lane, off uint64) error {
	if l.blobs[off] == f.stamps[off] && l.blobs[off] != 0 {
		return nil
	}
	var frame wire.Frame
	end, err := frameEnd(&frame, f.e.tr.Mem(), off)
	if err != nil {
		return err
	}
	for _, b := range frame.Buffers {
		f.blob(l, b.Offset, b.Length, false)
	}
	f.blob(l, off, end-off, true)
	return nil
}

// blob sends a range of the arena, unless the rank has it.
func (f *fleet) blob(l *lane, off, n uint64, frame bool) {
	stamp := f.stamps[off]
	if l.blobs[off] == stamp && stamp != 0 {
		return
	}
	l.blobs[off] = stamp
	m := wire.Message{Kind: wire.MsgBlob, Chunk: off}
	if frame {
		m.A = 1
	}
	f.transmit(l, m, off, []mpix.Part{{Base: off, Data: f.e.tr.Mem()[off : off+n]}})
}

// allocated notes that a range of the arena holds a new blob.
func (f *fleet) allocated(off uint64) {
	f.clock++
	f.stamps[off] = f.clock
}

// dropped notes that nobody will refer to a blob again.
func (f *fleet) dropped(off uint64) {
	delete(f.stamps, off)
	for _, l := range f.lanes[1:] {
		if l.blobs[off] != 0 {
			delete(l.blobs, off)
			l.forget = append(l.forget, off)
		}
	}
}

// landed takes a chunk off its lane.
func (f *fleet) landed(l *lane, c *chunk) {
	if i := slices.Index(l.flying, c); i >= 0 {
		l.flying[i] = l.flying[len(l.flying)-1]
		l.flying[len(l.flying)-1] = nil
		l.flying = l.flying[:len(l.flying)-1]
	}
	f.clock++
	l.used = f.clock
	heap.Fix(f, l.at)
}

// settled is called for every chunk that has been answered or lost.
func (f *fleet) settled(c *chunk) {
	l := c.lane
	if l == nil {
		if !c.taken {
			return
		}
		l = f.lanes[0]
	}
	c.lane, c.taken = nil, false
	f.landed(l, c)
}

// wait sleeps until a message or something of the crew's has come. Without the engine's lock.
func (f *fleet) wait(ns int64) (w mpix.Woken, wake process.Wake, ended []int, err error) {
	if f.comm.Broken() { // nothing comes any more
		wake, ended, err = f.e.tr.Wait(int((ns + 999_999) / 1e6))
		return w, wake, ended, err
	}
	w, err = mpiError(f.comm.link.Wait([]int{f.e.tr.Epoll()}, ns, &f.comm.tune))
	if err == nil && w.Ready {
		wake, ended, err = f.e.tr.Wait(0)
	}
	return w, wake, ended, err
}

// progress takes in what has come from the ranks.
func (f *fleet) progress() error {
	if f.comm.Broken() {
		f.bury()
		return nil
	}
	_, err := mpiError(f.comm.link.Progress())
	return err
}

// flush hands out what waits, and MPI what is to be sent; while another thread watches, that one does.
func (f *fleet) flush() error {
	if f.detached {
		return nil
	}
	f.assign()
	if f.comm.Broken() || !f.comm.link.Queued() {
		return nil
	}
	if f.e.leading {
		f.e.tr.Kick()
		return nil
	}
	_, err := mpiError(0, f.comm.link.Flush())
	return err
}

// unsent says whether MPI still reads or writes the arena.
func (f *fleet) unsent() bool { return f.comm.link.Pending() > 0 }

// checkThread refuses calls from threads that may not use MPI.
func (f *fleet) checkThread() error {
	if f.comm.level >= mpix.ThreadSerialized {
		return nil
	}
	if info, err := mpix.Look(); err != nil || !info.MainThread {
		return fail(CodeMPI, "MPI was started for its main thread alone (mpi4py.rc.threads = False?): use the pool in the thread that "+
			"imported mpi4py.MPI, or ask for thread support")
	}
	return nil
}

// cancel lets the ranks stop what they run of a job.
func (f *fleet) cancel(j *job, kill bool) {
	if f.detached {
		return
	}
	m := wire.Message{Kind: wire.MsgCancel, Job: uint64(j.id)}
	if kill {
		m.Flags = wire.FlagKill
	}
	for _, l := range f.lanes[1:] {
		if slices.ContainsFunc(l.flying, func(c *chunk) bool { return c.job == j }) {
			f.comm.link.Send(l.rank, m, nil, nil)
		}
	}
}

// answer finds the chunk that a rank answers.
func (f *fleet) answer(src int, m *wire.Message) *chunk {
	l := f.lanes[src]
	if !l.ready {
		return nil
	}
	if c := f.e.chunk(dispatch.ChunkID(m.Chunk)); c != nil && c.posted && c.lane == l {
		return c
	}
	return nil
}

// loose is a buffer of an answer in memory of its own, which whoever reads the answer may take over: then he clears its entry in the
// table.
type loose struct {
	entry uint64 // where that is
	mem   []byte
}

// apart says which buffers of an answer get memory of their own: those that are not worth another copy.
func apart(p wire.Part) bool { return p.Apart && p.Bulk && p.Length >= looseLeast }

// place finds room for an answer: behind the header of its chunk's slot, whose tasks nobody needs any more, or in a larger one.
func (f *fleet) place(src int, m *wire.Message, parts []wire.Part) mpix.Place {
	tr := f.e.tr
	switch m.Kind {
	case wire.MsgResult, wire.MsgLost:
		c := f.answer(src, m)
		if c == nil || len(parts) == 0 || parts[0].Length != process.SlotFrame {
			return mpix.Place{}
		}
		const head = process.SlotFrame + headerSize
		size := mpix.Room(parts, apart)
		if head+size > c.room || f.sending[c.slot] > 0 {
			off, room, err := tr.Alloc(head + size)
			if err != nil {
				f.fail(CodeMemory, err, 0)
				return mpix.Place{}
			}
			mem := tr.Mem()
			copy(mem[off:off+head], mem[c.slot:c.slot+head])
			if !f.busy(c.slot) {
				tr.Free(c.slot)
			}
			c.slot, c.room = off, room
			tr.Store(off+process.ReplyCapacity, room)
		}
		at := mpix.Place{Mem: tr.Mem()[c.slot+head:][:size]}
		for i, p := range parts {
			if apart(p) {
				if at.Alone == nil {
					at.Alone = make([][]byte, len(parts))
				}
				at.Alone[i] = mpix.Memory(int(p.Length))
			}
		}
		return at
	case wire.MsgFailed:
		size := mpix.Room(parts, nil)
		if off, _, err := tr.Alloc(size); err == nil {
			return mpix.Place{Mem: tr.Mem()[off:][:size]}
		}
	}
	return mpix.Place{}
}

// take settles an answer that has come.
func (f *fleet) take(src int, m *wire.Message, parts []wire.Part, at mpix.Place) error {
	l := f.lanes[src]
	switch m.Kind {
	case wire.MsgHello:
		l.ready = l.ready || int64(m.Chunk) == f.session
	case wire.MsgResult, wire.MsgLost:
		c := f.answer(src, m)
		if c == nil { // given up while it came
			for _, mem := range at.Alone {
				mpix.Release(mem)
			}
			return nil
		}
		if err := f.unpack(c, parts, at); err != nil {
			return err
		}
		c.posted = false
		f.e.inFlight--
		if m.Kind == wire.MsgResult {
			f.e.settle(c)
			return nil
		}
		x := loss{rank: src, timeout: m.Flags&wire.FlagKill != 0}
		x.exit = process.Exit{Pid: int(m.C >> 32), Known: uint32(m.C) != 0, Code: int(m.D)}
		f.e.bereft(c, dispatch.Loss{Safe: int(f.e.tr.Load32(c.slot + process.ReplyDone)), Running: int(m.A), Block: int(m.B)}, x)
	case wire.MsgFailed:
		if !l.ready && int64(m.Chunk) != f.session || len(parts) != 2 {
			return nil
		}
		off := uint64(0)
		if parts[0].Length > 0 {
			off = f.e.tr.Offset(at.Mem)
		}
		words := at.Mem[mpix.Align(parts[0].Length):]
		f.fail(Code(m.A), fmt.Errorf("rank %d on %s: %s", src, f.comm.peers[src].Host, words), off)
	}
	return nil
}

// unpack puts an answer in order: reply block and frames, at the places where a worker on this machine would have written them. Behind
// the reply block come frames, behind each its buffers in the order of its table.
func (f *fleet) unpack(c *chunk, parts []wire.Part, at mpix.Place) error {
	tr := f.e.tr
	reply, pos := at.Part(0, parts, 0)
	first, last := uint64(0), []byte(nil)
	var mine []loose
	for i := 1; i < len(parts); {
		var frame []byte
		frame, pos = at.Part(i, parts, pos)
		here := tr.Offset(frame)
		i++
		k := 0
		err := relocate(frame, func(uint64) (uint64, bool) {
			if i == len(parts) {
				return 0, false
			}
			var b []byte
			b, pos = at.Part(i, parts, pos)
			off := tr.Offset(b)
			if i < len(at.Alone) && at.Alone[i] != nil {
				off = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) | wire.External
				mine = append(mine, loose{here + headerSize + 16*uint64(k), b})
			}
			i++
			k++
			return off, true
		})
		if err != nil {
			return err
		}
		binary.LittleEndian.PutUint64(frame[offNext:], 0)
		binary.LittleEndian.PutUint64(frame[offBlock:], 0)
		if last == nil {
			first = here
		} else {
			binary.LittleEndian.PutUint64(last[offNext:], here)
		}
		last = frame
	}
	if mine != nil {
		f.loose[c.slot] = mine
	}
	own := tr.Mem()[c.slot:][:process.SlotFrame]
	copy(own[process.ReplyDone:], reply[process.ReplyDone:process.ReplySegments])
	binary.LittleEndian.PutUint64(own[process.ReplySegments:], first)
	binary.LittleEndian.PutUint32(own[process.ReplyWorker:], uint32(c.lane.rank))
	copy(own[process.ReplyBytes:], reply[process.ReplyBytes:process.ReplyBytes+8])
	return nil
}

// drop frees the buffers of a slot's answer that nobody took over.
func (f *fleet) drop(slot uint64) {
	list, ok := f.loose[slot]
	if !ok {
		return
	}
	delete(f.loose, slot)
	for _, x := range list {
		if f.e.tr.Load(x.entry) != 0 {
			mpix.Release(x.mem)
		}
	}
}

// fail makes the pool unusable.
func (f *fleet) fail(code Code, why error, off uint64) {
	if f.failure == nil {
		f.failure, f.failOff = &Error{code, why}, off
	}
	f.e.failure, f.e.failOff = f.failure, f.failOff
	f.e.poke()
}

// bury tells what was lost with ranks that have died. MPI cannot go on without them.
func (f *fleet) bury() {
	var texts []string
	for _, p := range f.comm.losses() {
		texts = append(texts, obituary(p, f.lanes[p.Rank].tasks()))
	}
	if len(texts) > 0 {
		slices.Sort(texts)
		f.fail(CodeLost, fmt.Errorf("%s", strings.Join(texts, "; ")), 0)
	}
}

// inHand names what a rank has in hand, unless a thread is changing just that. Called on any goroutine.
func (f *fleet) inHand(rank int) string {
	if !f.e.mu.TryLock() {
		return ""
	}
	defer f.e.mu.Unlock()
	return f.lanes[rank].tasks()
}

// tasks names what a lane has in hand.
func (l *lane) tasks() string {
	var ranges []string
	for _, c := range l.flying {
		if c.count == 1 {
			ranges = append(ranges, fmt.Sprintf("task %d", c.first))
		} else {
			ranges = append(ranges, fmt.Sprintf("tasks %d to %d", c.first, c.first+int64(c.count)-1))
		}
		if len(ranges) == 8 && len(l.flying) > 8 {
			return strings.Join(ranges, ", ") + fmt.Sprintf(" and %d more chunks", len(l.flying)-8)
		}
	}
	return strings.Join(ranges, ", ")
}
