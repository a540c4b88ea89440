//go:build linux && (amd64 || arm64)

package pools

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/mpix"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

type localBlob struct{ off, length uint64 }

type retiredBlob struct{ off, job uint64 }

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
		e, whole := rankEvent{what: RankOpen}, at
		r.desk = nil
		if m.Flags&wire.FlagShare != 0 {
			if len(parts) == 0 || parts[0].Length != 3*process.PlaceSize {
				return fmt.Errorf("%w: a pool that shares its memory does not say where", wire.ErrBadField)
			}
			desk := parseDesk(m.B, at)
			r.desk = &desk
			at, parts = at[min(mpix.Align(parts[0].Length), uint64(len(at))):], parts[1:]
		}
		if r.setup != nil { // nobody reads that of the pool before any more
			r.tr.Free(r.tr.Offset(r.setup))
		}
		r.setup = whole
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
