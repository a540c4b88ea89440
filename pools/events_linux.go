//go:build linux && (amd64 || arm64)

package pools

import (
	"encoding/binary"
	"slices"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// listEvents writes what can be read into the port, as much as fits.
func (e *Engine) listEvents(p *port) {
	for len(p.ask) > 0 && p.events < process.MaxEvents {
		c := p.ask[0]
		p.ask = p.ask[:copy(p.ask, p.ask[1:])]
		flag := int64(EventTasks)
		if c.asking == process.StatusNoFunction {
			flag = EventFunc
		}
		e.putEvent(p, c.job, c.id, c.first, int64(c.count), c.slot, flag, nil)
	}
	n := 0
	for n < len(p.dirty) && p.events < process.MaxEvents {
		if j := p.dirty[n]; e.deliver(p, j) {
			j.isDirty = false
			e.endIfFinished(j)
			n++
		}
	}
	if n > 0 {
		p.dirty = p.dirty[:copy(p.dirty, p.dirty[n:])]
	}
}

// deliver lists the events of one job and says whether it has listed all there are.
func (e *Engine) deliver(p *port, j *job) bool {
	for p.events < process.MaxEvents {
		d, ok := e.sched.Deliver(j.id)
		if !ok {
			return true
		}
		var flags int64
		var gone *loss
		if d.Failed {
			flags |= EventFailed
		}
		if d.Lost {
			flags |= EventLost
			if l, ok := e.losses[d.Tag]; ok {
				gone = &l
			}
		}
		var slot uint64
		if d.Chunk != 0 {
			c := e.chunk(d.Chunk)
			if c == nil {
				continue // cannot happen: a delivered chunk is alive until released
			}
			slot = c.slot
			if j.broadcast && flags == 0 && e.fleet != nil {
				d.First = e.fleet.inOrder(j, d.First, int(e.tr.Load32(slot+process.ReplyWorker)))
			}
			bytes := int64(e.tr.Load(slot + process.ReplyBytes))
			p.evBytes += bytes
			e.bytesOut += bytes
			p.held = append(p.held, slot)
			c.slot = 0
			e.freeSlot(c)
			e.sched.Release(d.Chunk)
		}
		e.putEvent(p, j, d.Chunk, d.First, int64(d.Count), slot, flags, gone)
	}
	return false
}

func (e *Engine) putEvent(p *port, j *job, id dispatch.ChunkID, first, count int64, slot uint64, flags int64, gone *loss) {
	w := p.words[process.PortEvents+p.events*process.EventWords:][:process.EventWords]
	w[0], w[1], w[2], w[3], w[4] = int64(j.id), int64(id), first, count, int64(slot)
	w[6], w[7] = 0, 0
	if gone != nil {
		if gone.timeout {
			flags |= EventTimeout
		}
		if gone.exit.Known {
			flags |= EventExit
		}
		w[6], w[7] = int64(gone.exit.Pid)|int64(gone.rank)<<32, int64(gone.exit.Code)
	} else if slot != 0 {
		w[6] = int64(e.tr.Load32(slot + process.ReplyWorker))
	}
	w[5] = flags
	p.events++
	p.words[wordEvents] = int64(p.events)
}

// listOffers reserves chunks for the caller to encode. A job that keeps the workers busy is fed again only when
// half of what it may have in flight has come back: the caller then encodes several chunks per call.
func (e *Engine) listOffers(p *port) {
	for n := 0; n < len(p.hungry); {
		j := p.hungry[n]
		if len(p.offers) >= process.MaxOffers || e.inFlight >= maxPosted {
			return
		}
		more := false
		low := e.sched.Depth(j.id) / 2
		if j.bounded { // half of few would leave workers without a chunk behind the one they run
			low = e.sched.Depth(j.id) - 1
		}
		if e.sched.InFlight(j.id) <= low || len(p.offers) > 0 {
			more = e.offer(p, j)
		} else {
			n++ // enough in flight; it stays hungry
			continue
		}
		if !more { // nothing to encode now: an answer or a submission makes it hungry again
			j.isHungry = false
			p.hungry = append(p.hungry[:n], p.hungry[n+1:]...)
		} else {
			n++
		}
	}
}

// offer lists offers of one job and says whether there may be more when there is room.
func (e *Engine) offer(p *port, j *job) bool {
	for len(p.offers) < process.MaxOffers {
		o, ok := e.sched.Offer(j.id)
		if !ok {
			return false
		}
		want := int64(process.SlotFrame+headerSize) + j.perTask*int64(o.Count)*2
		slot, room, err := e.tr.Alloc(uint64(max(want, process.MinSlot)))
		if err != nil {
			e.sched.Return(o.Chunk)
			if e.inFlight == 0 && p.events == 0 && len(p.offers) == 0 { // no slot will come back by itself
				p.fault = &Error{CodeMemory, err}
			}
			return true // tried again when a slot comes back
		}
		c := e.slab(o.Chunk)
		*c = chunk{id: o.Chunk, job: j, slot: slot, room: room, count: o.Count, first: o.First, timeout: j.timeout}
		e.writeHeader(c, o)
		i := len(p.offers)
		p.offers = append(p.offers, c)
		w := p.offerWords(i)
		w[0], w[1], w[2], w[3], w[4], w[5] = int64(j.id), int64(o.Chunk), int64(slot), int64(room), o.First, int64(o.Count)
		w[6], w[7] = int64(o.Attempt)<<1|boolWord(o.Fresh), int64(o.Block)
		p.words[wordOffers] = int64(i + 1)
	}
	return true
}

func boolWord(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// writeHeader clears the reply block and writes the TASKS frame's header but for what only the encoder knows: kind,
// in-band length, buffers, and the count where fewer tasks came.
func (e *Engine) writeHeader(c *chunk, o dispatch.Offer) {
	b := e.tr.Mem()[c.slot : c.slot+process.SlotFrame+headerSize]
	clear(b[:process.SlotFrame])
	binary.LittleEndian.PutUint64(b[process.ReplyCapacity:], c.room)
	binary.LittleEndian.PutUint64(b[process.ReplyLimit:], uint64(c.timeout))
	h := wire.Header{
		Type: wire.Tasks, Flags: c.job.flags, Job: uint64(o.Job), Chunk: uint64(o.Chunk), First: uint64(o.First),
		Count: uint32(o.Count), Block: uint32(o.Block), Func: c.job.blob, Nanos: uint64(o.Budget), Extra: c.job.blobAt,
	}
	h.Put(b[process.SlotFrame:])
}

func (e *Engine) endIfFinished(j *job) {
	if e.sched.Finished(j.id) {
		e.endJob(j)
	}
}

func (e *Engine) endJob(j *job) {
	if _, ok := e.jobs[j.id]; !ok {
		return
	}
	e.sched.End(j.id)
	e.forget(j)
}

func (e *Engine) forget(j *job) {
	delete(e.jobs, j.id)
	j.port.jobs--
	if j.timeout > 0 {
		e.timed--
	}
	if j.isHungry {
		j.port.hungry = without(j.port.hungry, j)
	}
	if j.isDirty {
		j.port.dirty = without(j.port.dirty, j)
	}
	j.gone = true
	for _, tag := range j.losses {
		delete(e.losses, tag)
	}
	e.hangUpIfIdle()
}

func without(list []*job, j *job) []*job {
	for i, x := range list {
		if x == j {
			return append(list[:i], list[i+1:]...)
		}
	}
	return list
}

// Cancel ends a job: nothing more of it is started. Tasks that run now finish unheard, or with kill end with their
// workers, which are replaced.
func (e *Engine) Cancel(id int64, kill bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	j := e.jobs[dispatch.JobID(id)]
	if j == nil || e.freed {
		return
	}
	if kill {
		for i := range e.tr.Workers {
			if c := e.claimed(i); c != nil && c.job == j {
				e.end(i, -1)
			}
		}
	}
	if e.fleet != nil {
		e.fleet.cancel(j, kill)
	}
	e.cancel(j)
	// Best tried at once; if it cannot be, the next call that waits does it, and says why it could not.
	_ = e.push()
}

func (e *Engine) cancel(j *job) {
	posted := 0
	for _, c := range e.chunks {
		if c.job != j {
			continue
		}
		switch {
		case c.posted:
			posted++
			e.tr.Store32(c.slot+process.ReplyCancel, 1)
		case c.asking != 0:
			j.port.ask = withoutChunk(j.port.ask, c)
			e.sched.Done(c.id, dispatch.Outcome{})
			e.freeSlot(c)
		default:
			if i := slices.Index(j.port.offers, c); i >= 0 {
				// Now, not when the port is used next: the scheduler may give the id's place to another chunk.
				j.port.offers[i] = nil
				e.sched.Return(c.id)
			}
			e.freeSlot(c) // else: answered and not read, it waits in the scheduler's order
		}
	}
	if j.broadcast { // what was not posted will not answer: only posted chunks count
		j.left = posted + 1
		e.broadcastStep(j)
	}
	e.sched.Cancel(j.id)
	e.sched.End(j.id)
	e.forget(j)
}

func withoutChunk(list []*chunk, c *chunk) []*chunk {
	for i, x := range list {
		if x == c {
			return append(list[:i], list[i+1:]...)
		}
	}
	return list
}

// Requeue answers a question: the tasks of the chunk are offered again, one by one where split is set. The function of
// the job is replaced by the blob given, if serial is not 0.
func (e *Engine) Requeue(pi int, id int64, split bool, serial, off uint64) error {
	return e.reply(pi, id, func(c *chunk) {
		if serial != 0 {
			c.job.blob, c.job.blobAt = serial, off
		}
		e.sched.Requeue(c.id, split)
		e.freeSlot(c)
	})
}

// Reject answers a question: the first task of the chunk fails with the error record that the worker left, the others
// are offered again.
func (e *Engine) Reject(pi int, id int64) error {
	return e.reply(pi, id, func(c *chunk) {
		c.asking = 0
		e.broadcastStep(c.job)
		keep, _ := e.sched.Done(c.id, dispatch.Outcome{Failed: true})
		if !keep {
			e.freeSlot(c)
		}
	})
}

func (e *Engine) reply(pi int, id int64, answer func(*chunk)) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.port(pi)
	c := e.chunk(dispatch.ChunkID(id))
	if p == nil || c == nil || c.asking == 0 || e.freed {
		return fail(CodeArgument, "chunk %d asks nothing", id)
	}
	j := c.job
	answer(c)
	p.feed(j)
	p.touch(j)
	return nil
}
