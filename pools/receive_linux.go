//go:build linux && (amd64 || arm64)

package pools

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/mpix"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

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
		if !l.ready && int64(m.Chunk) == f.session {
			l.ready = true
			if l.place >= 0 {
				f.awaited--
				f.e.tr.Workers[l.place].Pid = f.comm.peers[src].Pid
			}
		}
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
		if len(frame) < headerSize {
			return fmt.Errorf("%w: a frame of %d bytes", wire.ErrShort, len(frame))
		}
		if binary.LittleEndian.Uint32(frame[offNBuf:]) == 0 { // most frames
			last, first = link(frame, here, last, first)
			continue
		}
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
		last, first = link(frame, here, last, first)
	}
	if mine != nil {
		f.loose[c.slot] = mine
	}
	own := tr.Mem()[c.slot:][:process.SlotFrame]
	copy(own[process.ReplyDone:], reply[process.ReplyDone:process.ReplySegments])
	binary.LittleEndian.PutUint64(own[process.ReplySegments:], first)
	binary.LittleEndian.PutUint32(own[process.ReplyWorker:], uint32(c.lane.rank))
	copy(own[process.ReplyBytes:], reply[process.ReplyBytes:process.ReplyBytes+8])
	copy(own[process.ReplyReading:], reply[process.ReplyReading:process.ReplyReading+4])
	return nil
}

// link chains a frame that lies at an offset to the one before; it returns the last frame and the offset of the first.
func link(frame []byte, here uint64, last []byte, first uint64) ([]byte, uint64) {
	binary.LittleEndian.PutUint64(frame[offNext:], 0)
	binary.LittleEndian.PutUint64(frame[offBlock:], 0)
	if last == nil {
		return frame, here
	}
	binary.LittleEndian.PutUint64(last[offNext:], here)
	return frame, first
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
