package wire

import (
	"encoding/binary"
	"fmt"
)

const (
	// RecordSize is what the kernel reads from and writes to a pipe in one step, so that a worker killed at any moment
	// leaves whole records behind.
	RecordSize = 8
	// PageSize is the unit of slot positions: a slot starts at a multiple of it.
	PageSize = 4096

	workerBits = 24
	// MaxWorker is the highest worker index a control record can name.
	MaxWorker = 1<<workerBits - 1
)

// Record announces a chunk in a slot, or a change in a worker's state.
//
// Low 32 bits: the slot's offset divided by PageSize, 0 for a control record (the first page of the arena is no slot).
// High 32 bits: the chunk's generation; in a control record the Code in 8 bits and the worker's index in 24.
type Record uint64

// Code says what a control record tells.
type Code uint8

// The control codes.
const (
	Hello      Code = 1 // the worker is ready
	Retired    Code = 2 // the worker has run its last task and leaves
	InitFailed Code = 3 // the worker's initializer raised
	Left       Code = 4 // the worker, a thread, has ended: nobody else will tell
)

func (c Code) String() string {
	switch c {
	case Hello:
		return "HELLO"
	case Retired:
		return "RETIRED"
	case InitFailed:
		return "INIT_FAILED"
	case Left:
		return "LEFT"
	}
	return fmt.Sprintf("Code(%d)", uint8(c))
}

// ChunkRecord announces the chunk of this generation in the slot at this page, which must not be 0.
func ChunkRecord(page, generation uint32) Record { return Record(generation)<<32 | Record(page) }

// ControlRecord tells of a worker. It panics when the index is above MaxWorker.
func ControlRecord(code Code, worker uint32) Record {
	if worker > MaxWorker {
		panic(fmt.Sprintf("wire: worker %d, at most %d", worker, MaxWorker))
	}
	return Record(uint32(code)<<workerBits|worker) << 32
}

// Control reports that this is a control record.
func (r Record) Control() bool { return uint32(r) == 0 }

// Page is the slot's page, 0 for a control record.
func (r Record) Page() uint32 { return uint32(r) }

// Offset is the slot's offset in the arena.
func (r Record) Offset() uint64 { return uint64(uint32(r)) * PageSize }

// Generation is the chunk's generation, meaningless in a control record.
func (r Record) Generation() uint32 { return uint32(r >> 32) }

// Code is what a control record tells. It may be a code that does not exist.
func (r Record) Code() Code { return Code(r >> (32 + workerBits)) }

// Worker is the index of the worker that a control record tells of.
func (r Record) Worker() uint32 { return uint32(r>>32) & MaxWorker }

// Put writes the record to the first RecordSize bytes of b. It panics when b is shorter.
func (r Record) Put(b []byte) { binary.LittleEndian.PutUint64(b, uint64(r)) }

// ParseRecord reads the record at the start of b. It panics when b is shorter than RecordSize.
func ParseRecord(b []byte) Record { return Record(binary.LittleEndian.Uint64(b)) }
