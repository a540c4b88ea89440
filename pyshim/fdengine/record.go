package fdengine

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A request is one message: two bytes with the lengths of the next two, the function's name, its arguments as 64-bit integers.
// Names, not numbers: two versions that do not fit say so, and a table of numbers would be one more to keep.
const (
	maxArgs    = 8
	maxName    = 32
	maxRequest = 2 + maxName + 8*maxArgs
)

type request struct {
	name []byte // part of the message
	n    int
	args [maxArgs]int64
}

// decode reads a message.
func (r *request) decode(b []byte) error {
	if len(b) < 2 {
		return fmt.Errorf("request of %d bytes", len(b))
	}
	name, n := int(b[0]), int(b[1])
	if name == 0 || name > maxName || n > maxArgs || len(b) != 2+name+8*n {
		return fmt.Errorf("request of %d bytes with a name of %d and %d arguments", len(b), name, n)
	}
	r.name, r.n = b[2:2+name], n
	for i := range n {
		r.args[i] = int64(binary.LittleEndian.Uint64(b[2+name+8*i:]))
	}
	return nil
}

// fits compares the arguments with a function's kinds, one letter each: i and I for 32 bits, signed and not, l and L for 64.
func (r *request) fits(kinds string) error {
	if r.n != len(kinds) {
		return fmt.Errorf("%s takes %d arguments, not %d", r.name, len(kinds), r.n)
	}
	for i, a := range r.args[:r.n] {
		switch kinds[i] {
		case 'i':
			if a < math.MinInt32 || a > math.MaxInt32 {
				return fmt.Errorf("%s: argument %d is %d, which is no int32", r.name, i, a)
			}
		case 'I':
			if a < 0 || a > math.MaxUint32 {
				return fmt.Errorf("%s: argument %d is %d, which is no uint32", r.name, i, a)
			}
		}
	}
	return nil
}

// reply is the answer: a value or a code, then what belongs to it: the words of an error, or what a C caller would find where
// its pointer points. Descriptors ride along.
type reply struct {
	data []byte
	fds  []int
}

func (r *reply) encode(b []byte, value int64) []byte {
	b = binary.LittleEndian.AppendUint64(b[:0], uint64(value))
	return append(b, r.data...)
}
