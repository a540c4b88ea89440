package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"

	"github.com/vmihailenco/msgpack/v5"
)

// decoder reads values from a payload. Nothing that it makes refers to the payload's memory, which is reused.
type decoder struct {
	b       []byte
	buffers [][]byte // beside the payload
	depth   int
}

// token is the head of a msgpack value.
type token struct {
	what byte
	num  number // tokNumber
	data []byte // tokString, tokBytes, tokExt: the content
	n    int    // tokList, tokMap: items that follow
	code int8   // tokExt
}

const (
	tokNil = iota
	tokNumber
	tokString
	tokBytes
	tokList
	tokMap
	tokExt
)

// next reads the head of the next value; what a string or an extension contains is read as well.
func (d *decoder) next() (t token, err error) {
	if len(d.b) == 0 {
		return t, errTruncated
	}
	c := d.b[0]
	d.b = d.b[1:]
	switch {
	case c < 0x80:
		return token{what: tokNumber, num: number{i: int64(c)}}, nil
	case c < 0x90:
		return d.list(tokMap, uint64(c&15))
	case c < 0xa0:
		return d.list(tokList, uint64(c&15))
	case c < 0xc0:
		return d.data(tokString, uint64(c&31), 0)
	case c >= 0xe0:
		return token{what: tokNumber, num: number{i: int64(int8(c))}}, nil
	}
	switch c {
	case 0xc0:
		return token{}, nil
	case 0xc2, 0xc3:
		return token{what: tokNumber, num: number{what: isBool, i: int64(c & 1)}}, nil
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
		return token{what: tokNumber, num: number{what: isFloat, f: float64(math.Float32frombits(uint32(u)))}}, nil
	case 0xcb:
		return token{what: tokNumber, num: number{what: isFloat, f: math.Float64frombits(u)}}, nil
	case 0xd9, 0xda, 0xdb:
		return d.data(tokString, u, 0)
	case 0xdc, 0xdd:
		return d.list(tokList, u)
	case 0xde, 0xdf:
		return d.list(tokMap, u)
	case 0xd0, 0xd1, 0xd2, 0xd3: // signed
		shift := 64 - 8*width
		return token{what: tokNumber, num: number{i: int64(u<<shift) >> shift}}, nil
	}
	return token{what: tokNumber, num: unsigned(u)}, nil
}

// widths of the numbers behind a first byte.
var widths = [256]int8{
	0xc4: 1, 0xc5: 2, 0xc6: 4, 0xc7: 1, 0xc8: 2, 0xc9: 4, 0xca: 4, 0xcb: 8, 0xcc: 1, 0xcd: 2, 0xce: 4, 0xcf: 8,
	0xd0: 1, 0xd1: 2, 0xd2: 4, 0xd3: 8, 0xd9: 1, 0xda: 2, 0xdb: 4, 0xdc: 2, 0xdd: 4, 0xde: 2, 0xdf: 4,
}

// list checks that so many items can follow: each takes a byte at least, so no count makes us reserve memory that is not there.
func (d *decoder) list(what byte, n uint64) (token, error) {
	if n > uint64(len(d.b)) {
		return token{}, errTruncated
	}
	return token{what: what, n: int(n)}, nil
}

func (d *decoder) data(what byte, n uint64, head int) (t token, err error) {
	if n > uint64(len(d.b)) || int(n)+head > len(d.b) {
		return t, errTruncated
	}
	t = token{what: what, data: d.b[head : head+int(n)]}
	if head > 0 {
		t.code = int8(d.b[0])
	}
	d.b = d.b[head+int(n):]
	return t, nil
}

// skip passes over one value and returns its bytes.
func (d *decoder) skip() ([]byte, error) {
	start := d.b
	err := d.pass()
	return start[:len(start)-len(d.b)], err
}

func (d *decoder) pass() error {
	for left := 1; left > 0; left-- {
		t, err := d.next()
		if err != nil {
			return err
		}
		if left += t.n; t.what == tokMap {
			left += t.n
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

func (d *decoder) value(v reflect.Value) error { return planOf(v.Type()).dec(d, v) }

// parseArray reads the array of an extension.
func (d *decoder) parseArray(t token) (a rawArray, err error) {
	switch t.code {
	case extArray:
		if a, a.data, err = parseHead(t.data); err != nil {
			return a, err
		}
	case extBeside:
		if len(t.data) < 4 {
			return a, errTruncated
		}
		i := binary.LittleEndian.Uint32(t.data)
		if a, _, err = parseHead(t.data[4:]); err != nil {
			return a, err
		}
		if uint64(i) >= uint64(len(d.buffers)) {
			return a, fmt.Errorf("array in buffer %d of %d", i, len(d.buffers))
		}
		a.data = d.buffers[i]
	default:
		return a, fmt.Errorf("extension %d is no array", t.code)
	}
	return a, a.check()
}

func isArrayExt(t token) bool { return t.what == tokExt && (t.code == extArray || t.code == extBeside) }

func mismatch(t token, v reflect.Value) error {
	what := [...]string{"nil", "the number " + t.num.String(), fmt.Sprintf("the string %.40q", t.data), fmt.Sprintf("%d bytes", len(t.data)),
		fmt.Sprintf("a list of %d", t.n), fmt.Sprintf("a map of %d", t.n), "extension " + fmt.Sprint(t.code)}[t.what]
	if isArrayExt(t) {
		what = "an array"
		if a, err := (&decoder{buffers: [][]byte{nil}}).parseArray(t); err == nil || a.dtype != "" {
			what = fmt.Sprintf("an array of shape %v and type %s", a.shape, a.dtype)
		}
	}
	return fmt.Errorf("%s does not fit into %s", what, v.Type())
}

func makeDec(t reflect.Type) func(*decoder, reflect.Value) error {
	switch {
	case t == bigType:
		return decBig
	case t == timeType:
		return decOwn
	case t.Kind() == reflect.Struct && t.Implements(arrayInterface):
		return decArray
	case special(t):
		return decOwn
	}
	switch t.Kind() {
	case reflect.Interface:
		if t.NumMethod() == 0 {
			return decAny
		}
	case reflect.Pointer:
		return decPointer
	case reflect.String:
		return decString
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return decBytes
		}
		return decSlice
	case reflect.Array:
		return decFixed
	case reflect.Map:
		return decMap
	case reflect.Struct:
		return decStruct(t)
	}
	if isNumeric(t.Kind()) {
		return decNumber
	}
	return func(_ *decoder, v reflect.Value) error {
		return fmt.Errorf("a %s cannot come from another process", v.Type())
	}
}

// decOwn lets a type decode itself, as the msgpack package does.
func decOwn(d *decoder, v reflect.Value) error {
	b, err := d.skip()
	if err != nil {
		return err
	}
	return msgpack.Unmarshal(b, v.Addr().Interface())
}

func decNumber(d *decoder, v reflect.Value) error {
	t, err := d.next()
	switch {
	case err != nil:
		return err
	case t.what == tokNumber:
		return t.num.assign(v)
	case t.what == tokExt && t.code == extComplex && len(t.data) == 16:
		a := rawArray{dtype: "<c16", data: t.data}
		return a.at(0).assign(v)
	case isArrayExt(t): // without dimensions
		if a, err := d.parseArray(t); err != nil {
			return err
		} else if len(a.shape) == 0 {
			return a.at(0).assign(v)
		}
	}
	return mismatch(t, v)
}

func decBig(d *decoder, v reflect.Value) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	x := v.Addr().Interface().(*big.Int)
	switch {
	case t.what == tokExt && t.code == extBig:
		x.Set(bigInt(t.data))
		return nil
	case t.what == tokNumber && t.num.what == isInt:
		x.SetInt64(t.num.i)
		return nil
	case t.what == tokNumber && t.num.what == isUint:
		x.SetUint64(t.num.u)
		return nil
	}
	return mismatch(t, v)
}

func decString(d *decoder, v reflect.Value) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	if t.what != tokString {
		return mismatch(t, v)
	}
	v.SetString(string(t.data))
	return nil
}

func decBytes(d *decoder, v reflect.Value) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	switch {
	case t.what == tokBytes || t.what == tokString:
		v.SetBytes(slices.Clone(t.data))
		return nil
	case t.what == tokNil:
		v.SetZero()
		return nil
	}
	return d.slice(t, v)
}

func decPointer(d *decoder, v reflect.Value) error {
	if len(d.b) > 0 && d.b[0] == 0xc0 {
		d.b = d.b[1:]
		v.SetZero()
		return nil
	}
	p := reflect.New(v.Type().Elem())
	if err := d.nested(func() error { return d.value(p.Elem()) }); err != nil {
		return err
	}
	v.Set(p)
	return nil
}

func decSlice(d *decoder, v reflect.Value) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	return d.slice(t, v)
}

func (d *decoder) slice(t token, v reflect.Value) error {
	switch {
	case t.what == tokNil:
		v.SetZero()
		return nil
	case t.what == tokList:
		return d.items(v, t.n)
	case isArrayExt(t):
		a, err := d.parseArray(t)
		if err != nil {
			return err
		}
		return a.slices(v, t)
	}
	return mismatch(t, v)
}

// items reads n values into a new slice, which grows with what is there: an element may be larger than the byte that the list has shown.
func (d *decoder) items(v reflect.Value, n int) error {
	dec := planOf(v.Type().Elem()).dec
	s := reflect.New(v.Type()).Elem()
	s.Set(reflect.MakeSlice(v.Type(), 0, min(n, 1<<16/max(int(v.Type().Elem().Size()), 1)+1)))
	err := d.nested(func() error {
		for i := range n {
			if i == s.Cap() {
				s.Grow(1)
			}
			s.SetLen(i + 1)
			if err := dec(d, s.Index(i)); err != nil {
				return fmt.Errorf("[%d]: %w", i, err)
			}
		}
		return nil
	})
	v.Set(s)
	return err
}

// slices puts an array into slices, one inside the other for each dimension. The innermost lie side by side in one block.
func (a *rawArray) slices(v reflect.Value, t token) error {
	deep, elem := 0, v.Type()
	for elem.Kind() == reflect.Slice {
		deep, elem = deep+1, elem.Elem()
	}
	if deep != len(a.shape) || !isNumeric(elem.Kind()) && elem.Kind() != reflect.Interface {
		return mismatch(t, v)
	}
	flat := reflect.MakeSlice(reflect.SliceOf(elem), a.count(), a.count())
	if err := a.fill(flat); err != nil {
		return err
	}
	a.split(v, flat)
	return nil
}

func (a *rawArray) split(v, flat reflect.Value) {
	if len(a.shape) == 1 {
		v.Set(flat.Slice3(0, flat.Len(), flat.Len()).Convert(v.Type()))
		return
	}
	n := a.shape[0]
	s := reflect.MakeSlice(v.Type(), n, n)
	inner := rawArray{shape: a.shape[1:]}
	m := 0
	if n > 0 {
		m = flat.Len() / n
	}
	for i := range n {
		inner.split(s.Index(i), flat.Slice(i*m, (i+1)*m))
	}
	v.Set(s)
}

func decFixed(d *decoder, v reflect.Value) error {
	s := reflect.New(reflect.SliceOf(v.Type().Elem())).Elem()
	if err := d.value(s); err != nil {
		return err
	}
	if s.Len() != v.Len() {
		return fmt.Errorf("%d elements do not fit into %s", s.Len(), v.Type())
	}
	reflect.Copy(v, s)
	return nil
}

func decArray(d *decoder, v reflect.Value) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	shape, data := v.Field(0), v.Field(1)
	switch {
	case isArrayExt(t):
		a, err := d.parseArray(t)
		if err != nil {
			return err
		}
		s := reflect.MakeSlice(data.Type(), a.count(), a.count())
		if err := a.fill(s); err != nil {
			return err
		}
		shape.Set(reflect.ValueOf(a.shape))
		data.Set(s)
		return nil
	case t.what == tokList: // of numbers
		if err := d.items(data, t.n); err != nil {
			return err
		}
		shape.Set(reflect.ValueOf([]int{t.n}))
		return nil
	}
	return mismatch(t, v)
}

func decMap(d *decoder, v reflect.Value) error {
	t, err := d.next()
	if err != nil {
		return err
	}
	if t.what == tokNil {
		v.SetZero()
		return nil
	}
	if t.what != tokMap {
		return mismatch(t, v)
	}
	m := reflect.MakeMap(v.Type())
	kt, et := v.Type().Key(), v.Type().Elem()
	err = d.nested(func() error {
		for range t.n {
			k, e := reflect.New(kt).Elem(), reflect.New(et).Elem()
			if err := d.value(k); err != nil {
				return fmt.Errorf("a key: %w", err)
			}
			if !k.Comparable() {
				return fmt.Errorf("a key: %s cannot be one", k.Elem().Type())
			}
			if err := d.value(e); err != nil {
				return fmt.Errorf("[%v]: %w", k, err)
			}
			m.SetMapIndex(k, e)
		}
		return nil
	})
	v.Set(m)
	return err
}

// decStruct fills a struct from a map, by names; keys that it does not know are passed over, fields that do not come keep their zero. A
// list fills the fields in their order.
func decStruct(t reflect.Type) func(*decoder, reflect.Value) error {
	fs := fieldsOf(t)
	return func(d *decoder, v reflect.Value) error {
		t, err := d.next()
		if err != nil {
			return err
		}
		switch t.what {
		case tokMap:
			return d.nested(func() error { return d.byName(fs, v, t.n) })
		case tokList:
			if t.n != len(fs.list) {
				return fmt.Errorf("a list of %d does not fit into the %d fields of %s", t.n, len(fs.list), v.Type())
			}
			return d.nested(func() error {
				for i := range fs.list {
					if err := d.value(v.FieldByIndex(fs.list[i].index)); err != nil {
						return fmt.Errorf("%s: %w", fs.list[i].name, err)
					}
				}
				return nil
			})
		case tokNil:
			v.SetZero()
			return nil
		}
		return mismatch(t, v)
	}
}

func (d *decoder) byName(fs *fields, v reflect.Value, n int) error {
	for range n {
		k, err := d.next()
		if err != nil {
			return err
		}
		var f *field
		if k.what == tokString {
			f = fs.find(k.data)
		} else if k.n > 0 {
			return errors.New("a list or a map cannot be the name of a field")
		}
		if f == nil {
			err = d.pass()
		} else if err = f.plan().dec(d, v.FieldByIndex(f.index)); err != nil {
			err = fmt.Errorf("%s: %w", f.name, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

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
	whole := d.b
	t, err := d.next()
	if err != nil {
		return nil, err
	}
	switch t.what {
	case tokNumber:
		return t.num.value(), nil
	case tokString:
		return string(t.data), nil
	case tokBytes:
		return slices.Clone(t.data), nil
	case tokList:
		list := reflect.New(reflect.TypeFor[[]any]()).Elem()
		err = d.items(list, t.n)
		return list.Interface(), err
	case tokMap:
		err = d.nested(func() error { x, err = d.anyMap(t.n); return err })
		return x, err
	case tokExt:
		return d.anyExt(t, whole)
	}
	return nil, nil
}

func (d *decoder) anyMap(n int) (any, error) {
	named, other := make(map[string]any), map[any]any(nil)
	for range n {
		k, err := d.any()
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

func (d *decoder) anyExt(t token, whole []byte) (any, error) {
	switch t.code {
	case extComplex:
		if len(t.data) != 16 {
			return nil, errTruncated
		}
		a := rawArray{dtype: "<c16", data: t.data}
		return a.at(0).value(), nil
	case extBig:
		return bigInt(t.data), nil
	case extArray, extBeside:
		a, err := d.parseArray(t)
		if err != nil {
			return nil, err
		}
		return a.value()
	}
	var x any
	err := msgpack.Unmarshal(whole[:len(whole)-len(d.b)], &x) // a time stamp
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
