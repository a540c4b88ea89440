package codec

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// Values of plain types go between Go and Python as pickles of a few operations: Python has C code for pickles in its standard library, and
// none for msgpack, which costs it 2 to 4 us per record where a pickle costs 0.3. Both sides turn to msgpack for everything else,
// such as arrays. What is read here makes numbers, strings, bytes, lists and maps, and can make nothing else.

// Pickled is the payload as a pickled list, and false if some value of it is not plain.
func Pickled(p Payload) (Payload, bool) {
	if len(p.Large) > 0 {
		return p, false
	}
	d := decoder{b: p.Inband}
	out := append(make([]byte, 0, len(p.Inband)*5/4+64), 0x80, 5, ']', '(')
	for len(d.b) > 0 {
		var ok bool
		if out, ok = d.pickle(out, false); !ok {
			return p, false
		}
	}
	return Payload{Kind: wire.PickleList, Inband: append(out, 'e', '.')}, true
}

// pickle appends the operations that make the next value.
func (d *decoder) pickle(out []byte, key bool) ([]byte, bool) {
	t, err := d.next()
	if err != nil || d.depth > maxDepth {
		return out, false
	}
	d.depth++
	defer func() { d.depth-- }()
	n := len(t.data)
	switch t.what {
	case tokNil:
		return append(out, 'N'), true
	case tokNumber:
		return t.num.pickle(out)
	case tokString:
		if !utf8.Valid(t.data) {
			return out, false
		}
		if n < 256 {
			out = append(out, 0x8c, byte(n))
		} else {
			out = binary.LittleEndian.AppendUint32(append(out, 'X'), uint32(n))
		}
		return append(out, t.data...), true
	case tokBytes:
		if n < 256 {
			out = append(out, 'C', byte(n))
		} else {
			out = binary.LittleEndian.AppendUint32(append(out, 'B'), uint32(n))
		}
		return append(out, t.data...), true
	case tokList, tokMap:
		begin, end, items := byte(']'), byte('e'), t.n
		if t.what == tokMap {
			begin, end, items = '}', 'u', 2*t.n
		}
		if key {
			return out, false
		}
		out = append(out, begin, '(')
		for i := range items {
			var ok bool
			if out, ok = d.pickle(out, t.what == tokMap && i%2 == 0); !ok {
				return out, false
			}
		}
		return append(out, end), true
	}
	return out, false
}

func (n number) pickle(out []byte) ([]byte, bool) {
	switch {
	case n.what == isBool:
		return append(out, 0x89-byte(n.i)), true
	case n.what == isFloat:
		return binary.BigEndian.AppendUint64(append(out, 'G'), math.Float64bits(n.f)), true
	case n.what == isUint:
		return append(binary.LittleEndian.AppendUint64(append(out, 0x8a, 9), n.u), 0), true
	case n.what != isInt:
		return out, false
	case n.i >= 0 && n.i < 256:
		return append(out, 'K', byte(n.i)), true
	case n.i >= math.MinInt32 && n.i <= math.MaxInt32:
		return binary.LittleEndian.AppendUint32(append(out, 'J'), uint32(n.i)), true
	}
	return binary.LittleEndian.AppendUint64(append(out, 0x8a, 8), uint64(n.i)), true
}

// object is a value that a pickle makes.
type object struct {
	what  byte // tokList, tokMap; else raw is its msgpack
	raw   []byte
	items []*object
}

// unpickler runs a pickle.
type unpickler struct {
	b     []byte
	stack []*object // nil: a mark
	memo  []*object
	spare []object
	out   []byte // msgpack of the scalars
}

const maxUnpickled = 1 << 32 // bytes; objects that occur several times are written out each time

// unpickle turns a pickled list into its values as msgpack, one behind the other, and their number.
func unpickle(b []byte) (values []byte, n int, err error) {
	u := unpickler{b: b, out: make([]byte, 0, 2*len(b))}
	top, err := u.run()
	if err != nil {
		return nil, 0, err
	}
	if top.what != tokList {
		return nil, 0, fmt.Errorf("the pickle holds no list")
	}
	var e Encoder
	e.buf = make([]byte, 0, len(b)*5/4)
	for _, o := range top.items {
		if err := o.write(&e, 0); err != nil {
			return nil, 0, err
		}
	}
	return e.buf, len(top.items), nil
}

func (o *object) write(e *Encoder, depth int) error {
	switch {
	case depth > maxDepth:
		return fmt.Errorf("values are nested more than %d deep, or contain themselves", maxDepth)
	case len(e.buf) > maxUnpickled:
		return errTooLong
	case o.what == tokList:
		e.buf = appendCount(e.buf, len(o.items), 0x90, 0xdc)
	case o.what == tokMap:
		e.buf = appendCount(e.buf, len(o.items)/2, 0x80, 0xde)
	default:
		e.buf = append(e.buf, o.raw...)
	}
	for _, i := range o.items {
		if err := i.write(e, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (u *unpickler) push(what byte, raw []byte) *object {
	if len(u.spare) == 0 {
		u.spare = make([]object, 256)
	}
	o := &u.spare[0]
	u.spare = u.spare[1:]
	o.what, o.raw = what, raw
	u.stack = append(u.stack, o)
	return o
}

// scalar pushes what an encoder has appended to out.
func (u *unpickler) scalar(out []byte, err error) error {
	if err == nil {
		u.push(0, out[len(u.out):])
		u.out = out
	}
	return err
}

var rawNil, rawTrue, rawFalse = []byte{0xc0}, []byte{0xc3}, []byte{0xc2}

// take reads n bytes of the pickle.
func (u *unpickler) take(n uint64) ([]byte, error) {
	if n > uint64(len(u.b)) {
		return nil, errTruncated
	}
	b := u.b[:n]
	u.b = u.b[n:]
	return b, nil
}

// number reads an unsigned number of so many bytes.
func (u *unpickler) number(width uint64) (uint64, error) {
	b, err := u.take(width)
	if err != nil {
		return 0, err
	}
	var word [8]byte
	copy(word[:], b)
	return binary.LittleEndian.Uint64(word[:]), nil
}

// sized reads bytes behind their number.
func (u *unpickler) sized(width uint64) ([]byte, error) {
	n, err := u.number(width)
	if err != nil {
		return nil, err
	}
	return u.take(n)
}

// marked takes what lies above the last mark off the stack, or with n >= 0 the last n.
func (u *unpickler) marked(n int) ([]*object, error) {
	at := len(u.stack) - n
	if n < 0 {
		for at = len(u.stack) - 1; at >= 0 && u.stack[at] != nil; at-- {
		}
	}
	if at < 0 {
		return nil, errPickle
	}
	items := u.stack[at:]
	if n < 0 {
		items = items[1:]
	}
	for _, o := range items {
		if o == nil {
			return nil, errPickle
		}
	}
	u.stack = u.stack[:at]
	return items, nil
}

var errPickle = fmt.Errorf("the pickle is damaged")

// add puts items into the container below them.
func (u *unpickler) add(n int, what byte) error {
	items, err := u.marked(n)
	if err != nil {
		return err
	}
	if len(u.stack) == 0 {
		return errPickle
	}
	o := u.stack[len(u.stack)-1]
	if o == nil || o.what != what || what == tokMap && len(items)%2 != 0 {
		return errPickle
	}
	o.items = append(o.items, items...)
	return nil
}

// tuple makes a list of items.
func (u *unpickler) tuple(n int) error {
	items, err := u.marked(n)
	if err != nil {
		return err
	}
	items = append([]*object(nil), items...)
	u.push(tokList, nil).items = items
	return nil
}

func (u *unpickler) run() (*object, error) {
	for {
		op, err := u.number(1)
		if err != nil {
			return nil, err
		}
		if op == '.' {
			if len(u.stack) != 1 || u.stack[0] == nil {
				return nil, errPickle
			}
			return u.stack[0], nil
		}
		if err := u.step(byte(op)); err != nil {
			return nil, err
		}
	}
}

// step runs one operation; the letters are those of Python's pickletools.
func (u *unpickler) step(op byte) error {
	switch op {
	case 0x80: // PROTO
		_, err := u.take(1)
		return err
	case 0x95: // FRAME
		_, err := u.take(8)
		return err
	case '(': // MARK
		u.stack = append(u.stack, nil)
	case 'N': // NONE
		u.push(0, rawNil)
	case 0x88: // NEWTRUE
		u.push(0, rawTrue)
	case 0x89: // NEWFALSE
		u.push(0, rawFalse)
	case ']', 0x8f: // EMPTY_LIST, EMPTY_SET
		u.push(tokList, nil)
	case '}': // EMPTY_DICT
		u.push(tokMap, nil)
	case 'a': // APPEND
		return u.add(1, tokList)
	case 'e', 0x90: // APPENDS, ADDITEMS
		return u.add(-1, tokList)
	case 's': // SETITEM
		return u.add(2, tokMap)
	case 'u': // SETITEMS
		return u.add(-1, tokMap)
	case ')': // EMPTY_TUPLE
		return u.tuple(0)
	case 0x85, 0x86, 0x87: // TUPLE1 to 3
		return u.tuple(int(op - 0x84))
	case 't', 0x91: // TUPLE, FROZENSET
		return u.tuple(-1)
	case 0x94: // MEMOIZE
		if len(u.stack) == 0 || u.stack[len(u.stack)-1] == nil {
			return errPickle
		}
		u.memo = append(u.memo, u.stack[len(u.stack)-1])
	case 'h', 'j': // BINGET, LONG_BINGET
		width := uint64(1)
		if op == 'j' {
			width = 4
		}
		i, err := u.number(width)
		if err != nil || i >= uint64(len(u.memo)) {
			return errPickle
		}
		u.stack = append(u.stack, u.memo[i])
	default:
		return u.literal(op)
	}
	return nil
}

// literal runs an operation that pushes a number, a string or bytes.
func (u *unpickler) literal(op byte) error {
	var width uint64
	switch op {
	case 'K': // BININT1
		n, err := u.number(1)
		return u.scalar(appendUint(u.out, n), err)
	case 'M': // BININT2
		n, err := u.number(2)
		return u.scalar(appendUint(u.out, n), err)
	case 'J': // BININT
		n, err := u.number(4)
		return u.scalar(appendInt(u.out, int64(int32(uint32(n)))), err)
	case 'G': // BINFLOAT
		b, err := u.take(8)
		return u.scalar(append(append(u.out, 0xcb), b...), err)
	case 0x8a, 0x8b: // LONG1, LONG4
		width = 1
		if op == 0x8b {
			width = 4
		}
		b, err := u.sized(width)
		if err != nil {
			return err
		}
		v := bigInt(b)
		switch {
		case v.IsInt64():
			return u.scalar(appendInt(u.out, v.Int64()), nil)
		case v.IsUint64():
			return u.scalar(appendUint(u.out, v.Uint64()), nil)
		}
		e := Encoder{buf: u.out}
		e.ext(extBig, bigBytes(v))
		return u.scalar(e.buf, nil)
	case 0x8c, 'C': // SHORT_BINUNICODE, SHORT_BINBYTES
		width = 1
	case 'X', 'B': // BINUNICODE, BINBYTES
		width = 4
	case 0x8d, 0x8e, 0x96: // BINUNICODE8, BINBYTES8, BYTEARRAY8
		width = 8
	default:
		return fmt.Errorf("the pickle makes more than plain values: operation %#x", op)
	}
	data, err := u.sized(width)
	if err != nil {
		return err
	}
	if uint64(len(data)) > math.MaxUint32 {
		return errTooLong
	}
	if op == 0x8c || op == 'X' || op == 0x8d {
		return u.scalar(append(appendLength(u.out, len(data)), data...), nil)
	}
	return u.scalar(appendBytes(u.out, data), nil)
}
