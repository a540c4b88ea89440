//go:build linux && (amd64 || arm64)

package pools_test

import (
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

const recordsModule = `
import array, dataclasses, datetime, enum
class Kind(enum.IntEnum):
    STAR = 3
@dataclasses.dataclass
class Place:
    x: float
    y: float
def same(x):
    return x
def spoil(i):
    good = {"Name": "n", "Orbit": {"Radius": 1.5}}
    return [good, {**good, "Orbit": {"Radius": "far"}}, {**good, "Ids": [1, None]}, {**good, "Other": [{"deep": 1}]}, {},
            {**good, "Orbit": Place(1, 2)}, {**good, "Name": object()}, [good], Kind.STAR, good][i]
def rich(_):
    shared = [1, "two"]
    return {"kind": Kind.STAR, "place": Place(1, 2.5), "numbers": array.array("h", [1, 2]), "spin": 1j, "first": shared, "second": shared,
            "when": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc), "set": frozenset([4])}
`

type orbit struct {
	Radius float64
	Center *orbit
}

type planet struct {
	Name    string
	Orbit   orbit
	Ids     []int
	Moons   []planet
	Tags    map[string]any
	Cells   map[[2]int]string
	Found   time.Time
	Mass    *big.Int
	Spin    complex128
	Samples []float64
	Table   [][]int32
	Raw     []byte
}

func somePlanet(i int) planet {
	p := planet{
		Name: fmt.Sprint("Nëptune ", i), Orbit: orbit{Radius: float64(i), Center: &orbit{Radius: 2}}, Ids: []int{i, -i},
		Tags: map[string]any{"a": int64(1 << 40), "b": []any{"c", nil, true, 1.5}}, Cells: map[[2]int]string{{i, 2}: "cell"},
		Found: time.Unix(int64(i), 123456000).UTC(), Mass: new(big.Int).Lsh(big.NewInt(int64(i)), 80), Spin: complex(0, float64(i)),
		Samples: []float64{1, float64(i)}, Table: [][]int32{{1, 2}, {3, int32(i)}}, Raw: []byte{0, byte(i)}, Moons: []planet{},
	}
	if i%50 == 7 {
		p.Samples = upTo(20_000) // lies beside its chunk
	}
	if i%2 == 1 {
		p.Moons = append(p.Moons, somePlanet(i-1))
	}
	return p
}

// TestPythonRecords: what Python gets and gives back is what it was.
func TestPythonRecords(t *testing.T) {
	p := pythonPool(t, 2, true)
	tasks := make([]planet, 200)
	for i := range tasks {
		tasks[i] = somePlanet(i)
	}
	got, err := pools.Python[planet, planet]("same", pools.Source(recordsModule)).Map(t.Context(), p, tasks)
	if err != nil {
		t.Fatal(err)
	}
	for i := range got {
		for q := &got[i]; ; q = &q.Moons[0] {
			q.Found = q.Found.UTC()
			if len(q.Moons) == 0 {
				break
			}
		}
		if !reflect.DeepEqual(got[i], tasks[i]) {
			t.Fatalf("%+v came back as %+v", tasks[i], got[i])
		}
	}
	rich, err := pools.Python[int, map[string]any]("rich", pools.Source(recordsModule)).Map(t.Context(), p, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	rich[0]["when"] = rich[0]["when"].(time.Time).UTC()
	want := map[string]any{
		"kind": int64(3), "place": map[string]any{"x": int64(1), "y": 2.5}, "numbers": []int16{1, 2}, "spin": 1i, "first": []any{int64(1), "two"},
		"second": []any{int64(1), "two"}, "when": time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), "set": []any{int64(4)},
	}
	if !reflect.DeepEqual(rich[0], want) {
		t.Fatalf("%#v", rich[0])
	}
	strange := []any{"fine", "\xff", map[string]any{"k": "v"}}
	out, err := pools.Python[any, any]("same", pools.Source(recordsModule)).Map(t.Context(), p, strange, pools.ContinueOnError())
	var failed *pools.TaskError
	if !errors.As(err, &failed) || failed.Index != 1 || out[0] != "fine" || !reflect.DeepEqual(out[2], strange[2]) {
		t.Fatal(out, err)
	}
}

// TestPythonRecordErrors: a record that does not fit costs itself alone, and its error says which field of which task.
func TestPythonRecordErrors(t *testing.T) {
	p := pythonPool(t, 1, false)
	got, err := pools.Python[int, planet]("spoil", pools.Source(recordsModule)).Map(t.Context(), p, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, pools.ContinueOnError())
	several, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatal(err)
	}
	want := map[int]string{
		1: `Orbit: Radius: the string "far" does not fit into float64`, 2: "Ids: [1]: nil does not fit into int",
		6: "type object cannot travel", 7: "a list of 1 does not fit into the 12 fields", 8: "the number 3 does not fit into",
	}
	for _, err := range several.Unwrap() {
		var failed *pools.TaskError
		if !errors.As(err, &failed) || want[failed.Index] == "" || !strings.Contains(err.Error(), want[failed.Index]) ||
			!strings.HasPrefix(err.Error(), fmt.Sprintf("task %d ", failed.Index)) {
			t.Errorf("%v", err)
		}
		delete(want, failed.Index)
	}
	if len(want) > 0 {
		t.Errorf("no errors %v", want)
	}
	for i, q := range got {
		if good := i == 0 || i == 3 || i == 9; good && (q.Name != "n" || q.Orbit.Radius != 1.5) || !good && i != 5 && !reflect.ValueOf(q).IsZero() {
			t.Errorf("%d: %+v", i, q)
		}
	}
}
