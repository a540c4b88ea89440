package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"unsafe"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// Payload is the encoded values of one chunk.
type Payload struct {
	Kind   wire.Kind
	Inband []byte
	Large  [][]byte // beside it, in the order of the buffer table
}

// ItemError is a value of a chunk that could not be encoded.
type ItemError struct {
	Index int // in the chunk
	Err   error
}

func (e *ItemError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *ItemError) Unwrap() error { return e.Err }

// smallSlice and slab are the limits up to which equal slices travel side by side, as in _payload.py.
const (
	smallSlice = 4 << 10
	slab       = 64 << 10
)

// Encode encodes the values of a chunk; there is one at least. In the place of some stand error records. The payload is valid until the
// next call, and refers to large slices of the values. An error is an *ItemError.
func Encode[T any](e *Encoder, values []T, failed map[int][]byte) (Payload, error) {
	e.buf, e.large, e.depth, e.keys = e.buf[:0], e.large[:0], 0, 0
	if len(failed) == 0 {
		if p, ok := fast(e, values); ok {
			return p, nil
		}
	}
	v := reflect.ValueOf(values)
	if e.Python && len(failed) == 0 {
		e.startPickle()
		err := e.chunk(v, nil)
		p := e.endPickle()
		if !errors.Is(err, errNotUTF8) {
			return p, err
		}
		e.buf, e.large, e.keys = e.buf[:0], e.large[:0], 0
	}
	err := e.chunk(v, failed)
	return Payload{Kind: wire.MsgpackList, Inband: e.buf, Large: e.large}, err
}

// chunk writes the values of a slice, one behind the other.
func (e *Encoder) chunk(v reflect.Value, failed map[int][]byte) error {
	enc := planOf(v.Type().Elem()).enc
	for i := range v.Len() {
		if record, bad := failed[i]; bad {
			e.extLong(extFailed, record)
			continue
		}
		e.depth = 0
		if err := enc(e, v.Index(i)); err != nil {
			return &ItemError{i, err}
		}
	}
	return nil
}

// fast encodes the types that have a form of their own.
func fast[T any](e *Encoder, values []T) (Payload, bool) {
	switch v := any(values).(type) {
	case []float64:
		return Payload{Kind: wire.Floats, Inband: bytesOf(reflect.ValueOf(v))}, true
	case []int:
		return Payload{Kind: wire.Ints, Inband: bytesOf(reflect.ValueOf(v))}, true
	case []int64:
		return Payload{Kind: wire.Ints, Inband: bytesOf(reflect.ValueOf(v))}, true
	case [][]float64:
		if e.slab(v) {
			return Payload{Kind: wire.Slab, Inband: e.buf}, true
		}
	}
	return Payload{}, false
}

// slab packs equal small slices side by side.
func (e *Encoder) slab(rows [][]float64) bool {
	n := len(rows[0])
	if len(rows) < 2 || n == 0 || 8*n > smallSlice || 8*n*len(rows) > slab {
		return false
	}
	for _, r := range rows {
		if len(r) != n {
			return false
		}
	}
	e.buf = appendHead(e.buf, "<f8", []int{len(rows), n})
	for _, r := range rows {
		e.buf = append(e.buf, unsafe.Slice((*byte)(unsafe.Pointer(&r[0])), 8*n)...)
	}
	return true
}

// Decode fills values from the payload of a chunk with as many. bad is called for each value that cannot be had: with the error record
// that stands in its place, or with the error of decoding it. What Decode returns is wrong with the payload as a whole.
func Decode[T any](p Payload, values []T, bad func(i int, record []byte, err error)) error {
	b := p.Inband
	switch p.Kind {
	case wire.Floats, wire.NumpyFloats, wire.Ints:
		if len(b) != 8*len(values) {
			return fmt.Errorf("%d bytes for %d numbers", len(b), len(values))
		}
		words(p.Kind, b, values, bad)
		return nil
	case wire.Slab, wire.ArrayRows:
		a, rest, err := parseHead(b)
		if err != nil {
			return err
		}
		a.data = rest
		if err := a.check(); err != nil {
			return err
		}
		if len(a.shape) == 0 || a.shape[0] != len(values) {
			return fmt.Errorf("an array of shape %v for %d values", a.shape, len(values))
		}
		for i := range values {
			if err := a.into(i, reflect.ValueOf(&values[i]).Elem()); err != nil {
				bad(i, nil, err)
			}
		}
		return nil
	case wire.PickleList:
		u, n, err := unpickle(b)
		if err != nil {
			return err
		}
		defer u.release()
		if n != len(values) {
			return fmt.Errorf("a pickle of %d values where there should be %d", n, len(values))
		}
		return decodeList(&decoder{tree: &u.tree, buffers: p.Large}, values, bad)
	case wire.MsgpackList:
		return decodeList(&decoder{b: b, buffers: p.Large}, values, bad)
	}
	return fmt.Errorf("payload of kind %v: only Python can read it", p.Kind)
}

func words[T any](kind wire.Kind, b []byte, values []T, bad func(i int, record []byte, err error)) {
	switch v := any(values).(type) {
	case []float64:
		if kind != wire.Ints {
			copy(bytesOf(reflect.ValueOf(v)), b)
			return
		}
	case []int64:
		if kind == wire.Ints {
			copy(bytesOf(reflect.ValueOf(v)), b)
			return
		}
	case []int:
		if kind == wire.Ints {
			copy(bytesOf(reflect.ValueOf(v)), b)
			return
		}
	}
	for i := range values {
		w := binary.LittleEndian.Uint64(b[8*i:])
		n := number{i: int64(w)}
		if kind != wire.Ints {
			n = number{what: isFloat, f: math.Float64frombits(w)}
		}
		if err := n.assign(reflect.ValueOf(&values[i]).Elem()); err != nil {
			bad(i, nil, err)
		}
	}
}

// into puts row i of an array where a value is wanted.
func (a *rawArray) into(i int, v reflect.Value) error {
	r := a.row(i)
	head := appendHead(make([]byte, 0, 64), r.dtype, r.shape)
	// By way of the general decoder: as an array that stands alone.
	d := decoder{buffers: [][]byte{r.data}}
	var e Encoder
	e.ext(extBeside, append([]byte{0, 0, 0, 0}, head...))
	d.b = e.buf
	return d.value(v)
}

func decodeList[T any](d *decoder, values []T, bad func(i int, record []byte, err error)) error {
	dec := planOf(reflect.TypeFor[T]()).dec
	for i := range values {
		d.depth = 0
		start := d.place()
		if d.failure() {
			t, err := d.next()
			if err != nil {
				return err
			}
			bad(i, t.data(), nil)
			continue
		}
		if err := dec(d, reflect.ValueOf(&values[i]).Elem()); err != nil {
			if errors.Is(err, errTruncated) || errors.Is(err, errUnpickled) {
				return err
			}
			// The others are fine: go on behind it.
			d.back(start)
			if failure := d.pass(); failure != nil {
				return failure
			}
			var nothing T
			values[i] = nothing // not half of it
			bad(i, nil, err)
		}
	}
	if len(d.b) > 0 {
		return fmt.Errorf("%d bytes behind the last of %d values", len(d.b), len(values))
	}
	return nil
}

// failure recognises an error record, which in msgpack both sides write in the longest form of an extension.
func (d *decoder) failure() bool {
	if d.tree != nil {
		o := d.tree.peek()
		return o != nil && o.what == tokExt && o.kind == extFailed
	}
	return len(d.b) > 5 && d.b[0] == 0xc9 && d.b[5] == extFailed
}

// place is where the next value of the chunk begins.
func (d *decoder) place() place {
	if d.tree != nil {
		return place{next: d.tree.frames[0].next}
	}
	return place{b: d.b}
}

type place struct {
	b    []byte
	next uint64
}

// back goes to where a value of the chunk begins.
func (d *decoder) back(p place) {
	d.b = p.b
	if d.tree != nil {
		d.tree.frames = d.tree.frames[:1]
		d.tree.frames[0].next = p.next
	}
}

// EncodeOne and DecodeOne are for single values, such as error records.
func EncodeOne(v any) ([]byte, error) {
	var e Encoder
	if err := e.value(reflect.ValueOf(&v).Elem()); err != nil {
		return nil, err
	}
	return e.buf, nil
}

// DecodeOne reads what EncodeOne has written into the value that v points to.
func DecodeOne(b []byte, v any) error {
	d := decoder{b: b}
	if err := d.value(reflect.ValueOf(v).Elem()); err != nil {
		return err
	}
	if len(d.b) > 0 {
		return fmt.Errorf("%d bytes behind the value", len(d.b))
	}
	return nil
}
