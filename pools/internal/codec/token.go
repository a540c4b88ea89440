package codec

import (
	"fmt"
	"math"
	"reflect"
	"unsafe"
)

// decoder reads values from a payload. Nothing that it makes refers to the payload's memory, which is reused.
type decoder struct {
	b       []byte   // msgpack that is still to come
	tree    *tree    // of a pickle, in the place of b
	buffers [][]byte // beside the payload
	depth   int
	names   map[string]any // keys of maps, see name
}

// token is the head of a value. The compiler keeps structs of four fields and 32 bytes in registers; larger ones go through memory, which
// took as long as everything else that is done with a number.
type token struct {
	what  byte
	kind  uint8 // tokNumber: its numberKind; tokExt: the code
	n     int64 // tokNumber: its bits; tokList, tokMap: items that follow; else the length of the content
	first *byte // tokString, tokBytes, tokExt: the content
}

func numberToken(what numberKind, bits uint64) token {
	return token{what: tokNumber, kind: uint8(what), n: int64(bits)}
}

func dataToken(what byte, kind uint8, data []byte) token {
	return token{what, kind, int64(len(data)), unsafe.SliceData(data)}
}

func (t token) is(what numberKind) bool { return t.what == tokNumber && numberKind(t.kind) == what }
func (t token) float() float64          { return math.Float64frombits(uint64(t.n)) }
func (t token) code() int8              { return int8(t.kind) }
func (t token) len() int                { return int(t.n) }
func (t token) data() []byte            { return unsafe.Slice(t.first, t.n) }

func (t token) num() number {
	if numberKind(t.kind) == isFloat {
		return number{what: isFloat, f: t.float()}
	}
	return number{what: numberKind(t.kind), i: t.n}
}

// next reads the head of the next value; what a string or an extension contains is read as well.
func (d *decoder) next() (t token, err error) {
	if d.tree != nil {
		return d.tree.next()
	}
	return d.head()
}

// head is next in msgpack.
func (d *decoder) head() (t token, err error) {
	if len(d.b) == 0 {
		return t, errTruncated
	}
	c := d.b[0]
	d.b = d.b[1:]
	switch {
	case c < 0x80:
		return numberToken(isInt, uint64(c)), nil
	case c < 0x90:
		return d.list(tokMap, uint64(c&15))
	case c < 0xa0:
		return d.list(tokList, uint64(c&15))
	case c < 0xc0:
		return d.data(tokString, uint64(c&31), 0)
	case c >= 0xe0:
		return numberToken(isInt, uint64(int8(c))), nil
	}
	switch c {
	case 0xc0:
		return token{}, nil
	case 0xc2, 0xc3:
		return numberToken(isBool, uint64(c&1)), nil
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8: // extensions of 1, 2, 4, 8, 16 bytes
		return d.data(tokExt, 1<<(c-0xd4), 1)
	}
	width := int(widths[c])
	if width == 0 {
		return t, fmt.Errorf("the byte %#x begins no msgpack value", c)
	}
	if len(d.b) < width {
		return t, errTruncated
	}
	var u uint64
	for _, x := range d.b[:width] {
		u = u<<8 | uint64(x)
	}
	d.b = d.b[width:]
	switch c {
	case 0xc4, 0xc5, 0xc6:
		return d.data(tokBytes, u, 0)
	case 0xc7, 0xc8, 0xc9:
		return d.data(tokExt, u, 1)
	case 0xca:
		return numberToken(isFloat, math.Float64bits(float64(math.Float32frombits(uint32(u))))), nil
	case 0xcb:
		return numberToken(isFloat, u), nil
	case 0xd9, 0xda, 0xdb:
		return d.data(tokString, u, 0)
	case 0xdc, 0xdd:
		return d.list(tokList, u)
	case 0xde, 0xdf:
		return d.list(tokMap, u)
	case 0xd0, 0xd1, 0xd2, 0xd3: // signed
		shift := 64 - 8*width
		return numberToken(isInt, uint64(int64(u<<shift)>>shift)), nil
	}
	return numberToken(unsigned(u).what, u), nil
}

// list checks that so many items can follow: each takes a byte at least, so no count makes us reserve memory that is not there.
func (d *decoder) list(what byte, n uint64) (token, error) {
	if n > uint64(len(d.b)) {
		return token{}, errTruncated
	}
	return token{what: what, n: int64(n)}, nil
}

func (d *decoder) data(what byte, n uint64, head int) (t token, err error) {
	if n > uint64(len(d.b)) || int(n)+head > len(d.b) {
		return t, errTruncated
	}
	kind := uint8(0)
	if head > 0 {
		kind = d.b[0]
	}
	t = dataToken(what, kind, d.b[head:head+int(n)])
	d.b = d.b[head+int(n):]
	return t, nil
}

// skip passes over one value and returns it as msgpack.
func (d *decoder) skip() ([]byte, error) {
	if d.tree != nil {
		e := Encoder{depth: d.depth}
		err := e.copy(d)
		return e.buf, err
	}
	start := d.b
	err := d.pass()
	return start[:len(start)-len(d.b)], err
}

// null passes over the next value if it is nil, and says whether it was.
func (d *decoder) null() bool {
	if d.tree != nil {
		o := d.tree.peek()
		if o == nil || o.what != tokNil {
			return false
		}
		_, err := d.tree.next()
		return err == nil
	}
	if len(d.b) == 0 || d.b[0] != 0xc0 {
		return false
	}
	d.b = d.b[1:]
	return true
}

// pass passes over one value.
func (d *decoder) pass() error {
	if d.tree != nil {
		return d.tree.pass()
	}
	for left := 1; left > 0; left-- {
		t, err := d.head()
		if err != nil {
			return err
		}
		switch t.what {
		case tokList:
			left += t.len()
		case tokMap:
			left += 2 * t.len()
		}
	}
	return nil
}

func (d *decoder) nested(f func() error) error {
	if d.depth++; d.depth > maxDepth {
		return fmt.Errorf("values are nested more than %d deep", maxDepth)
	}
	err := f()
	d.depth--
	return err
}

func isArrayExt(t token) bool {
	return t.what == tokExt && (t.code() == extArray || t.code() == extBeside)
}

func mismatch(t token, v reflect.Value) error {
	what := "nil"
	switch t.what {
	case tokNumber:
		what = "the number " + t.num().String()
	case tokString:
		what = fmt.Sprintf("the string %.40q", t.data())
	case tokBytes:
		what = fmt.Sprintf("%d bytes", t.len())
	case tokList:
		what = fmt.Sprintf("a list of %d", t.len())
	case tokMap:
		what = fmt.Sprintf("a map of %d", t.len())
	case tokExt:
		what = fmt.Sprint("extension ", t.code())
	}
	if isArrayExt(t) {
		what = "an array"
		if a, err := (&decoder{buffers: [][]byte{nil}}).parseArray(t); err == nil || a.dtype != "" {
			what = fmt.Sprintf("an array of shape %v and type %s", a.shape, a.dtype)
		}
	}
	return fmt.Errorf("%s does not fit into %s", what, v.Type())
}
