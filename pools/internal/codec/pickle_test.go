package codec

import (
	"encoding/hex"
	"errors"
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

type orbit struct {
	Radius float64
	Around *planet `msgpack:"around,omitempty"`
}

type planet struct {
	orbit
	Name    string
	Moons   []planet
	Tags    map[string]string
	Cells   map[[2]int]float32
	Found   time.Time
	Ids     []int64
	Parts   []string
	Mass    *big.Int
	Spin    complex128
	Raw     []byte
	Near    *float64
	Skipped int `msgpack:"-"`
}

func planets() []planet {
	near := 0.25
	found := time.Date(1846, 9, 23, 0, 0, 0, 123456789, time.UTC)
	none := planet{Moons: []planet{}, Tags: map[string]string{}, Cells: map[[2]int]float32{}, Found: found, Ids: []int64{}, Parts: []string{}, Raw: []byte{}}
	moon := none
	moon.Name, moon.Radius = "Triton", 1.5
	whole := planet{
		orbit: orbit{Radius: 30, Around: &planet{}}, Name: "Nëptune", Moons: []planet{moon, none}, Tags: map[string]string{"a": "b", "": "c"},
		Cells: map[[2]int]float32{{1, -2}: 0.5}, Found: found, Ids: []int64{1, 1 << 40}, Parts: []string{"x", strings.Repeat("y", 300)},
		Mass: new(big.Int).Lsh(big.NewInt(-3), 90), Spin: 1 - 2i, Raw: []byte{0, 255}, Near: &near,
	}
	*whole.Around = none
	return []planet{whole, none, moon}
}

// TestRecords: structs in structs, in both forms.
func TestRecords(t *testing.T) {
	want := planets()
	got := roundTrip(t, want...)
	var utc func(ps []planet)
	utc = func(ps []planet) {
		for i := range ps {
			ps[i].Found = ps[i].Found.UTC()
			if ps[i].Around != nil {
				ps[i].Around.Found = ps[i].Around.Found.UTC()
			}
			utc(ps[i].Moons)
		}
	}
	utc(got)
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v\ncame back as\n%+v", want, got)
	}
}

// TestNamesOnce: all records of a chunk share the names of their fields, and the next chunk stands alone.
func TestNamesOnce(t *testing.T) {
	e := Encoder{Python: true}
	for range 2 {
		values := planets()
		p, err := Encode(&e, values, nil)
		if err != nil || p.Kind != wire.PickleList {
			t.Fatal(p.Kind, err)
		}
		for _, name := range []string{"Radius", "Moons", "_msgpack"} {
			if n := strings.Count(string(p.Inband), name); n != 1 {
				t.Errorf("%s is written %d times", name, n)
			}
		}
		out := make([]planet, len(values))
		if err := Decode(p, out, func(i int, _ []byte, err error) { t.Error(i, err) }); err != nil || out[0].Moons[0].Name != "Triton" {
			t.Fatal(err)
		}
	}
	// More names than one byte counts.
	fields := make([]reflect.StructField, 400)
	for i := range fields {
		fields[i] = reflect.StructField{Name: "F" + strings.Repeat("x", i), Type: reflect.TypeFor[int]()}
	}
	wide := reflect.New(reflect.StructOf(fields)).Elem()
	for i := range fields {
		wide.Field(i).SetInt(int64(i))
	}
	out := roundTrip(t, wide.Interface(), wide.Interface())
	for _, record := range out {
		for i, f := range fields {
			if record.(map[string]any)[f.Name] != int64(i) {
				t.Fatal(i, record)
			}
		}
	}
}

// TestNotUTF8: such a string cannot stand in a pickle; the other form tells Python which task has it.
func TestNotUTF8(t *testing.T) {
	e := Encoder{Python: true}
	values := []any{"a", map[string]any{"k": "\xff"}}
	p, err := Encode(&e, values, nil)
	if err != nil || p.Kind != wire.MsgpackList {
		t.Fatal(p.Kind, err)
	}
	if p, err = Encode(&e, values[:1], nil); err != nil || p.Kind != wire.PickleList {
		t.Fatal(p.Kind, err)
	}
}

func TestRandomPickles(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 1000 {
		same[any](t, random(r, 3), map[string]any{"u": uint64(math.MaxUint64), "i": int64(math.MinInt64), "s": strings.Repeat("x", 300), "v": random(r, 2)})
	}
}

// pythonPickles are the chunks of one value that tests/test_msgpack.py has written.
func pythonPickles(t testing.TB) [][]byte {
	t.Helper()
	text, err := os.ReadFile("testdata/pickles.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all [][]byte
	for line := range strings.Lines(string(text)) {
		b, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// TestPythonPickles: the same values as in TestPythonVectors.
func TestPythonPickles(t *testing.T) {
	pickles := pythonPickles(t)
	i := 0
	for _, text := range pythonVectors(t) {
		if i == len(pickles) {
			t.Fatalf("%d pickles", i)
		}
		out := make([]any, 1)
		if err := Decode(Payload{Inband: pickles[i]}, out, func(_ int, _ []byte, err error) { t.Error(text, err) }); err != nil {
			t.Fatal(text, err)
		}
		if got := show(out[0]); got != text {
			t.Errorf("%s, want %s", got, text)
		}
		i++
	}
	if i != len(pickles) {
		t.Fatalf("%d values in %d pickles", i, len(pickles))
	}
}

// TestIntoRecords: what Python's dicts have more, less and otherwise than the struct.
func TestIntoRecords(t *testing.T) {
	e := Encoder{Python: true}
	p, err := Encode(&e, []any{
		map[string]any{"Name": "extra", "unknown": []any{map[string]any{"deep": []any{1}}}, "radius": 2},
		map[string]any{},
		map[string]any{"Name": 5},
		map[string]any{"Moons": []any{map[string]any{}, map[string]any{"Tags": map[string]any{"a": 1}}}},
		map[string]any{"Ids": []any{1, 2.5}},
		map[string]any{"Name": "last", "Ids": []any{1, 2.0}, "Moons": nil},
		[]any{1},
		nil,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]planet, 8)
	failures := map[int]string{}
	if err := Decode(p, out, func(i int, _ []byte, err error) { failures[i] = err.Error() }); err != nil {
		t.Fatal(err)
	}
	want := map[int]string{
		2: "Name: the number 5 does not fit into string", 3: "Moons: [1]: Tags: [a]: the number 1 does not fit into string",
		4: "Ids: [1]: 2.5 does not fit into int64", 6: "a list of 1 does not fit into the 13 fields of codec.planet",
	}
	if !reflect.DeepEqual(failures, want) {
		t.Errorf("%v", failures)
	}
	if out[0].Name != "extra" || out[0].Radius != 2 || out[5].Name != "last" || !slices.Equal(out[5].Ids, []int64{1, 2}) {
		t.Errorf("%+v", out)
	}
	for _, i := range []int{1, 2, 3, 4, 6, 7} {
		if !reflect.ValueOf(out[i]).IsZero() {
			t.Errorf("%d: %+v", i, out[i])
		}
	}
}

// TestSharedObjects: what a pickle refers to twice arrives twice; what contains itself is the error of its value alone.
func TestSharedObjects(t *testing.T) {
	// shared = ("a", [1]); loop = []; loop.append(loop); [shared, loop, shared]
	b := "\x80\x05](\x8c\x01a]K\x01a\x86\x94]\x94h\x01ah\x00e."
	out, failed := make([]any, 3), 0
	if err := Decode(Payload{Inband: []byte(b)}, out, func(i int, _ []byte, err error) {
		failed++
		if i != 1 || !strings.Contains(err.Error(), "nested more than") {
			t.Error(i, err)
		}
	}); err != nil || failed != 1 {
		t.Fatal(err, failed)
	}
	want := []any{"a", []any{int64(1)}}
	if !reflect.DeepEqual(out, []any{want, nil, want}) {
		t.Fatal(out)
	}
	// Each list holds the one before twice: 2^60 strings.
	bomb := "\x80\x05](\x8c\x01a\x94"
	for i := range 60 {
		bomb += "](h" + string(rune(i)) + "h" + string(rune(i)) + "e\x94"
	}
	u, n, err := unpickle([]byte(bomb + "e."))
	if err != nil || n != 61 {
		t.Fatal(n, err)
	}
	u.left = 1 << 20
	if err := decodeList(&decoder{tree: &u.tree}, make([]any, n), func(int, []byte, error) {}); !errors.Is(err, errUnpickled) {
		t.Fatal(err)
	}
}

// TestForeignPickles: what makes an object, and damage.
func TestForeignPickles(t *testing.T) {
	for _, bad := range []string{
		"]cos\nsystem\n.", "", ".", "](", "e.", "(.", "]h\x05.", "}(K\x01u.", "NNa.", "](K\x01.", "]((a.", "]\x8c\x02os\x8c\x06system\x93a.",
		"]\x8c\x16schwimmbad_go._msgpack\x8c\x04same\x93a.", "]\x8c\x16schwimmbad_go._msgpack\x8c\x04same\x93)Ra.",
		"]\x8c\x16schwimmbad_go._msgpack\x8c\x09extension\x93K\x01K\x02\x86Ra.", "]\x8c\x16schwimmbad_go._msgpack\x8c\x06beside\x93a.",
		"]NNRa.", "]\x93.", "]R.", "]\x8a\x05\x00a.", "]\x8b\xff\xff\xff\xffa.", "]\x8e\xff\xff\xff\xff\xff\xff\xff\xffa.", "}.", "K\x01.", "]K\x01s.",
	} {
		failed := false
		err := Decode(Payload{Inband: []byte(bad)}, make([]any, 1), func(int, []byte, error) { failed = true })
		if err == nil && !failed {
			t.Errorf("%q is read", bad)
		}
	}
}

// FuzzPickle: whatever a worker answers is read or refused, and room is made for no more than it has bytes for.
func FuzzPickle(f *testing.F) {
	for _, seed := range pythonPickles(f) {
		f.Add(seed)
	}
	e := Encoder{Python: true}
	for _, values := range [][]any{{planets()[0], planets()[1]}, {random(rand.New(rand.NewPCG(1, 1)), 3)}} {
		p, err := Encode(&e, values, nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(slices.Clone(p.Inband))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		u, n, err := unpickle(b)
		if err != nil {
			return
		}
		// Operations of one byte make nodes; a list that grows by one item at a time has reserved four times its places at most.
		if len(u.nodes) > len(b) || len(u.kids) > 8*len(b) || n > len(b) {
			t.Fatalf("%d nodes, %d kids, %d values of %d bytes", len(u.nodes), len(u.kids), n, len(b))
		}
		decodeFuzzed[any](u, n)
		decodeFuzzed[planet](u, n)
		decodeFuzzed[map[string][]float32](u, n)
		decodeFuzzed[[]float64](u, n)
		decodeFuzzed[Array[int16]](u, n)
		decodeFuzzed[big.Int](u, n)
		decodeFuzzed[time.Time](u, n)
	})
}

func decodeFuzzed[T any](u *unpickler, n int) {
	top := u.nodes[u.stack[0]]
	u.frames = append(u.frames[:0], frame{top.at, top.at + top.n})
	u.left = 1 << 16
	_ = decodeList(&decoder{tree: &u.tree}, make([]T, n), func(int, []byte, error) {})
}
