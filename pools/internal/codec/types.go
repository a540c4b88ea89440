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

// lazy is the plan of a type, looked up once, when it is needed: the type may contain the one whose plan is being made.
type lazy struct {
	t     reflect.Type
	known atomic.Pointer[plan]
}

func (l *lazy) plan() *plan {
	p := l.known.Load()
	if p == nil {
		p = planOf(l.t)
		l.known.Store(p)
	}
	return p
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
			if err := check(f.t, seen, path+"."+f.name); err != nil {
				return err
			}
		}
	}
	return nil
}

var (
	anyType  = reflect.TypeFor[any]()
	anysType = reflect.TypeFor[[]any]()
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
	omitEmpty bool
	*lazy     // its type
}

// of is the field in a struct.
func (f *field) of(v reflect.Value) reflect.Value {
	if len(f.index) == 1 {
		return v.Field(f.index[0])
	}
	return v.FieldByIndex(f.index)
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
		fs.list = append(fs.list, field{name, append(slices.Clone(index), i), strings.Contains(options, "omitempty"), &lazy{t: f.Type}})
	}
	for _, f := range embedded {
		fs.add(f.Type, append(slices.Clone(index), f.Index[0]))
	}
}

// find is the place of the field for a key: its name, or else the same letters in another case. -1: there is none.
func (fs *fields) find(key []byte) int {
	if i, ok := fs.byName[string(key)]; ok {
		return i
	}
	return fs.folded[strings.ToLower(string(key))] - 1
}
