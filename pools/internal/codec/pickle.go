package codec

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// Values go between Go and Python as pickles of a few operations: Python has C code for pickles in its standard library, and none for
// msgpack, which costs it 2 to 4 us per record where a pickle costs 0.3. What pickles have no operation for, such as arrays, is a call of
// one of three functions of python/schwimmbad_go/_msgpack.py, with the bytes of the msgpack extension. This is the writing side;
// unpickle.go reads.

// errNotUTF8 is met on the way to a pickle: the chunk is msgpack then, which Python refuses value by value.
var errNotUTF8 = errors.New("a string is not UTF-8")

// memo is what a pickle has written already, by the places in Python's memo plus one: 0 is what it has not.
type memo struct {
	size              int
	extension, beside int
	names             []names
}

// names are the fields of a struct type. A name is written once and referred to from then on, so that all records share one string in Python.
type names struct {
	of *fields
	at []int
}

// startPickle begins the pickle of a list.
func (e *Encoder) startPickle() {
	e.pickle = true
	e.buf = append(e.buf, 0x80, 5, ']', '(')
	e.memo = memo{names: e.memo.names}
	for _, n := range e.memo.names {
		clear(n.at)
	}
}

func (e *Encoder) endPickle() Payload {
	e.pickle = false
	e.buf = append(e.buf, 'e', '.')
	return Payload{Kind: wire.PickleList, Inband: e.buf, Large: e.large}
}

// namesOf finds the names of a struct type; there are as many to look at as struct types in the chunk.
func (e *Encoder) namesOf(fs *fields) []int {
	for _, n := range e.memo.names {
		if n.of == fs {
			return n.at
		}
	}
	e.memo.names = append(e.memo.names, names{fs, make([]int, len(fs.list))})
	return e.memo.names[len(e.memo.names)-1].at
}

// fieldName writes the name of a field, whose place in the memo is noted in at.
func (e *Encoder) fieldName(f *field, at *int) {
	if !e.recall(*at) {
		e.buf = pickleString(e.buf, f.name)
		e.memoize(at)
	}
}

func (e *Encoder) memoize(at *int) {
	e.buf = append(e.buf, 0x94)
	e.memo.size++
	*at = e.memo.size
}

// recall pushes what is in the memo.
func (e *Encoder) recall(at int) bool {
	switch {
	case at == 0:
		return false
	case at <= 256:
		e.buf = append(e.buf, 'h', byte(at-1))
	default:
		e.buf = binary.LittleEndian.AppendUint32(append(e.buf, 'j'), uint32(at-1))
	}
	return true
}

// function pushes one of the functions.
func (e *Encoder) function(at *int, name string) {
	if !e.recall(*at) {
		e.buf = pickleString(e.buf, "schwimmbad_go._msgpack")
		e.buf = append(pickleString(e.buf, name), 0x93)
		e.memoize(at)
	}
}

// pickleExt begins the call that makes an extension of n bytes; these and endExt follow. They arrive as a bytearray: an array is made on
// it in place.
func (e *Encoder) pickleExt(code int8, n int) {
	e.function(&e.memo.extension, "extension")
	e.buf = binary.LittleEndian.AppendUint64(append(pickleInt(e.buf, int64(code)), 0x96), uint64(n))
}

func (e *Encoder) endExt() {
	if e.pickle {
		e.buf = append(e.buf, 0x86, 'R')
	}
}

// pickleBeside makes an array on the next buffer that lies beside the pickle.
func (e *Encoder) pickleBeside(head []byte) {
	e.function(&e.memo.beside, "beside")
	e.buf = append(pickleBytes(e.buf, head), 0x97, 0x86, 'R')
}

func pickleString(b []byte, s string) []byte {
	if len(s) < 256 {
		b = append(b, 0x8c, byte(len(s)))
	} else {
		b = binary.LittleEndian.AppendUint32(append(b, 'X'), uint32(len(s)))
	}
	return append(b, s...)
}

func pickleBytes(b, s []byte) []byte {
	if len(s) < 256 {
		b = append(b, 'C', byte(len(s)))
	} else {
		b = binary.LittleEndian.AppendUint32(append(b, 'B'), uint32(len(s)))
	}
	return append(b, s...)
}

func pickleInt(b []byte, i int64) []byte {
	switch {
	case i >= 0 && i < 256:
		return append(b, 'K', byte(i))
	case i >= math.MinInt32 && i <= math.MaxInt32:
		return binary.LittleEndian.AppendUint32(append(b, 'J'), uint32(i))
	}
	return binary.LittleEndian.AppendUint64(append(b, 0x8a, 8), uint64(i))
}

func pickleUint(b []byte, u uint64) []byte {
	if u <= math.MaxInt64 {
		return pickleInt(b, int64(u))
	}
	return append(binary.LittleEndian.AppendUint64(append(b, 0x8a, 9), u), 0)
}

// pickleLong writes an integer of any length: two's complement, little endian.
func pickleLong(b, long []byte) []byte {
	if len(long) < 256 {
		b = append(b, 0x8a, byte(len(long)))
	} else {
		b = binary.LittleEndian.AppendUint32(append(b, 0x8b), uint32(len(long)))
	}
	return append(b, long...)
}

func pickleFloat(b []byte, f float64) []byte {
	return binary.BigEndian.AppendUint64(append(b, 'G'), math.Float64bits(f))
}

// msgpack writes values that a type has encoded by itself.
func (e *Encoder) msgpack(b []byte) error {
	if !e.pickle {
		e.buf = append(e.buf, b...)
		return nil
	}
	d := decoder{b: b}
	for len(d.b) > 0 {
		if err := e.copy(&d); err != nil {
			return err
		}
	}
	return nil
}

// copy writes the next value of a decoder.
func (e *Encoder) copy(d *decoder) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	switch t.what {
	case tokNil:
		e.null()
	case tokNumber:
		e.number(t.num())
	case tokString:
		return e.string(string(t.data()))
	case tokBytes:
		return e.bytes(t.data())
	case tokExt:
		if t.code() == extFailed {
			e.extLong(extFailed, t.data())
		} else {
			e.ext(t.code(), t.data())
		}
	case tokList:
		e.beginList(t.len())
		if err := e.nested(func() error { return e.copies(d, t.len(), false) }); err != nil {
			return err
		}
		e.endList()
	case tokMap:
		e.beginMap(t.len())
		if err := e.nested(func() error { return e.copies(d, 2*t.len(), true) }); err != nil {
			return err
		}
		e.endMap()
	}
	return nil
}

func (e *Encoder) copies(d *decoder, n int, keys bool) error {
	for i := range n {
		if keys && i%2 == 0 {
			e.keys++
		}
		if err := e.copy(d); err != nil {
			return err
		}
		if keys && i%2 == 0 {
			e.keys--
		}
	}
	return nil
}
