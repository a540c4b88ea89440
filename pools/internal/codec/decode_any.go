package codec

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/vmihailenco/msgpack/v5"
)

// decAny chooses the type: bool, int64 (uint64 beyond its range), float64, complex128, string, []byte, []any, map[string]any (map[any]any
// where a key is no string), time.Time, *big.Int; arrays become slices of their type ([]float64), with more dimensions Array[float64].
func decAny(d *decoder, v reflect.Value) error {
	x, err := d.any()
	if err != nil {
		return err
	}
	if x == nil {
		v.SetZero()
	} else {
		v.Set(reflect.ValueOf(x))
	}
	return nil
}

func (d *decoder) any() (x any, err error) {
	start := d.b
	t, err := d.next()
	if err != nil {
		return nil, err
	}
	return d.anyOf(t, start)
}

// anyOf is the value that begins with a token; start is where in msgpack that stands.
func (d *decoder) anyOf(t token, start []byte) (x any, err error) {
	switch t.what {
	case tokNumber:
		return t.num().value(), nil
	case tokString:
		return string(t.data()), nil
	case tokBytes:
		return slices.Clone(t.data()), nil
	case tokList:
		err = d.nested(func() error { x, err = d.anys(t.len()); return err })
		return x, err
	case tokMap:
		err = d.nested(func() error { x, err = d.anyMap(t.len()); return err })
		return x, err
	case tokExt:
		return d.anyExt(t, start)
	}
	return nil, nil
}

// anys reads n values.
func (d *decoder) anys(n int) ([]any, error) {
	s := make([]any, 0, min(n, 1<<12))
	for i := range n {
		x, err := d.any()
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		s = append(s, x)
	}
	return s, nil
}

func (d *decoder) anyMap(n int) (any, error) {
	named, other := make(map[string]any, min(n, 1<<12)), map[any]any(nil)
	for range n {
		k, err := d.anyKey()
		if err != nil {
			return nil, err
		}
		if k != nil && !reflect.TypeOf(k).Comparable() {
			return nil, fmt.Errorf("a key: %T cannot be one", k)
		}
		e, err := d.any()
		if err != nil {
			return nil, fmt.Errorf("[%v]: %w", k, err)
		}
		if s, ok := k.(string); ok && other == nil {
			named[s] = e
			continue
		}
		if other == nil {
			other = make(map[any]any)
			for s, e := range named {
				other[s] = e
			}
		}
		other[k] = e
	}
	if other != nil {
		return other, nil
	}
	return named, nil
}

// anyKey reads the key of a map. Records have the same few: they share their text.
func (d *decoder) anyKey() (any, error) {
	start := d.b
	t, err := d.next()
	if err != nil {
		return nil, err
	}
	if t.what == tokString {
		return d.name(t.data()), nil
	}
	return d.anyOf(t, start)
}

// name is a key as a string, one that it has made before where there is one. A few hundred short ones are kept until the chunk is decoded.
func (d *decoder) name(b []byte) any {
	if x, ok := d.names[string(b)]; ok {
		return x
	}
	x := any(string(b))
	if len(b) <= 64 && len(d.names) < 512 {
		if d.names == nil {
			d.names = make(map[string]any)
		}
		d.names[x.(string)] = x
	}
	return x
}

func (d *decoder) anyExt(t token, start []byte) (any, error) {
	switch t.code() {
	case extComplex:
		if len(t.data()) != 16 {
			return nil, errTruncated
		}
		a := rawArray{dtype: "<c16", data: t.data()}
		return a.at(0).value(), nil
	case extBig:
		return bigInt(t.data()), nil
	case extArray, extBeside:
		a, err := d.parseArray(t)
		if err != nil {
			return nil, err
		}
		return a.value()
	}
	var x any
	b := start[:len(start)-len(d.b)]
	if d.tree != nil {
		var e Encoder
		e.ext(t.code(), t.data())
		b = e.buf
	}
	err := msgpack.Unmarshal(b, &x) // a time stamp
	return x, err
}

// value is the array in the Go type nearest to its own.
func (a *rawArray) value() (any, error) {
	if len(a.shape) == 0 {
		return a.at(0).value(), nil
	}
	s := reflect.MakeSlice(reflect.SliceOf(elements[a.dtype]), a.count(), a.count())
	if err := a.fill(s); err != nil {
		return nil, err
	}
	if len(a.shape) == 1 {
		return s.Interface(), nil
	}
	switch data := s.Interface().(type) {
	case []bool:
		return Array[bool]{a.shape, data}, nil
	case []int8:
		return Array[int8]{a.shape, data}, nil
	case []int16:
		return Array[int16]{a.shape, data}, nil
	case []int32:
		return Array[int32]{a.shape, data}, nil
	case []int64:
		return Array[int64]{a.shape, data}, nil
	case []uint8:
		return Array[uint8]{a.shape, data}, nil
	case []uint16:
		return Array[uint16]{a.shape, data}, nil
	case []uint32:
		return Array[uint32]{a.shape, data}, nil
	case []uint64:
		return Array[uint64]{a.shape, data}, nil
	case []float32:
		return Array[float32]{a.shape, data}, nil
	case []float64:
		return Array[float64]{a.shape, data}, nil
	case []complex64:
		return Array[complex64]{a.shape, data}, nil
	}
	return Array[complex128]{a.shape, s.Interface().([]complex128)}, nil
}
