//go:build linux && (amd64 || arm64)

package pools

import (
	"encoding/binary"
	"syscall"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/mpix"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// Answer sends the reply that the caller has left in the slot of a chunk.
func (r *Rank) Answer(slot uint64) error {
	if slot == 0 || slot > r.tr.Len()-process.SlotFrame-headerSize {
		return fail(CodeArgument, "no chunk at %d", slot)
	}
	c := r.chunk(dispatch.ChunkID(r.tr.Load(slot + offChunk)))
	if c == nil || c.slot != slot || !c.posted { // of a pool that has ended meanwhile: nobody waits for it
		if slot == r.running {
			r.running = 0
			r.freeAt(slot)
		}
		return nil
	}
	r.running = 0
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

// askServer asks how a worker ended. The fork server answers at once, or is gone. The messages are those of _served.py: a letter and
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
