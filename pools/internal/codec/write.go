package codec

import (
	"encoding/binary"
	"math"
	"unicode/utf8"
)

// The values that payloads are made of, in both forms.

func (e *Encoder) null() {
	if e.pickle {
		e.buf = append(e.buf, 'N')
	} else {
		e.buf = append(e.buf, 0xc0)
	}
}

func (e *Encoder) bool(b bool) {
	code := byte(0xc2)
	if e.pickle {
		code = 0x89
	}
	if b {
		code ^= 1
	}
	e.buf = append(e.buf, code)
}

func (e *Encoder) int(i int64) {
	if e.pickle {
		e.buf = pickleInt(e.buf, i)
	} else {
		e.buf = appendInt(e.buf, i)
	}
}

func (e *Encoder) uint(u uint64) {
	if e.pickle {
		e.buf = pickleUint(e.buf, u)
	} else {
		e.buf = appendUint(e.buf, u)
	}
}

func (e *Encoder) float(f float64) {
	if e.pickle {
		e.buf = pickleFloat(e.buf, f)
	} else {
		e.buf = appendFloat(e.buf, f)
	}
}

// big writes an integer of any length: two's complement, little endian.
func (e *Encoder) big(b []byte) {
	if e.pickle {
		e.buf = pickleLong(e.buf, b)
	} else {
		e.ext(extBig, b)
	}
}

func (e *Encoder) number(n number) {
	switch n.what {
	case isInt:
		e.int(n.i)
	case isUint:
		e.uint(uint64(n.i))
	case isFloat:
		e.float(n.f)
	case isBool:
		e.bool(n.i != 0)
	default:
		e.complex(complex(n.f, n.im))
	}
}

func (e *Encoder) complex(c complex128) {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], math.Float64bits(real(c)))
	binary.LittleEndian.PutUint64(b[8:], math.Float64bits(imag(c)))
	e.ext(extComplex, b[:])
}

func (e *Encoder) string(s string) error {
	switch {
	case uint64(len(s)) > math.MaxUint32:
		return errTooLong
	case !e.pickle:
		e.buf = appendString(e.buf, s)
	case !utf8.ValidString(s):
		return errNotUTF8
	default:
		e.buf = pickleString(e.buf, s)
	}
	return nil
}

func (e *Encoder) bytes(b []byte) error {
	switch {
	case uint64(len(b)) > math.MaxUint32:
		return errTooLong
	case e.pickle:
		e.buf = pickleBytes(e.buf, b)
	default:
		e.buf = appendBytes(e.buf, b)
	}
	return nil
}

// beginList begins a list of n values; they and endList follow. A list that is the key of a dict is a tuple: Python has no other.
func (e *Encoder) beginList(n int) {
	switch {
	case !e.pickle:
		e.buf = appendCount(e.buf, n, 0x90, 0xdc)
	case e.keys > 0:
		e.buf = append(e.buf, '(')
	default:
		e.buf = append(e.buf, ']', '(')
	}
}

func (e *Encoder) endList() {
	switch {
	case !e.pickle:
	case e.keys > 0:
		e.buf = append(e.buf, 't')
	default:
		e.buf = append(e.buf, 'e')
	}
}

// beginMap begins a map of n pairs, key before value; they and endMap follow.
func (e *Encoder) beginMap(n int) {
	if e.pickle {
		e.buf = append(e.buf, '}', '(')
	} else {
		e.buf = appendCount(e.buf, n, 0x80, 0xde)
	}
}

func (e *Encoder) endMap() {
	if e.pickle {
		e.buf = append(e.buf, 'u')
	}
}

// array writes elements, beside the payload where that is cheaper.
func (e *Encoder) array(dtype string, shape []int, data []byte) {
	if len(data) >= outOfBand {
		if e.pickle {
			e.pickleBeside(appendHead(nil, dtype, shape))
		} else {
			head := binary.LittleEndian.AppendUint32(make([]byte, 0, 64), uint32(len(e.large)))
			e.ext(extBeside, appendHead(head, dtype, shape))
		}
		e.large = append(e.large, data)
		return
	}
	var scratch [4 + 8*maxDims + 16]byte
	head := appendHead(scratch[:0], dtype, shape)
	e.extHead(extArray, len(head)+len(data))
	e.buf = append(append(e.buf, head...), data...)
	e.endExt()
}

func (e *Encoder) ext(code int8, body []byte) {
	e.extHead(code, len(body))
	e.buf = append(e.buf, body...)
	e.endExt()
}

// extLong writes an extension in its longest form, by which a reader recognises it.
func (e *Encoder) extLong(code int8, body []byte) {
	e.buf = append(binary.BigEndian.AppendUint32(append(e.buf, 0xc9), uint32(len(body))), byte(code))
	e.buf = append(e.buf, body...)
}

// extHead begins an extension of n bytes; these and endExt follow.
func (e *Encoder) extHead(code int8, n int) {
	switch {
	case e.pickle:
		e.pickleExt(code, n)
	case n == 16:
		e.buf = append(e.buf, 0xd8, byte(code))
	case n < 1<<8:
		e.buf = append(e.buf, 0xc7, byte(n), byte(code))
	case n < 1<<16:
		e.buf = append(e.buf, 0xc8, byte(n>>8), byte(n), byte(code))
	default:
		e.buf = append(binary.BigEndian.AppendUint32(append(e.buf, 0xc9), uint32(n)), byte(code))
	}
}

func appendInt(b []byte, i int64) []byte {
	switch {
	case i >= 0:
		return appendUint(b, uint64(i))
	case i >= -32:
		return append(b, byte(i))
	case i >= math.MinInt8:
		return append(b, 0xd0, byte(i))
	case i >= math.MinInt16:
		return append(b, 0xd1, byte(i>>8), byte(i))
	case i >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(b, 0xd2), uint32(i))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(i))
}

func appendUint(b []byte, u uint64) []byte {
	switch {
	case u < 128:
		return append(b, byte(u))
	case u < 1<<8:
		return append(b, 0xcc, byte(u))
	case u < 1<<16:
		return append(b, 0xcd, byte(u>>8), byte(u))
	case u < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, 0xce), uint32(u))
	}
	return binary.BigEndian.AppendUint64(append(b, 0xcf), u)
}

func appendFloat(b []byte, f float64) []byte {
	return binary.BigEndian.AppendUint64(append(b, 0xcb), math.Float64bits(f))
}

func appendString(b []byte, s string) []byte { return append(appendLength(b, len(s)), s...) }

// appendLength begins a string of n bytes.
func appendLength(b []byte, n int) []byte {
	switch {
	case n < 32:
		return append(b, 0xa0|byte(n))
	case n < 1<<8:
		return append(b, 0xd9, byte(n))
	case n < 1<<16:
		return append(b, 0xda, byte(n>>8), byte(n))
	}
	return binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(n))
}

func appendBytes(b, s []byte) []byte {
	switch n := len(s); {
	case n < 1<<8:
		b = append(b, 0xc4, byte(n))
	case n < 1<<16:
		b = append(b, 0xc5, byte(n>>8), byte(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0xc6), uint32(n))
	}
	return append(b, s...)
}

// appendCount begins an array (0x90, 0xdc) or a map (0x80, 0xde).
func appendCount(b []byte, n int, short, long byte) []byte {
	switch {
	case n < 16:
		return append(b, short|byte(n))
	case n < 1<<16:
		return append(b, long, byte(n>>8), byte(n))
	}
	return binary.BigEndian.AppendUint32(append(b, long+1), uint32(n))
}
