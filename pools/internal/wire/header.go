package wire

import (
	"encoding/binary"
	"fmt"
	"math"
)

const (
	// Version is the protocol version, the fourth byte of each frame. Both sides refuse any other.
	Version = 1
	// HeaderSize is the size of a header, and so where the buffer table begins.
	HeaderSize = 96
	// EntrySize is the size of one entry in the buffer table.
	EntrySize = 16
)

// Type tells what a frame is for.
type Type uint16

// The frame types.
const (
	Tasks   Type = 1 // tasks for a worker
	Results Type = 2 // results of a worker
	Blob    Type = 3 // a function, or a large object that tasks share
)

func (t Type) String() string {
	switch t {
	case Tasks:
		return "TASKS"
	case Results:
		return "RESULTS"
	case Blob:
		return "BLOB"
	}
	return fmt.Sprintf("Type(%d)", uint16(t))
}

// Kind tells how the payload is encoded. This package treats all alike.
type Kind uint16

// The payload encodings.
const (
	PickleList  Kind = 0  // a pickled list
	Range       Kind = 1  // start, stop and step of a range
	ArrayRows   Kind = 2  // rows of one ndarray
	Slab        Kind = 3  // equal small arrays, one behind the other
	Floats      Kind = 4  // float64, as Python floats
	NumpyFloats Kind = 5  // float64, as numpy.float64
	ErrorRecord Kind = 6  // what a task raised
	MsgpackList Kind = 7  // a msgpack array
	Raw         Kind = 8  // bytes as they are
	Ints        Kind = 9  // int64, as Python ints
	Local       Kind = 10 // nothing: the tasks are objects of the process that the worker is a thread of

	lastKind = Local
)

var kindNames = [lastKind + 1]string{"pickle list", "range", "ndarray rows", "slab of arrays", "floats", "numpy floats",
	"error record", "msgpack list", "raw", "ints", "local objects"}

func (k Kind) String() string {
	if k <= lastKind {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint16(k))
}

// Header is the fixed part of a frame.
type Header struct {
	Type     Type
	Kind     Kind
	Flags    uint32
	NBuf     uint32 // entries in the buffer table
	Job      uint64 // epoch
	Chunk    uint64
	First    uint64 // index of the first task
	Count    uint32 // tasks
	Block    uint32 // tasks between two looks at the clock
	NBytes   uint64 // in-band length
	Func     uint64 // blob the tasks need: arena offset or blob number; 0: none
	Nanos    uint64 // Tasks: time budget, 0: none; Results: time spent
	Next     uint64 // Results: arena offset of the next frame of this answer, 0: this is the last
	BlockOff uint64 // Results: heap block to release after reading, 0: none
	Extra    uint64 // reserved, 0
}

// Put writes the header to the first HeaderSize bytes of b. It panics when b is shorter.
func (h *Header) Put(b []byte) {
	_ = b[HeaderSize-1]
	le := binary.LittleEndian
	b[0], b[1], b[2], b[3] = 'S', 'W', 'G', Version
	le.PutUint16(b[4:], uint16(h.Type))
	le.PutUint16(b[6:], uint16(h.Kind))
	le.PutUint32(b[8:], h.Flags)
	le.PutUint32(b[12:], h.NBuf)
	le.PutUint64(b[16:], h.Job)
	le.PutUint64(b[24:], h.Chunk)
	le.PutUint64(b[32:], h.First)
	le.PutUint32(b[40:], h.Count)
	le.PutUint32(b[44:], h.Block)
	le.PutUint64(b[48:], h.NBytes)
	le.PutUint64(b[56:], h.Func)
	le.PutUint64(b[64:], h.Nanos)
	le.PutUint64(b[72:], h.Next)
	le.PutUint64(b[80:], h.BlockOff)
	le.PutUint64(b[88:], h.Extra)
}

// ParseHeader reads and checks the header at the start of b. Extra and unknown Flags are passed on unchecked: they are
// where later minor versions put what older readers may ignore. A chain of Next offsets may lead in a circle: who
// follows it counts the tasks. Errors wrap ErrShort, ErrMagic, ErrVersion, ErrBadField, ErrTooBig or ErrBadTable.
func ParseHeader(b []byte, lim Limits) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, fmt.Errorf("%w: %d bytes, a header has %d", ErrShort, len(b), HeaderSize)
	}
	if b[0] != 'S' || b[1] != 'W' || b[2] != 'G' {
		return Header{}, fmt.Errorf("%w: it starts with % x", ErrMagic, b[:4])
	}
	if b[3] != Version {
		return Header{}, fmt.Errorf("%w: the frame has %d, this side speaks %d", ErrVersion, b[3], Version)
	}
	le := binary.LittleEndian
	h := Header{
		Type:     Type(le.Uint16(b[4:])),
		Kind:     Kind(le.Uint16(b[6:])),
		Flags:    le.Uint32(b[8:]),
		NBuf:     le.Uint32(b[12:]),
		Job:      le.Uint64(b[16:]),
		Chunk:    le.Uint64(b[24:]),
		First:    le.Uint64(b[32:]),
		Count:    le.Uint32(b[40:]),
		Block:    le.Uint32(b[44:]),
		NBytes:   le.Uint64(b[48:]),
		Func:     le.Uint64(b[56:]),
		Nanos:    le.Uint64(b[64:]),
		Next:     le.Uint64(b[72:]),
		BlockOff: le.Uint64(b[80:]),
		Extra:    le.Uint64(b[88:]),
	}
	return h, h.check(lim)
}

func (h *Header) check(lim Limits) error {
	if h.Type < Tasks || h.Type > Blob {
		return fmt.Errorf("%w: type %d", ErrBadField, uint16(h.Type))
	}
	if h.Kind > lastKind {
		return fmt.Errorf("%w: kind %d", ErrBadField, uint16(h.Kind))
	}
	if h.First > math.MaxInt64-math.MaxUint32 { // so that First+Count fits an int64
		return fmt.Errorf("%w: first task %d", ErrBadField, h.First)
	}
	if h.Nanos > math.MaxInt64 {
		return fmt.Errorf("%w: %d nanoseconds", ErrBadField, h.Nanos)
	}
	if h.NBuf > lim.buffers() {
		return fmt.Errorf("%w: %d buffers, at most %d", ErrTooBig, h.NBuf, lim.buffers())
	}
	if h.NBytes > lim.bytes() {
		return fmt.Errorf("%w: %d bytes in band, at most %d", ErrTooBig, h.NBytes, lim.bytes())
	}
	if h.Next != 0 && !lim.inside(h.Next, HeaderSize) {
		return fmt.Errorf("%w: next frame at %d, arena of %d", ErrBadTable, h.Next, lim.Arena)
	}
	if h.BlockOff != 0 && !lim.inside(h.BlockOff, 1) {
		return fmt.Errorf("%w: heap block at %d, arena of %d", ErrBadTable, h.BlockOff, lim.Arena)
	}
	return nil
}
