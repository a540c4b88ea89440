package wire

import (
	"encoding/binary"
	"fmt"
	"math"
)

// MessageKind tells what a message between two ranks is for.
type MessageKind uint16

// The messages. Those from the master go down to a rank, the others up.
const (
	MsgOpen   MessageKind = 1 + iota // down: a pool begins; Chunk: session; A: tasks per worker process, 0 any number; part 0: set-up, may be missing; with FlagShare B: place in the crew, and before it a part with three Places
	MsgBlob                          // down: bytes that chunks refer to; Chunk: its offset on the master; part 0: the bytes
	MsgTasks                         // down: a chunk; Chunk: its id; part 0: the TASKS frame and all behind it
	MsgForget                        // down: blobs that nobody will refer to again; part 0: their offsets
	MsgCancel                        // down: a job was given up; Job: which; FlagKill: end the workers that run it
	MsgClose                         // down: the pool ends
	MsgExit                          // down: the rank may leave
	MsgHello                         // up: ready for the session in Chunk; part 0: a RankInfo
	MsgResult                        // up: the answer to Chunk; part 0: the reply block, then the RESULTS frames
	MsgLost                          // up: as MsgResult of a chunk whose worker died; A, B: Loss; C, D: what is known of the end
	MsgFailed                        // up: workers do not get ready; A: code; part 0: an error record's frame, part 1: words
	MsgBye                           // up: the last message of a rank

	lastMessage = MsgBye
)

// Flags of a message.
const (
	FlagKill  = 1 // of MsgCancel
	FlagBrief = 2 // of MsgTasks: should be done in well under 100 us, so its answer may wait for the next one's
	FlagShare = 4 // of MsgOpen: the rank works from the master's own arena
)

const (
	// MessageSize is the length of the fixed part of a message.
	MessageSize = 64
	// PartSize is the length of one entry of the table of parts behind it.
	PartSize = 16

	messageMagic = 0x4d475753 // "SWGM", little endian
	bulkBit      = 1 << 63
	apartBit     = 1 << 62
)

// Message is the fixed part of what goes between ranks. Behind it in one MPI message lie the table of parts, the parts that are
// short, padded to 8 bytes each, and then possibly another message. Long parts follow as MPI messages of their own.
type Message struct {
	Kind       MessageKind
	Flags      uint16
	Parts      uint32
	Chunk, Job uint64
	A, B, C, D int64
}

// Part is one piece of a message's payload.
type Part struct {
	Base   uint64 // where it lay at the sender: offsets inside it count from there
	Length uint64 // in bytes, below 2^61
	Bulk   bool   // it follows as a message of its own
	Apart  bool   // a buffer: it need not lie behind the part before
}

// Put writes the fixed part to the first MessageSize bytes of b. It panics when b is shorter.
func (m *Message) Put(b []byte) {
	_ = b[MessageSize-1]
	le := binary.LittleEndian
	le.PutUint32(b, messageMagic)
	le.PutUint16(b[4:], uint16(m.Kind))
	le.PutUint16(b[6:], m.Flags)
	le.PutUint32(b[8:], m.Parts)
	le.PutUint32(b[12:], Version)
	le.PutUint64(b[16:], m.Chunk)
	le.PutUint64(b[24:], m.Job)
	le.PutUint64(b[32:], uint64(m.A))
	le.PutUint64(b[40:], uint64(m.B))
	le.PutUint64(b[48:], uint64(m.C))
	le.PutUint64(b[56:], uint64(m.D))
}

// Put writes one entry of the table.
func (p Part) Put(b []byte) {
	n := p.Length
	if p.Bulk {
		n |= bulkBit
	}
	if p.Apart {
		n |= apartBit
	}
	binary.LittleEndian.PutUint64(b, p.Base)
	binary.LittleEndian.PutUint64(b[8:], n)
}

// ParseMessage reads the message at the start of b: its fixed part, its parts (appended to parts), and how many bytes of b it
// takes with the short parts. Errors wrap ErrShort, ErrMagic, ErrVersion, ErrBadField or ErrTooBig.
func ParseMessage(b []byte, parts []Part, lim Limits) (m Message, all []Part, size int, err error) {
	if len(b) < MessageSize {
		return m, parts, 0, fmt.Errorf("%w: %d bytes, a message has %d", ErrShort, len(b), MessageSize)
	}
	le := binary.LittleEndian
	if le.Uint32(b) != messageMagic {
		return m, parts, 0, fmt.Errorf("%w: it starts with % x", ErrMagic, b[:4])
	}
	if v := le.Uint32(b[12:]); v != Version {
		return m, parts, 0, fmt.Errorf("%w: the message has %d, this side speaks %d", ErrVersion, v, Version)
	}
	m = Message{
		Kind: MessageKind(le.Uint16(b[4:])), Flags: le.Uint16(b[6:]), Parts: le.Uint32(b[8:]),
		Chunk: le.Uint64(b[16:]), Job: le.Uint64(b[24:]),
		A: int64(le.Uint64(b[32:])), B: int64(le.Uint64(b[40:])), C: int64(le.Uint64(b[48:])), D: int64(le.Uint64(b[56:])),
	}
	if m.Kind < MsgOpen || m.Kind > lastMessage {
		return m, parts, 0, fmt.Errorf("%w: message kind %d", ErrBadField, m.Kind)
	}
	if m.Parts > lim.buffers() || uint64(m.Parts) > uint64(len(b)-MessageSize)/PartSize {
		return m, parts, 0, fmt.Errorf("%w: %d parts in %d bytes", ErrTooBig, m.Parts, len(b))
	}
	size = MessageSize + int(m.Parts)*PartSize
	total := uint64(0)
	all = parts
	for i := range int(m.Parts) {
		at := MessageSize + i*PartSize
		n := le.Uint64(b[at+8:])
		p := Part{Base: le.Uint64(b[at:]), Length: n &^ (bulkBit | apartBit), Bulk: n&bulkBit != 0, Apart: n&apartBit != 0}
		if total += p.Length; p.Length > math.MaxInt64/4 || total > lim.bytes() {
			return m, parts, 0, fmt.Errorf("%w: parts of %d bytes, at most %d", ErrTooBig, total, lim.bytes())
		}
		if !p.Bulk {
			if p.Length > uint64(len(b)-size) {
				return m, parts, 0, fmt.Errorf("%w: a part of %d bytes, %d there", ErrShort, p.Length, len(b)-size)
			}
			size = min(size+int(p.Length+7)&^7, len(b))
		}
		all = append(all, p)
	}
	return m, all, size, nil
}

// RankInfo is what a rank tells about itself.
type RankInfo struct {
	Host    string `msgpack:"host"`
	Pid     int    `msgpack:"pid"`
	Workers int    `msgpack:"workers"`
}
