package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"

	"github.com/vmihailenco/msgpack/v5"
)

// The msgpack extensions; docs/PROTOCOL.md, "Values between languages".
const (
	extArray   = 1 // head and elements
	extBeside  = 2 // u32 place in the buffer table, head: the elements lie beside the payload
	extComplex = 3 // two float64
	extBig     = 4 // an integer beyond 64 bits
	extFailed  = 5 // an error record in the place of a result
)

const (
	outOfBand = 64 << 10 // from here on a table entry costs less than the second copy; as in _payload.py
	maxDepth  = 1000     // of values in values: a pointer that leads back to itself ends here
)

var errTooLong = errors.New("msgpack has no strings, bytes, lists or maps of 4 GiB and more: use a numeric slice")

// Encoder collects the payload of one chunk. The zero value is ready.
type Encoder struct {
	buf   []byte
	large [][]byte // beside the payload, in the order of their numbers; memory of the caller's
	depth int
}

func (e *Encoder) value(v reflect.Value) error { return planOf(v.Type()).enc(e, v) }

func (e *Encoder) nested(f func() error) error {
	if e.depth++; e.depth > maxDepth {
		return fmt.Errorf("values are nested more than %d deep: a pointer that leads back to itself?", maxDepth)
	}
	err := f()
	e.depth--
	return err
}

func makeEnc(t reflect.Type) func(*Encoder, reflect.Value) error {
	switch {
	case t == timeType:
		return encOwn
	case t == bigType:
		return func(e *Encoder, v reflect.Value) error {
			b := v.Interface().(big.Int)
			e.ext(extBig, bigBytes(&b))
			return nil
		}
	case t.Kind() == reflect.Struct && t.Implements(arrayInterface):
		return encArray
	case special(t):
		return encOwn
	}
	switch k := t.Kind(); k {
	case reflect.Bool:
		return func(e *Encoder, v reflect.Value) error { e.bool(v.Bool()); return nil }
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return func(e *Encoder, v reflect.Value) error { e.buf = appendInt(e.buf, v.Int()); return nil }
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return func(e *Encoder, v reflect.Value) error { e.buf = appendUint(e.buf, v.Uint()); return nil }
	case reflect.Float32, reflect.Float64:
		return func(e *Encoder, v reflect.Value) error { e.buf = appendFloat(e.buf, v.Float()); return nil }
	case reflect.Complex64, reflect.Complex128:
		return func(e *Encoder, v reflect.Value) error { e.complex(v.Complex()); return nil }
	case reflect.String:
		return func(e *Encoder, v reflect.Value) error {
			if uint64(v.Len()) > math.MaxUint32 {
				return errTooLong
			}
			e.buf = appendString(e.buf, v.String())
			return nil
		}
	case reflect.Pointer, reflect.Interface:
		return encRef
	case reflect.Slice:
		switch elem := t.Elem(); {
		case elem.Kind() == reflect.Uint8:
			return func(e *Encoder, v reflect.Value) error {
				if uint64(v.Len()) > math.MaxUint32 {
					return errTooLong
				}
				e.buf = appendBytes(e.buf, v.Bytes())
				return nil
			}
		case isNumeric(elem.Kind()) && !special(elem):
			return func(e *Encoder, v reflect.Value) error {
				e.array(dtypes[elem.Kind()], []int{v.Len()}, bytesOf(v))
				return nil
			}
		case elem.Kind() == reflect.Slice && isNumeric(elem.Elem().Kind()) && elem.Elem().Kind() != reflect.Uint8 && !special(elem.Elem()):
			return encRows
		}
		return encList
	case reflect.Array:
		return encList
	case reflect.Map:
		return encMap
	case reflect.Struct:
		return encStruct(t)
	}
	return func(_ *Encoder, v reflect.Value) error {
		return fmt.Errorf("a %s cannot travel to another process", v.Type())
	}
}

// encOwn lets a type encode itself, as the msgpack package does.
func encOwn(e *Encoder, v reflect.Value) error {
	if v.CanAddr() { // its methods may be those of the pointer
		v = v.Addr()
	} else {
		p := reflect.New(v.Type())
		p.Elem().Set(v)
		v = p
	}
	b, err := msgpack.Marshal(v.Interface())
	e.buf = append(e.buf, b...)
	return err
}

func encRef(e *Encoder, v reflect.Value) error {
	if v.IsNil() {
		e.buf = append(e.buf, 0xc0)
		return nil
	}
	return e.nested(func() error { return e.value(v.Elem()) })
}

func encList(e *Encoder, v reflect.Value) error {
	e.buf = appendCount(e.buf, v.Len(), 0x90, 0xdc)
	enc := planOf(v.Type().Elem()).enc
	return e.nested(func() error {
		for i := range v.Len() {
			if err := enc(e, v.Index(i)); err != nil {
				return err
			}
		}
		return nil
	})
}

// encRows makes a 2-D array of slices of one length, and a list of arrays of others.
func encRows(e *Encoder, v reflect.Value) error {
	if v.Len() == 0 {
		return encList(e, v)
	}
	cols := v.Index(0).Len()
	for i := range v.Len() {
		if v.Index(i).Len() != cols {
			return encList(e, v)
		}
	}
	size := int(v.Type().Elem().Elem().Size())
	data := make([]byte, 0, v.Len()*cols*size)
	for i := range v.Len() {
		data = append(data, bytesOf(v.Index(i))...)
	}
	e.array(dtypes[v.Type().Elem().Elem().Kind()], []int{v.Len(), cols}, data)
	return nil
}

func encArray(e *Encoder, v reflect.Value) error {
	shape, data := v.Field(0).Interface().([]int), v.Field(1)
	n := 1
	for _, s := range shape {
		if s < 0 {
			return fmt.Errorf("array of the negative shape %v", shape)
		}
		n *= s
	}
	if shape == nil { // a flat one need not say so
		shape, n = []int{data.Len()}, data.Len()
	}
	if n != data.Len() || len(shape) > maxDims {
		return fmt.Errorf("array of shape %v with %d elements", shape, data.Len())
	}
	e.array(dtypes[data.Type().Elem().Kind()], shape, bytesOf(data))
	return nil
}

func encMap(e *Encoder, v reflect.Value) error {
	e.buf = appendCount(e.buf, v.Len(), 0x80, 0xde)
	key, elem := planOf(v.Type().Key()).enc, planOf(v.Type().Elem()).enc
	return e.nested(func() error {
		for it := v.MapRange(); it.Next(); {
			if err := errors.Join(key(e, it.Key()), elem(e, it.Value())); err != nil {
				return err
			}
		}
		return nil
	})
}

func encStruct(t reflect.Type) func(*Encoder, reflect.Value) error {
	fs := fieldsOf(t)
	optional := false
	for _, f := range fs.list {
		optional = optional || f.omitEmpty
	}
	return func(e *Encoder, v reflect.Value) error {
		n := len(fs.list)
		if optional {
			for i := range fs.list {
				if fs.list[i].omitEmpty && v.FieldByIndex(fs.list[i].index).IsZero() {
					n--
				}
			}
		}
		e.buf = appendCount(e.buf, n, 0x80, 0xde)
		return e.nested(func() error {
			for i := range fs.list {
				f := &fs.list[i]
				x := v.FieldByIndex(f.index)
				if f.omitEmpty && x.IsZero() {
					continue
				}
				e.buf = appendString(e.buf, f.name)
				if err := f.plan().enc(e, x); err != nil {
					return fmt.Errorf("%s: %w", f.name, err)
				}
			}
			return nil
		})
	}
}

func (e *Encoder) bool(b bool) {
	if b {
		e.buf = append(e.buf, 0xc3)
	} else {
		e.buf = append(e.buf, 0xc2)
	}
}

func (e *Encoder) complex(c complex128) {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], math.Float64bits(real(c)))
	binary.LittleEndian.PutUint64(b[8:], math.Float64bits(imag(c)))
	e.ext(extComplex, b[:])
}

// array writes elements, beside the payload where that is cheaper.
func (e *Encoder) array(dtype string, shape []int, data []byte) {
	if len(data) >= outOfBand {
		head := binary.LittleEndian.AppendUint32(make([]byte, 0, 64), uint32(len(e.large)))
		e.ext(extBeside, appendHead(head, dtype, shape))
		e.large = append(e.large, data)
		return
	}
	var scratch [4 + 8*maxDims + 16]byte
	head := appendHead(scratch[:0], dtype, shape)
	e.extHead(extArray, len(head)+len(data))
	e.buf = append(append(e.buf, head...), data...)
}

func (e *Encoder) ext(code byte, body []byte) {
	e.extHead(code, len(body))
	e.buf = append(e.buf, body...)
}

// extLong writes an extension in its longest form, by which a reader recognises it.
func (e *Encoder) extLong(code byte, body []byte) {
	e.buf = append(binary.BigEndian.AppendUint32(append(e.buf, 0xc9), uint32(len(body))), code)
	e.buf = append(e.buf, body...)
}

func (e *Encoder) extHead(code byte, n int) {
	switch {
	case n == 16:
		e.buf = append(e.buf, 0xd8, code)
	case n < 1<<8:
		e.buf = append(e.buf, 0xc7, byte(n), code)
	case n < 1<<16:
		e.buf = append(e.buf, 0xc8, byte(n>>8), byte(n), code)
	default:
		e.buf = append(binary.BigEndian.AppendUint32(append(e.buf, 0xc9), uint32(n)), code)
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
