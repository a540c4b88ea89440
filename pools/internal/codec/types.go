package codec

import (
	"encoding"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// plan is what is known of a type: how it is encoded and decoded.
type plan struct {
	enc func(e *Encoder, v reflect.Value) error
	dec func(d *decoder, v reflect.Value) error
}

var plans sync.Map // reflect.Type -> *plan

// Check says whether values of a type can travel at all, before any does. What hides behind an interface is found out when it is
// sent.
func Check(t reflect.Type) error { return check(t, make(map[reflect.Type]bool), t.String()) }

func check(t reflect.Type, seen map[reflect.Type]bool, path string) error {
	if seen[t] || special(t) {
		return nil
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Chan, reflect.Func, reflect.UnsafePointer, reflect.Uintptr:
		return fmt.Errorf("%s: a %s cannot travel to another process", path, t.Kind())
	case reflect.Interface:
		if t.NumMethod() > 0 {
			return fmt.Errorf("%s: an interface with methods cannot be filled on the other side", path)
		}
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return check(t.Elem(), seen, path)
	case reflect.Map:
		if err := check(t.Key(), seen, path); err != nil {
			return err
		}
		return check(t.Elem(), seen, path)
	case reflect.Struct:
		fs := fieldsOf(t)
		if len(fs.list) == 0 && t.NumField() > 0 {
			return fmt.Errorf("%s: no field of this struct is exported", path)
		}
		for _, f := range fs.list {
			if err := check(f.typ, seen, path+"."+f.name); err != nil {
				return err
			}
		}
	}
	return nil
}

var (
	timeType = reflect.TypeFor[time.Time]()
	bigType  = reflect.TypeFor[big.Int]()
	// Methods by which a type encodes itself; all but the last two pairs are those of the msgpack package.
	ownMethods = []reflect.Type{
		reflect.TypeFor[msgpack.CustomEncoder](), reflect.TypeFor[msgpack.Marshaler](), reflect.TypeFor[encoding.BinaryMarshaler](),
		reflect.TypeFor[encoding.TextMarshaler](),
	}
)

// special says whether a type has an encoding of its own.
func special(t reflect.Type) bool {
	if t == timeType || t == bigType || t.Implements(arrayInterface) && t.Kind() == reflect.Struct {
		return true
	}
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface {
		return false // its element is looked at
	}
	return slices.ContainsFunc(ownMethods, func(m reflect.Type) bool { return t.Implements(m) || reflect.PointerTo(t).Implements(m) })
}

// planOf finds or makes the plan of a type.
func planOf(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	// A type may contain itself: its plan is looked up again when it is needed.
	p := &plan{}
	p.enc, p.dec = makeEnc(t), makeDec(t)
	found, _ := plans.LoadOrStore(t, p)
	return found.(*plan)
}

// field of a struct, or of one embedded in it.
type field struct {
	name      string
	index     []int
	typ       reflect.Type
	omitEmpty bool
	known     *atomic.Pointer[plan]
}

// plan is that of its type, looked up once: the type may contain the struct itself.
func (f *field) plan() *plan {
	p := f.known.Load()
	if p == nil {
		p = planOf(f.typ)
		f.known.Store(p)
	}
	return p
}

type fields struct {
	list   []field
	byName map[string]int
	folded map[string]int // lower case
}

var fieldTables sync.Map // reflect.Type -> *fields

func fieldsOf(t reflect.Type) *fields {
	if f, ok := fieldTables.Load(t); ok {
		return f.(*fields)
	}
	fs := &fields{byName: make(map[string]int), folded: make(map[string]int)}
	fs.add(t, nil)
	for i, f := range fs.list {
		if low := strings.ToLower(f.name); fs.folded[low] == 0 {
			fs.folded[low] = i + 1
		}
	}
	found, _ := fieldTables.LoadOrStore(t, fs)
	return found.(*fields)
}

// add lists the exported fields, those of embedded structs last: a name further out wins.
func (fs *fields) add(t reflect.Type, index []int) {
	var embedded []reflect.StructField
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("msgpack"), ",")
		if name == "-" {
			continue
		}
		if f.Anonymous && name == "" && f.Type.Kind() == reflect.Struct && !special(f.Type) {
			embedded = append(embedded, f)
			continue
		}
		if !f.IsExported() {
			continue
		}
		if name == "" {
			name = f.Name
		}
		if _, taken := fs.byName[name]; taken {
			continue
		}
		fs.byName[name] = len(fs.list)
		fs.list = append(fs.list, field{name, append(slices.Clone(index), i), f.Type, strings.Contains(options, "omitempty"), new(atomic.Pointer[plan])})
	}
	for _, f := range embedded {
		fs.add(f.Type, append(slices.Clone(index), f.Index[0]))
	}
}

// find is the field for a key: its name, or else the same letters in another case.
func (fs *fields) find(key []byte) *field {
	if i, ok := fs.byName[string(key)]; ok {
		return &fs.list[i]
	}
	if i := fs.folded[strings.ToLower(string(key))]; i > 0 {
		return &fs.list[i-1]
	}
	return nil
}
