package mpix

import (
	"sync/atomic"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// Receiver takes messages in.
type Receiver interface {
	// Place says where the parts of a message go. It is called once per message with parts, in the order in which a source sent them.
	Place(src int, m *wire.Message, parts []wire.Part) Place
	// Take is called when all of a message has come, in the order in which a source sent them; at is what Place returned.
	Take(src int, m *wire.Message, parts []wire.Part, at Place) error
}

// Place is where parts lie: those of Alone by themselves, the others in Mem one behind the other, each at a multiple of 64 bytes. The zero
// value: nobody wants them.
type Place struct {
	Mem   []byte
	Alone [][]byte // by part, nil for those in Mem; or shorter
}

// Part is where part i lies; at is the end of the one before in Mem, and the new end is returned.
func (p *Place) Part(i int, parts []wire.Part, at uint64) ([]byte, uint64) {
	if i < len(p.Alone) && p.Alone[i] != nil {
		return p.Alone[i], at
	}
	at = Align(at)
	return p.Mem[at : at+parts[i].Length], at + parts[i].Length
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

// Room is what parts take when they lie one behind the other, but for those that alone says lie elsewhere.
func Room(parts []wire.Part, alone func(wire.Part) bool) (n uint64) {
	for _, p := range parts {
		if alone == nil || !alone(p) {
			n = Align(n) + p.Length
		}
	}
	return n
}

// Parts up to this size travel in the envelope: copying them costs less than a message of their own.
const inlineMost = 16 << 10

// Copied says whether Send copies all of the parts at once.
func Copied(parts []Part) bool {
	for _, p := range parts {
		if len(p.Data) > inlineMost {
			return false
		}
	}
	return true
}
