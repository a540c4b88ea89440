//go:build linux && (amd64 || arm64)

package pools

import (
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// freeSlot gives back the slot of a chunk and forgets the chunk.
func (w *crew) freeSlot(c *chunk) {
	if c.slot != 0 {
		w.freeAt(c.slot)
		c.slot = 0
	}
	c.asking, c.killed, c.job = 0, false, nil
}

// freeAt recycles a slot and the heap blocks that its answer lies in. A slot that a worker still holds views of comes back
// when the worker says so.
func (w *crew) freeAt(slot uint64) {
	if w.busy != nil && w.busy(slot) {
		return
	}
	w.freeBlocks(slot)
	if w.tr.Load32(slot+process.ReplyPinned) != 0 {
		w.pinned = append(w.pinned, slot)
		return
	}
	w.tr.Free(slot)
}

// freeBlocks marks the heap blocks of an answer free: the worker that owns them may use them again. The chain is bounded,
// because a dying process may have written it.
func (w *crew) freeBlocks(slot uint64) {
	seg := w.tr.Load(slot + process.ReplySegments)
	for n := 0; seg != 0 && seg <= w.tr.Len()-headerSize && n < wire.MaxBuffers; n++ {
		next, block := w.tr.Load(seg+offNext), w.tr.Load(seg+offBlock)
		if block != 0 && block <= w.tr.Len()-process.HeapBlockHead {
			w.tr.Store32(block+process.HeapBlockState, 0)
		}
		seg = next
	}
}

func (w *crew) unpin() {
	kept := w.pinned[:0]
	for _, slot := range w.pinned {
		if w.tr.Load32(slot+process.ReplyPinned) != 0 {
			kept = append(kept, slot)
		} else {
			w.tr.Free(slot)
		}
	}
	w.pinned = kept
}

func (e *Engine) releaseHeld(p *port) {
	for _, slot := range p.held {
		e.freeAt(slot)
	}
	p.held = p.held[:0]
	if len(e.pinned) > 0 {
		e.unpin()
	}
}

// Grow gives offer i of the port a slot of at least size bytes in place of the one it has.
func (e *Engine) Grow(pi, i int, size uint64) (uint64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.port(pi)
	if p == nil || e.freed || i < 0 || i >= len(p.offers) || p.offers[i] == nil {
		return 0, fail(CodeArgument, "no such offer")
	}
	c := p.offers[i]
	off, room, err := e.tr.Alloc(size)
	if err != nil {
		return 0, &Error{CodeMemory, err}
	}
	mem := e.tr.Mem()
	copy(mem[off:off+process.SlotFrame+headerSize], mem[c.slot:c.slot+process.SlotFrame+headerSize])
	e.tr.Free(c.slot)
	c.slot, c.room = off, room
	e.tr.Store(off+process.ReplyCapacity, room)
	w := p.offerWords(i)
	w[2], w[3] = int64(off), int64(room)
	return off, nil
}
