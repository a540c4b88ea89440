package codec

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"iter"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

type inner struct{ A, B int8 }

type record struct {
	inner
	Name    string `msgpack:"name"`
	When    time.Time
	Skipped int    `msgpack:"-"`
	Empty   string `msgpack:",omitempty"`
	Ptr     *record
	Any     any
	M       map[string][]float32
	Fixed   [2]uint16
	Rows    [][]int64
	hidden  int
}

// roundTrip sends values there and back, in the form between Go programs and in that between Go and Python, which must agree.
func roundTrip[T any](t *testing.T, values ...T) []T {
	t.Helper()
	out := roundTripAs(t, &Encoder{}, values)
	for _, v := range values { // a slice that lies beside: only Python reads such pickles
		if s := reflect.ValueOf(v); s.IsValid() && s.Kind() == reflect.Slice && s.Len()*int(s.Type().Elem().Size()) >= outOfBand {
			return out
		}
	}
	other := roundTripAs(t, &Encoder{Python: true}, values)
	if a, b := fmt.Sprintf("%#v", out), fmt.Sprintf("%#v", other); a != b && !strings.Contains(a, "0x") {
		t.Fatalf("%s, as a pickle %s", a, b)
	}
	return other
}

func roundTripAs[T any](t *testing.T, e *Encoder, values []T) []T {
	t.Helper()
	p, err := Encode(e, values, nil)
	if err != nil {
		t.Fatalf("%#v: %v", values, err)
	}
	p.Inband = slices.Clone(p.Inband) // as from shared memory
	out := make([]T, len(values))
	if err := Decode(p, out, func(i int, _ []byte, err error) { t.Fatalf("%#v: %v", values[i], err) }); err != nil {
		t.Fatalf("%#v: %v", values, err)
	}
	return out
}

func same[T any](t *testing.T, values ...T) {
	t.Helper()
	if out := roundTrip(t, values...); !reflect.DeepEqual(out, values) {
		t.Fatalf("%#v came back as %#v", values, out)
	}
}

func TestRoundTrip(t *testing.T) {
	same(t, 0, 1, -1, math.MaxInt64, math.MinInt64)
	same[int8](t, 0, -128, 127)
	same[uint64](t, 0, 127, 128, 255, 256, 65535, 65536, math.MaxUint32, math.MaxUint32+1, math.MaxUint64)
	same[int64](t, -32, -33, -128, -129, -32768, -32769, math.MinInt32, math.MinInt32-1)
	same(t, 0.5, math.Inf(1), math.SmallestNonzeroFloat64)
	same[float32](t, 1.5, math.MaxFloat32)
	same(t, true, false)
	same(t, 1+2i)
	same(t, "", "a", strings.Repeat("b", 31), strings.Repeat("c", 32), strings.Repeat("d", 300), strings.Repeat("ä", 40000))
	same(t, []byte{}, []byte{1}, bytes.Repeat([]byte{2}, 70000))
	same(t, []float64{}, []float64{1, 2}, make([]float64, 100000))
	same(t, []float64{1, 2}, []float64{3, 4}, []float64{5, 6})
	same(t, []bool{true, false})
	same(t, [][]int16{{1, 2}, {3, 4}}, [][]int16{{1}, {}, {2, 3}})
	same(t, [][][]float64{{{1, 2}, {3, 4}}, {{5, 6}, {7, 8}}})
	same(t, []string{"a", "b"}, []string{})
	same(t, map[string]int{}, map[string]int{"a": 1, "b": 2})
	same(t, map[int][]string{1: {"a"}})
	same(t, Array[float64]{[]int{2, 3}, []float64{1, 2, 3, 4, 5, 6}}, Array[float64]{[]int{0, 3}, []float64{}}, Array[float64]{[]int{}, []float64{7}})
	same(t, [3]string{"a", "b", "c"})
	same(t, struct{}{}, struct{}{})
	same(t, *big.NewInt(5), *new(big.Int).Lsh(big.NewInt(-1), 200))
	one := 1
	same(t, &one, nil)
	same[any](t, nil, true, int64(-7), uint64(math.MaxUint64), 1.5, 2i, "x", []byte("y"), []any{int64(1), nil}, map[string]any{"k": []any{}},
		map[any]any{int64(1): "a"}, []float64{1}, []int32{}, Array[float32]{[]int{1, 2}, []float32{1, 2}}, new(big.Int).Lsh(big.NewInt(1), 70))
	when := time.Date(2026, 11, 25, 22, 0, 0, 123456789, time.UTC)
	r := record{
		inner: inner{1, -2}, Name: "n", When: when, Ptr: &record{Name: "p", When: when, M: map[string][]float32{}, Rows: [][]int64{}}, Any: "v",
		M: map[string][]float32{"m": {1}}, Fixed: [2]uint16{3, 4}, Rows: [][]int64{{1}, {2}},
	}
	r.Skipped, r.hidden = 5, 6
	back := roundTrip(t, r)[0]
	r.Skipped, r.hidden = 0, 0
	if !back.When.Equal(when) || !back.Ptr.When.Equal(when) {
		t.Fatal(back.When)
	}
	back.When, back.Ptr.When = when, when
	if !reflect.DeepEqual(back, r) {
		t.Fatalf("%+v came back as %+v", r, back)
	}
	if nan := roundTrip(t, math.NaN(), 1)[0]; !math.IsNaN(nan) {
		t.Fatal(nan)
	}
	if s := roundTrip[[]int](t, nil)[0]; s == nil || len(s) != 0 {
		t.Fatal("a nil slice arrives empty, not as nothing", s)
	}
}

// TestConvert: values of one type into another, as they come from Python.
func TestConvert(t *testing.T) {
	var e Encoder
	into := func(v, dst any) error {
		b, err := EncodeOne(v)
		if err != nil {
			t.Fatal(err)
		}
		_ = e
		return DecodeOne(b, dst)
	}
	var f float64
	var i8 int8
	var u uint
	var s string
	var fs []float64
	var r inner
	for _, c := range []struct {
		v, dst any
		want   string // of the value, or of the error
	}{
		{3, &f, "3"}, {3.0, &i8, "3"}, {3.5, &i8, "does not fit"}, {300, &i8, "does not fit"}, {-1, &u, "does not fit"}, {true, &f, "does not fit"},
		{uint64(math.MaxUint64), &u, "18446744073709551615"}, {1e300, &u, "does not fit"}, {1i, &f, "does not fit"}, {"x", &f, `the string "x" does not fit into float64`},
		{1, &s, "does not fit"}, {[]any{1, 2.5}, &fs, "[1 2.5]"}, {[]int32{1, 2}, &fs, "[1 2]"}, {[]any{1, "x"}, &fs, "[1]: the string"},
		{[][]int{{1}, {2}}, &fs, "an array of shape [2 1] and type <i8 does not fit into []float64"},
		{map[string]any{"A": 1, "b": 2, "other": []any{map[string]any{}}}, &r, "{1 2}"}, {[]any{4, 5}, &r, "{4 5}"}, {[]any{4}, &r, "does not fit"},
		{map[string]any{"A": "x"}, &r, "A: the string"}, {nil, &r, "{0 0}"}, {7, &r, "the number 7 does not fit into codec.inner"},
	} {
		err := into(c.v, c.dst)
		got := fmt.Sprint(reflect.ValueOf(c.dst).Elem().Interface())
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%#v into %T: %s, want %s", c.v, c.dst, got, c.want)
		}
	}
}

func TestCheck(t *testing.T) {
	type node struct{ Next *node }
	for _, v := range []any{1, "", []node{}, record{}, map[string]any{}, Array[int8]{}, big.Int{}, time.Time{}, struct{}{}} {
		if err := Check(reflect.TypeOf(v)); err != nil {
			t.Errorf("%T: %v", v, err)
		}
	}
	type secret struct{ x int }
	for _, v := range []any{make(chan int), func() {}, []func(){}, struct{ C chan int }{}, map[string]error{}, secret{1}, struct{ E error }{}} {
		if err := Check(reflect.TypeOf(v)); err == nil {
			t.Errorf("%T can travel", v)
		}
	}
}

func TestEncodeErrors(t *testing.T) {
	var e Encoder
	type ring struct{ R *ring }
	r := &ring{}
	r.R = r
	for _, bad := range [][]any{{1, func() {}}, {1, r}, {1, Array[int]{[]int{2}, []int{1}}}, {1, Array[int]{[]int{-1, -1}, []int{1}}}} {
		_, err := Encode(&e, bad, nil)
		item, ok := err.(*ItemError)
		if !ok || item.Index != 1 {
			t.Errorf("%T: %v", bad[1], err)
		}
	}
	if out := roundTrip[any](t, int64(1)); out[0] != int64(1) {
		t.Fatal("the encoder is of no use after an error")
	}
}

// TestFailures: error records stand in the places of some values.
func TestFailures(t *testing.T) {
	var e Encoder
	p, err := Encode(&e, []float64{1, 2, 3}, map[int][]byte{1: []byte("why")})
	if err != nil {
		t.Fatal(err)
	}
	out, seen := make([]float64, 3), ""
	err = Decode(p, out, func(i int, record []byte, err error) { seen += fmt.Sprint(i, string(record), err) })
	if err != nil || seen != "1why<nil>" || out[0] != 1 || out[2] != 3 {
		t.Fatal(out, seen, err)
	}
	// A value of the wrong type costs itself alone.
	p, err = Encode(&e, []any{1, "x", 3}, nil)
	if err != nil {
		t.Fatal(err)
	}
	seen = ""
	err = Decode(p, out, func(i int, _ []byte, err error) { seen += fmt.Sprintf("%d: %v", i, err) })
	if err != nil || !strings.HasPrefix(seen, "1: the string") || out[0] != 1 || out[2] != 3 {
		t.Fatal(out, seen, err)
	}
}

// random makes a value of any kind.
func random(r *rand.Rand, deep int) any {
	switch n := r.IntN(14); {
	case n < 2:
		return int64(r.Uint64()) >> r.IntN(64)
	case n == 2:
		return r.NormFloat64()
	case n == 3:
		return strings.Repeat("é", r.IntN(200))
	case n == 4:
		return bytes.Repeat([]byte{byte(n)}, r.IntN(400))
	case n == 5:
		return make([]float64, r.IntN(100))
	case n == 6:
		return Array[int16]{[]int{r.IntN(3), 2, 1}, nil}.zeros()
	case n == 7:
		return r.IntN(2) == 0
	case n == 8:
		return nil
	case n == 9:
		return complex(r.Float64(), 1)
	case deep == 0:
		return int64(deep)
	case n < 12:
		list := make([]any, r.IntN(20))
		for i := range list {
			list[i] = random(r, deep-1)
		}
		return list
	}
	m := make(map[string]any)
	for range r.IntN(20) {
		m[fmt.Sprint(r.IntN(1000))] = random(r, deep-1)
	}
	return m
}

func (a Array[E]) zeros() Array[E] {
	n := 1
	for _, s := range a.Shape {
		n *= s
	}
	a.Data = make([]E, n)
	return a
}

func TestRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		same(t, random(r, 3), random(r, 2))
	}
}

var update = flag.Bool("update", false, "write testdata/vectors.txt anew")

// vectors are values with their bytes, which tests/test_msgpack.py reads as well.
func vectors() map[string][]any {
	return map[string][]any{
		"ints":    {0, 127, 128, 255, 256, 65535, 65536, math.MaxUint32, math.MaxInt64, uint64(math.MaxUint64), -1, -32, -33, -129, -40000, math.MinInt64},
		"floats":  {0.5, -1e300, float32(0.25)},
		"simple":  {nil, true, false, 1.5 - 2i},
		"text":    {"", "ä", strings.Repeat("x", 31), strings.Repeat("x", 32), strings.Repeat("x", 256)},
		"bytes":   {[]byte{}, []byte{0, 255}, bytes.Repeat([]byte{7}, 256)},
		"lists":   {[]string{}, []any{1, []any{2, nil}}, make([]any, 16)},
		"maps":    {map[string]int{}, map[string]any{"k": []string{"v"}}, map[int]string{1: "one"}, inner{1, 2}},
		"arrays":  {[]float64{1, 2}, []int8{}, [][]float32{{1, 2, 3}, {4, 5, 6}}, []bool{true, false}, Array[uint16]{[]int{1, 2, 1}, []uint16{3, 4}}, []complex64{1i}},
		"big":     {*new(big.Int).Lsh(big.NewInt(1), 70), *new(big.Int).Lsh(big.NewInt(-1), 64)},
		"instant": {time.Unix(1, 5e8), time.Unix(1<<34, 0), time.Unix(-1, 0), time.Unix(100, 0)},
	}
}

const vectorFile = "testdata/vectors.txt"

func TestVectors(t *testing.T) {
	var lines []string
	for name, values := range vectors() {
		for form, e := range map[string]*Encoder{"": {}, "-pickle": {Python: true}} {
			p, err := Encode(e, values, nil)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, name+form+" "+hex.EncodeToString(p.Inband)+"\n")
		}
	}
	slices.Sort(lines)
	text := strings.Join(lines, "")
	if *update {
		if err := os.WriteFile(vectorFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if stored, err := os.ReadFile(vectorFile); err != nil || string(stored) != text {
		t.Fatalf("%s is not what these values are encoded as now (err %v); -update writes it anew", vectorFile, err)
	}
}

// TestPythonVectors reads what Python wrote; tests/test_msgpack.py checks that it still writes that.
func TestPythonVectors(t *testing.T) {
	lines := 0
	for data, text := range pythonVectors(t) {
		var v any
		if err := DecodeOne(data, &v); err != nil {
			t.Fatal(text, err)
		}
		if got := show(v); got != text {
			t.Errorf("%s, want %s", got, text)
		}
		lines++
	}
	if lines < 10 {
		t.Fatalf("%d lines", lines)
	}
}

// pythonVectors are payloads with what they are in Go.
func pythonVectors(t testing.TB) iter.Seq2[[]byte, string] {
	t.Helper()
	text, err := os.ReadFile("testdata/python.txt")
	if err != nil {
		t.Fatal(err)
	}
	return func(yield func([]byte, string) bool) {
		for line := range strings.Lines(string(text)) {
			b, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
			data, err := hex.DecodeString(b)
			if err != nil {
				t.Fatal(err)
			}
			if !yield(data, text) {
				return
			}
		}
	}
}

func show(v any) string {
	if when, ok := v.(time.Time); ok {
		v = when.UTC()
	}
	return fmt.Sprintf("%T %v", v, v)
}

// FuzzDecode: damaged payloads are errors, whatever they are decoded into, and ask for no more memory than they have bytes for.
func FuzzDecode(f *testing.F) {
	for _, values := range vectors() {
		var e Encoder
		p, err := Encode(&e, values, nil)
		if err != nil {
			f.Fatal(err)
		}
		if len(p.Inband) < 4096 {
			f.Add(uint16(p.Kind), uint8(len(values)), slices.Clone(p.Inband))
		}
	}
	for _, seed := range pythonPickles(f) {
		f.Add(uint16(0), uint8(1), seed)
	}
	f.Add(uint16(3), uint8(2), appendHead(nil, "<f8", []int{2, 1 << 40}))
	f.Fuzz(func(t *testing.T, kind uint16, n uint8, b []byte) {
		p := Payload{Kind: wire.Kind(kind), Inband: b, Large: [][]byte{b}}
		ignore := func(int, []byte, error) {}
		_ = Decode(p, make([]any, n), ignore)
		_ = Decode(p, make([]record, n), ignore)
		_ = Decode(p, make([][]float64, n), ignore)
		_ = Decode(p, make([]Array[float32], n), ignore)
		_ = Decode(p, make([]map[string]*int, n), ignore)
		_ = Decode(p, make([]big.Int, n), ignore)
	})
}

func TestHead(t *testing.T) {
	b := appendHead(nil, "<f8", []int{3, 1 << 33})
	if len(b)%8 != 0 || binary.LittleEndian.Uint16(b[2:]) != 2 {
		t.Fatal(b)
	}
	a, rest, err := parseHead(append(b, 1, 2))
	if err != nil || len(rest) != 2 || a.dtype != "<f8" || !slices.Equal(a.shape, []int{3, 1 << 33}) {
		t.Fatal(a, rest, err)
	}
	for _, bad := range [][]byte{nil, b[:3], b[:20], appendHead(nil, "<x8", []int{1}), appendHead(nil, "<f8", make([]int, 33))} {
		if _, _, err := parseHead(bad); err == nil {
			t.Errorf("%x is read", bad)
		}
	}
}

type star struct {
	Name     string  `msgpack:"name"`
	Mass     float64 `msgpack:"mass"`
	Position []any   `msgpack:"position"`
}

// BenchmarkRecords: 1000 structs to Python and back.
func BenchmarkRecords(b *testing.B) {
	values := make([]star, 1000)
	for i := range values {
		values[i] = star{fmt.Sprint("star ", i), float64(i), []any{1.0, 2.0, 3.0}}
	}
	e := Encoder{Python: true}
	var p Payload
	b.Run("encode", func(b *testing.B) {
		for b.Loop() {
			var err error
			if p, err = Encode(&e, values, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		for b.Loop() {
			if err := Decode(p, values, func(int, []byte, error) { b.Fatal() }); err != nil {
				b.Fatal(err)
			}
		}
	})
}
