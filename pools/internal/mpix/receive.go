package mpix

import (
	"sync/atomic"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// Receiver takes messages in.
type Receiver interface {
	// Place says where the parts of a message go, one behind the other, each at a multiple of 64 bytes; nil: nobody wants them.
	// It is called once per message with parts, in the order in which a source sent them.
	Place(src int, m *wire.Message, parts []wire.Part, size uint64) []byte
	// Take is called when all of a message has come, in the order in which a source sent them; at is what Place returned.
	Take(src int, m *wire.Message, parts []wire.Part, at []byte) error
}

// Woken is what a wait found.
type Woken struct {
	Messages bool // at least one was taken
	Sent     bool // at least one has left
	Ready    bool // one of the descriptors can be read
	Signal   bool // a signal came
	Dead     bool // the Dead flag is set
}

// Flag is a word that one thread sets and a wait in another looks at.
type Flag struct{ word atomic.Int32 }

// Set raises the flag.
func (f *Flag) Set() { f.word.Store(1) }

// IsSet tells.
func (f *Flag) IsSet() bool { return f.word.Load() != 0 }

// Align rounds up to where the next part begins.
func Align(n uint64) uint64 { return (n + 63) &^ 63 }

// Room is what parts take when they lie one behind the other.
func Room(parts []wire.Part) (n uint64) {
	for _, p := range parts {
		n = Align(n) + p.Length
	}
	return n
}
