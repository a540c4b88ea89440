//go:build linux && (amd64 || arm64)

package pools

import (
	"container/heap"
	"encoding/binary"
	"unsafe"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/mpix"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// send hands a chunk to a lane.
func (f *fleet) send(l *lane, c *chunk) error {
	c.lane, c.taken = l, true
	f.expect(c.expect)
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
	if len(l.flying) <= l.workers { // else all are busy: the rank looks when one has done
		f.comm.link.Wake(l.rank)
	}
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
