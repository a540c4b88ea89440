package codec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"slices"

	"github.com/vmihailenco/msgpack/v5"
)

const (
	tokNil = iota
	tokNumber
	tokString
	tokBytes
	tokList
	tokMap
	tokExt
)

// widths of the numbers behind a first byte.
var widths = [256]int8{
	0xc4: 1, 0xc5: 2, 0xc6: 4, 0xc7: 1, 0xc8: 2, 0xc9: 4, 0xca: 4, 0xcb: 8, 0xcc: 1, 0xcd: 2, 0xce: 4, 0xcf: 8,
	0xd0: 1, 0xd1: 2, 0xd2: 4, 0xd3: 8, 0xd9: 1, 0xda: 2, 0xdb: 4, 0xdc: 2, 0xdd: 4, 0xde: 2, 0xdf: 4,
}

func (d *decoder) value(v reflect.Value) error { return planOf(v.Type()).dec(d, v) }

// parseArray reads the array of an extension.
func (d *decoder) parseArray(t token) (a rawArray, err error) {
	switch t.code() {
	case extArray:
		if a, a.data, err = parseHead(t.data()); err != nil {
			return a, err
		}
	case extBeside:
		if len(t.data()) < 4 {
			return a, errTruncated
		}
		i := binary.LittleEndian.Uint32(t.data())
		if a, _, err = parseHead(t.data()[4:]); err != nil {
			return a, err
		}
		if uint64(i) >= uint64(len(d.buffers)) {
			return a, fmt.Errorf("array in buffer %d of %d", i, len(d.buffers))
		}
		a.data = d.buffers[i]
	default:
		return a, fmt.Errorf("extension %d is no array", t.code())
	}
	return a, a.check()
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
			return decBytes(t)
		}
		return decSlice(t)
	case reflect.Array:
		return decFixed
	case reflect.Map:
		return decMap(t)
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
	if err != nil {
		return err
	}
	return d.number(t, v)
}

func (d *decoder) number(t token, v reflect.Value) error {
	switch {
	case t.what == tokNumber:
		return t.num().assign(v)
	case t.what == tokExt && t.code() == extComplex && len(t.data()) == 16:
		a := rawArray{dtype: "<c16", data: t.data()}
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
	case t.what == tokExt && t.code() == extBig:
		x.Set(bigInt(t.data()))
		return nil
	case t.is(isInt):
		x.SetInt64(t.n)
		return nil
	case t.is(isUint):
		x.SetUint64(uint64(t.n))
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
	v.SetString(string(t.data()))
	return nil
}

func decBytes(t reflect.Type) func(*decoder, reflect.Value) error {
	elem := &lazy{t: t.Elem()}
	return func(d *decoder, v reflect.Value) error {
		t, err := d.next()
		if err != nil {
			return err
		}
		if t.what == tokBytes || t.what == tokString {
			v.SetBytes(slices.Clone(t.data()))
			return nil
		}
		return d.slice(t, v, elem)
	}
}

func decPointer(d *decoder, v reflect.Value) error {
	if d.null() {
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

func decSlice(t reflect.Type) func(*decoder, reflect.Value) error {
	elem := &lazy{t: t.Elem()}
	return func(d *decoder, v reflect.Value) error {
		t, err := d.next()
		if err != nil {
			return err
		}
		return d.slice(t, v, elem)
	}
}

func (d *decoder) slice(t token, v reflect.Value, elem *lazy) error {
	switch {
	case t.what == tokNil:
		v.SetZero()
		return nil
	case t.what == tokList:
		return d.items(v, t.len(), elem)
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
func (d *decoder) items(v reflect.Value, n int, elem *lazy) error {
	switch s := v.Addr().Interface().(type) {
	case *[]any:
		return d.nested(func() (err error) { *s, err = d.anys(n); return err })
	case *[]float64:
		return d.floats(s, n)
	}
	dec := elem.plan().dec
	v.Set(reflect.MakeSlice(v.Type(), 0, min(n, 1<<16/max(int(elem.t.Size()), 1)+1)))
	return d.nested(func() error {
		for i := range n {
			if i == v.Cap() {
				v.Grow(1)
			}
			v.SetLen(i + 1)
			if err := dec(d, v.Index(i)); err != nil {
				return fmt.Errorf("[%d]: %w", i, err)
			}
		}
		return nil
	})
}

// floats reads n numbers.
func (d *decoder) floats(s *[]float64, n int) error {
	*s = make([]float64, 0, min(n, 1<<13))
	for i := range n {
		t, err := d.next()
		if err == nil && t.is(isFloat) {
			*s = append(*s, t.float())
			continue
		}
		var x float64
		if err == nil {
			err = d.number(t, reflect.ValueOf(&x).Elem())
		}
		if err != nil {
			return fmt.Errorf("[%d]: %w", i, err)
		}
		*s = append(*s, x)
	}
	return nil
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
		if err := d.items(data, t.len(), &lazy{t: data.Type().Elem()}); err != nil {
			return err
		}
		shape.Set(reflect.ValueOf([]int{t.len()}))
		return nil
	}
	return mismatch(t, v)
}

func decMap(t reflect.Type) func(*decoder, reflect.Value) error {
	key, elem := &lazy{t: t.Key()}, &lazy{t: t.Elem()}
	return func(d *decoder, v reflect.Value) error {
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
		v.Set(reflect.MakeMap(v.Type()))
		return d.nested(func() error { return d.pairs(v, t.len(), key, elem) })
	}
}

// pairs reads n pairs into a map.
func (d *decoder) pairs(v reflect.Value, n int, key, elem *lazy) error {
	k, e := reflect.New(key.t).Elem(), reflect.New(elem.t).Elem()
	for range n {
		k.SetZero()
		e.SetZero()
		if err := key.plan().dec(d, k); err != nil {
			return fmt.Errorf("a key: %w", err)
		}
		if !k.Comparable() {
			return fmt.Errorf("a key: %s cannot be one", k.Elem().Type())
		}
		if err := elem.plan().dec(d, e); err != nil {
			return fmt.Errorf("[%v]: %w", k, err)
		}
		v.SetMapIndex(k, e)
	}
	return nil
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
			return d.nested(func() error { return d.byName(fs, v, t.len()) })
		case tokList:
			if t.len() != len(fs.list) {
				return fmt.Errorf("a list of %d does not fit into the %d fields of %s", t.len(), len(fs.list), v.Type())
			}
			return d.nested(func() error {
				for i := range fs.list {
					f := &fs.list[i]
					if err := f.plan().dec(d, f.of(v)); err != nil {
						return fmt.Errorf("%s: %w", f.name, err)
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

// byName fills a struct from n pairs. Records have their fields in one order, mostly that of the struct: the field after the last one is
// tried first.
func (d *decoder) byName(fs *fields, v reflect.Value, n int) error {
	expect := 0
	for range n {
		k, err := d.next()
		if err != nil {
			return err
		}
		at := -1
		switch {
		case k.what == tokString && expect < len(fs.list) && fs.list[expect].name == string(k.data()):
			at = expect
		case k.what == tokString:
			at = fs.find(k.data())
		case k.what == tokList || k.what == tokMap:
			return errors.New("a list or a map cannot be the name of a field")
		}
		if at < 0 {
			if err := d.pass(); err != nil {
				return err
			}
			continue
		}
		expect = at + 1
		f := &fs.list[at]
		if err := f.plan().dec(d, f.of(v)); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return nil
}
