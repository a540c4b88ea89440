package wire

// Limits bound what a reader accepts. The zero value of a field means its default.
type Limits struct {
	// Arena is the extent of the shared memory that offsets point into, in bytes; 0: there is none (stream transports),
	// and a buffer table with offsets is refused.
	Arena uint64
	// External lets the table name memory of the process itself, by its address and the External bit.
	External bool
	// Bytes is the most payload, in band and following buffers together, default 16 GiB. It bounds no allocation of this
	// package, which makes none for payloads, but what a stream reader must be ready to receive.
	Bytes uint64
	// Buffers is the most entries in the buffer table, default and maximum MaxBuffers.
	Buffers uint32
}

// External marks an offset in a buffer table as an address in the process that holds the frame, of memory outside the arena. It never
// crosses a process boundary: what is sent instead is the memory.
const External = 1 << 63

const (
	// MaxBuffers is the most buffers of one frame: a table of 16 MiB, far beyond what one chunk of tasks makes.
	MaxBuffers   = 1 << 20
	defaultBytes = 16 << 30
)

func (l Limits) bytes() uint64 {
	if l.Bytes == 0 {
		return defaultBytes
	}
	return l.Bytes
}

func (l Limits) buffers() uint32 {
	if l.Buffers == 0 || l.Buffers > MaxBuffers {
		return MaxBuffers
	}
	return l.Buffers
}

// inside reports that length bytes at offset lie in the arena. Written so that no sum can overflow.
func (l Limits) inside(offset, length uint64) bool {
	return offset < l.Arena && length <= l.Arena-offset
}
