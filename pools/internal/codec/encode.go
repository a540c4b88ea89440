package codec

import (
	"errors"
	"fmt"
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
	Python bool // reads the payload

	buf    []byte
	large  [][]byte // beside the payload, in the order of their numbers; memory of the caller's
	depth  int
	pickle bool // what buf becomes; else msgpack
	keys   int  // of maps, one inside the other, that are being written
	memo   memo // of the pickle
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
			e.big(bigBytes(&b))
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
		return func(e *Encoder, v reflect.Value) error { e.int(v.Int()); return nil }
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return func(e *Encoder, v reflect.Value) error { e.uint(v.Uint()); return nil }
	case reflect.Float32, reflect.Float64:
		return func(e *Encoder, v reflect.Value) error { e.float(v.Float()); return nil }
	case reflect.Complex64, reflect.Complex128:
		return func(e *Encoder, v reflect.Value) error { e.complex(v.Complex()); return nil }
	case reflect.String:
		return func(e *Encoder, v reflect.Value) error { return e.string(v.String()) }
	case reflect.Interface:
		if t.NumMethod() == 0 {
			return func(e *Encoder, v reflect.Value) error { return e.any(v.Interface()) }
		}
		return encRef
	case reflect.Pointer:
		return encRef
	case reflect.Slice:
		switch elem := t.Elem(); {
		case elem.Kind() == reflect.Uint8:
			return func(e *Encoder, v reflect.Value) error { return e.bytes(v.Bytes()) }
		case elem == anyType:
			return encAnys
		case isNumeric(elem.Kind()) && !special(elem):
			return func(e *Encoder, v reflect.Value) error {
				e.array(dtypes[elem.Kind()], []int{v.Len()}, bytesOf(v))
				return nil
			}
		case elem.Kind() == reflect.Slice && isNumeric(elem.Elem().Kind()) && elem.Elem().Kind() != reflect.Uint8 && !special(elem.Elem()):
			return encRows(t)
		}
		return encList(t)
	case reflect.Array:
		return encList(t)
	case reflect.Map:
		return encMap(t)
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
	if err != nil {
		return err
	}
	return e.msgpack(b)
}

func encRef(e *Encoder, v reflect.Value) error {
	if v.IsNil() {
		e.null()
		return nil
	}
	return e.nested(func() error { return e.value(v.Elem()) })
}

// any encodes what hides behind an interface, the usual types without a look at their plans.
func (e *Encoder) any(x any) error {
	switch x := x.(type) {
	case nil:
		e.null()
	case bool:
		e.bool(x)
	case int:
		e.int(int64(x))
	case int64:
		e.int(x)
	case float64:
		e.float(x)
	case string:
		return e.string(x)
	case []any:
		return e.anys(x)
	case map[string]any:
		return e.anyMap(x)
	default:
		return e.nested(func() error { return e.value(reflect.ValueOf(x)) })
	}
	return nil
}

func encAnys(e *Encoder, v reflect.Value) error {
	if v.CanAddr() { // Interface would make a copy
		if x, ok := v.Addr().Interface().(*[]any); ok {
			return e.anys(*x)
		}
	}
	return e.anys(v.Convert(anysType).Interface().([]any)) // the type may have a name of its own
}

func (e *Encoder) anys(list []any) error {
	e.beginList(len(list))
	err := e.nested(func() error {
		for _, x := range list {
			if err := e.any(x); err != nil {
				return err
			}
		}
		return nil
	})
	e.endList()
	return err
}

func (e *Encoder) anyMap(m map[string]any) error {
	e.beginMap(len(m))
	err := e.nested(func() error {
		for k, x := range m {
			if err := e.string(k); err != nil {
				return err
			}
			if err := e.any(x); err != nil {
				return err
			}
		}
		return nil
	})
	e.endMap()
	return err
}

func encList(t reflect.Type) func(*Encoder, reflect.Value) error {
	elem := lazy{t: t.Elem()}
	return func(e *Encoder, v reflect.Value) error {
		e.beginList(v.Len())
		enc := elem.plan().enc
		err := e.nested(func() error {
			for i := range v.Len() {
				if err := enc(e, v.Index(i)); err != nil {
					return err
				}
			}
			return nil
		})
		e.endList()
		return err
	}
}

// encRows makes a 2-D array of slices of one length, and a list of arrays of others.
func encRows(t reflect.Type) func(*Encoder, reflect.Value) error {
	list, number := encList(t), t.Elem().Elem()
	return func(e *Encoder, v reflect.Value) error {
		if v.Len() == 0 {
			return list(e, v)
		}
		cols := v.Index(0).Len()
		for i := range v.Len() {
			if v.Index(i).Len() != cols {
				return list(e, v)
			}
		}
		data := make([]byte, 0, v.Len()*cols*int(number.Size()))
		for i := range v.Len() {
			data = append(data, bytesOf(v.Index(i))...)
		}
		e.array(dtypes[number.Kind()], []int{v.Len(), cols}, data)
		return nil
	}
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

func encMap(t reflect.Type) func(*Encoder, reflect.Value) error {
	key, elem := lazy{t: t.Key()}, lazy{t: t.Elem()}
	return func(e *Encoder, v reflect.Value) error {
		e.beginMap(v.Len())
		encKey, encElem := key.plan().enc, elem.plan().enc
		k, x := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
		err := e.nested(func() error {
			for it := v.MapRange(); it.Next(); {
				k.SetIterKey(it)
				x.SetIterValue(it)
				e.keys++
				err := encKey(e, k)
				e.keys--
				if err == nil {
					err = encElem(e, x)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		e.endMap()
		return err
	}
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
				if fs.list[i].omitEmpty && fs.list[i].of(v).IsZero() {
					n--
				}
			}
		}
		e.beginMap(n)
		err := e.nested(func() error { return e.fields(fs, v) })
		e.endMap()
		return err
	}
}

func (e *Encoder) fields(fs *fields, v reflect.Value) error {
	var at []int
	if e.pickle {
		at = e.namesOf(fs)
	}
	for i := range fs.list {
		f := &fs.list[i]
		x := f.of(v)
		if f.omitEmpty && x.IsZero() {
			continue
		}
		if e.pickle {
			e.fieldName(f, &at[i])
		} else {
			e.buf = appendString(e.buf, f.name)
		}
		if err := f.plan().enc(e, x); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return nil
}
