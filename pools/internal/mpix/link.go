//go:build mpi && cgo

package mpix

import (
	"fmt"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

const (
	// Small fixed tags: the standard guarantees no more than 32767.
	tagEnvelope = 1
	tagBulk     = 2

	// Messages to one rank share an envelope up to this size.
	envelopeSize = 64 << 10
	// Messages of this size are eager everywhere: when they are announced they are there. (Open MPI's limit in shared memory is 4 KiB.)
	eagerMost = 2 << 10
)

// segment is the most that goes in one MPI message: counts are ints in MPI before version 4. A variable for the tests.
var segment = 256 << 20

// Link is the sending and receiving end of one process.
//
// Send only queues, and is for anybody under the owner's lock; Flush, Progress and Wait reach MPI, and are for one thread at a time.
type Link struct {
	// Dead ends waits from another thread: a process of the job is gone.
	Dead *Flag
	// Ring wakes a rank that may sleep (see Hear); nil: nobody does.
	Ring func(rank int)
	// Quiet is after how many ns without a message to or from a rank it may sleep.
	Quiet int64

	comm  *Comm
	to    Receiver
	reqs  requests
	out   []outbox // by rank
	dirty []int    // ranks with something queued
	in    []inbox  // by rank
	buf   []byte   // short envelopes are received here
	spare [][]byte // envelopes to be filled again
	parts []wire.Part
	now   incoming // the message that is being opened
	since int64    // when the present wait began, 0: it has not
	bell  bell
}

// outbox is what waits for Flush, in order.
type outbox struct {
	items []item
	dirty bool
	wake  bool  // Flush rings, if it may sleep
	last  int64 // when something was sent or received last
}

type item struct {
	data     []byte // an envelope being filled, or a long part
	envelope bool
	parcel   *parcel
}

// inbox is the messages of one rank, in the order it sent them.
type inbox struct {
	closed  []*envelope // not here yet, or behind one that is not
	waiting []*incoming
}

type envelope struct {
	data   []byte
	parcel parcel
}

type incoming struct {
	msg    wire.Message
	parts  []wire.Part
	at     Place
	scrap  bool    // nobody wants it: the memory is ours
	parcel *parcel // of its long parts; nil: it has none
}

func (x *incoming) whole() bool { return x.parcel == nil || x.parcel.left == 0 }

// NewLink makes the end of this process.
func NewLink(c *Comm, to Receiver) *Link {
	l := &Link{Dead: &Flag{}, comm: c, to: to, out: make([]outbox, c.Size()), in: make([]inbox, c.Size()), buf: buffer(eagerMost)}
	l.Hear(-1, [TokenSize]byte{})
	return l
}

// Send queues a message. Short parts are copied at once; when long ones have been sent, sent is called, during Flush or Progress.
// Without long parts it is called before Send returns.
func (l *Link) Send(dest int, m wire.Message, parts []Part, sent func()) {
	m.Parts = uint32(len(parts))
	size := wire.MessageSize + len(parts)*wire.PartSize
	bulks := 0
	for _, p := range parts {
		if len(p.Data) > inlineMost {
			bulks++
		} else {
			size += (len(p.Data) + 7) &^ 7
		}
	}
	b := l.envelope(dest, size)
	m.Put(b)
	table, at := b[wire.MessageSize:], wire.MessageSize+len(parts)*wire.PartSize
	for i, p := range parts {
		long := len(p.Data) > inlineMost
		wire.Part{Base: p.Base, Length: uint64(len(p.Data)), Bulk: long, Apart: p.Apart}.Put(table[i*wire.PartSize:])
		if !long {
			copy(b[at:], p.Data)
			at += (len(p.Data) + 7) &^ 7
		}
	}
	if bulks == 0 {
		if sent != nil {
			sent()
		}
		return
	}
	o := &l.out[dest]
	p := &parcel{then: sent, left: 1} // 1: until all are on their way
	for _, part := range parts {
		if len(part.Data) > inlineMost {
			o.items = append(o.items, item{data: part.Data, parcel: p})
		}
	}
}

// envelope finds size bytes in an envelope to a rank, which nothing may be queued behind.
func (l *Link) envelope(dest, size int) []byte {
	o := &l.out[dest]
	if !o.dirty {
		o.dirty = true
		l.dirty = append(l.dirty, dest)
	}
	if n := len(o.items); n > 0 {
		if last := &o.items[n-1]; last.envelope && cap(last.data)-len(last.data) >= size {
			at := len(last.data)
			last.data = last.data[:at+size]
			return last.data[at:]
		}
	}
	b := l.fresh(size)
	o.items = append(o.items, item{data: b, envelope: true})
	return b
}

// fresh is memory for an envelope of this size.
func (l *Link) fresh(size int) []byte {
	if n := len(l.spare); n > 0 && size <= envelopeSize {
		b := l.spare[n-1]
		l.spare = l.spare[:n-1]
		return b[:size]
	}
	return buffer(max(size, envelopeSize))[:size]
}

// Wake says that a rank has to look at once at what is queued for it: it may have nothing to do.
func (l *Link) Wake(dest int) { l.out[dest].wake = true }

// Flush hands what is queued to MPI.
func (l *Link) Flush() error {
	for _, dest := range l.dirty {
		o := &l.out[dest]
		o.dirty = false
		for i := range o.items {
			if err := l.post(dest, o.items[i], i+1 == len(o.items) || o.items[i+1].parcel != o.items[i].parcel); err != nil {
				return err
			}
		}
		clear(o.items)
		o.items = o.items[:0]
	}
	l.ring()
	l.dirty = l.dirty[:0]
	return nil
}

// ring wakes those who may sleep, when all have their messages: who wakes up finds his, and may well take this thread's CPU to begin.
// (Ringing ahead, so that ranks wake up while tasks are encoded, gained 10 us where there were enough CPUs; where not, they looked in vain
// and this thread came back 170 us later.)
func (l *Link) ring() {
	if l.Ring == nil {
		return
	}
	now := monotonic()
	for _, dest := range l.dirty {
		o := &l.out[dest]
		if o.wake && now-o.last > l.Quiet {
			l.Ring(dest)
		}
		o.last, o.wake = now, false
	}
}

// post starts the sending of an item; last tells that it is the last of its parcel.
func (l *Link) post(dest int, x item, last bool) error {
	if x.envelope {
		whole := x.data
		p := &parcel{then: func() { l.recycle(whole) }}
		if err := l.isend(x.data, dest, tagEnvelope, p); err != nil {
			return err
		}
		if p.left == 0 {
			l.recycle(whole)
		}
		return nil
	}
	for b := x.data; len(b) > 0; {
		n := min(len(b), segment)
		if err := l.isend(b[:n], dest, tagBulk, x.parcel); err != nil {
			return err
		}
		b = b[n:]
	}
	if last {
		if x.parcel.left--; x.parcel.left == 0 && x.parcel.then != nil {
			x.parcel.then()
		}
	}
	return nil
}

func (l *Link) recycle(b []byte) {
	if cap(b) != envelopeSize || len(l.spare) >= 64 {
		release(b)
		return
	}
	l.spare = append(l.spare, b[:0])
}

// Queued says whether Flush would send anything.
func (l *Link) Queued() bool { return len(l.dirty) > 0 }

// Pending says how many operations are under way or queued.
func (l *Link) Pending() int {
	n := len(l.reqs.owner)
	for _, dest := range l.dirty {
		n += len(l.out[dest].items)
	}
	return n
}

// Progress takes in all that has come and settles what was sent, without waiting. It says whether it found anything.
func (l *Link) Progress() (bool, error) {
	found := false
	for {
		n, src, ok, err := l.probe()
		if err != nil || !ok {
			if err != nil {
				return found, err
			}
			break
		}
		found = true
		if err := l.take(src, n); err != nil {
			return found, err
		}
	}
	if err := l.reqs.test(); err != nil {
		return found, err
	}
	if l.reqs.settle() {
		found = true
		for src := range l.in {
			if err := l.advance(src); err != nil {
				return found, err
			}
		}
	}
	if found {
		l.since = 0
	}
	return found, nil
}

// take receives an envelope of n bytes that has been announced. A short one is there. A longer one may need its sender's help, who may be
// in a task for an hour, so it is waited for like long parts; until it has come what the same rank sent later stays closed, since long
// parts are matched in the order of their envelopes.
func (l *Link) take(src, n int) error {
	if l.Ring != nil {
		l.out[src].last = monotonic()
	}
	box := &l.in[src]
	if n <= eagerMost && len(box.closed) == 0 {
		if err := l.recv(l.buf[:n], src, tagEnvelope); err != nil {
			return err
		}
		return l.open(src, l.buf[:n])
	}
	e := &envelope{data: l.fresh(n)}
	if err := l.irecv(e.data, src, tagEnvelope, &e.parcel); err != nil {
		return err
	}
	box.closed = append(box.closed, e)
	return l.advance(src)
}

// advance opens the envelopes of a rank that have come, and hands on its messages that are complete.
func (l *Link) advance(src int) error {
	box := &l.in[src]
	for len(box.closed) > 0 && box.closed[0].parcel.left == 0 {
		e := box.closed[0]
		box.closed[0] = nil
		if box.closed = box.closed[1:]; len(box.closed) == 0 {
			box.closed = nil
		}
		err := l.open(src, e.data)
		l.recycle(e.data)
		if err != nil {
			return err
		}
	}
	return l.deliver(src)
}

// open takes an envelope apart.
func (l *Link) open(src int, b []byte) error {
	box := &l.in[src]
	for len(b) > 0 {
		m, parts, size, err := wire.ParseMessage(b, l.parts[:0], wire.Limits{Bytes: 1 << 46})
		if err != nil {
			return fmt.Errorf("a message from rank %d: %w", src, err)
		}
		l.parts = parts
		x := &l.now // most messages are whole at once, and are handed on from here
		*x = incoming{msg: m, parts: parts}
		if err := l.fill(src, x, b[wire.MessageSize+len(parts)*wire.PartSize:size]); err != nil {
			return err
		}
		b = b[size:]
		if x.whole() && len(box.waiting) == 0 {
			if err := l.hand(src, x); err != nil {
				return err
			}
			continue
		}
		later := new(incoming)
		*later = *x
		later.parts = append([]wire.Part(nil), parts...)
		box.waiting = append(box.waiting, later)
		if err := l.deliver(src); err != nil {
			return err
		}
	}
	return nil
}

// fill puts the short parts in place and asks for the long ones.
func (l *Link) fill(src int, x *incoming, inline []byte) error {
	if len(x.parts) == 0 {
		return nil
	}
	x.at = l.to.Place(src, &x.msg, x.parts)
	if x.at.Mem == nil && x.at.Alone == nil {
		x.at.Mem, x.scrap = buffer(int(max(Room(x.parts, nil), 1))), true
	}
	at := uint64(0)
	for i, p := range x.parts {
		var dst []byte
		dst, at = x.at.Part(i, x.parts, at)
		if !p.Bulk {
			copy(dst, inline)
			inline = inline[min(int(p.Length+7)&^7, len(inline)):]
			continue
		}
		if x.parcel == nil {
			x.parcel = &parcel{}
		}
		for len(dst) > 0 {
			n := min(len(dst), segment)
			if err := l.irecv(dst[:n], src, tagBulk, x.parcel); err != nil {
				return err
			}
			dst = dst[n:]
		}
	}
	return nil
}

// deliver hands on what is complete, in order.
func (l *Link) deliver(src int) error {
	box := &l.in[src]
	for len(box.waiting) > 0 && box.waiting[0].whole() {
		x := box.waiting[0]
		box.waiting[0] = nil
		if box.waiting = box.waiting[1:]; len(box.waiting) == 0 {
			box.waiting = nil
		}
		if err := l.hand(src, x); err != nil {
			return err
		}
	}
	return nil
}

// hand gives a whole message to the receiver.
func (l *Link) hand(src int, x *incoming) error {
	if x.scrap {
		release(x.at.Mem)
		return nil
	}
	return l.to.Take(src, &x.msg, x.parts, x.at)
}

// Free gives back what the link holds. Operations under way keep their memory: MPI may still write there.
func (l *Link) Free() {
	if len(l.reqs.owner) > 0 {
		return
	}
	l.reqs.free()
	release(l.buf)
	for _, b := range l.spare {
		release(b[:cap(b)])
	}
	l.buf, l.spare = nil, nil
}
