//go:build linux && (amd64 || arm64)

package pools_test

import (
	"errors"
	"math"
	"math/big"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
	_ "github.com/schwimmbad-go/schwimmbad-go/pyshim"
)

const module = `
import datetime, os
class Bad(Exception):
    pass
def describe(p):
    return {"x": p["Y"], "y": p["X"], "tag": p.get("tag", "none"), "data": [2 * v for v in p["Data"]]}
def fail(i):
    if i == 3:
        raise Bad("no three")
    if i == 5:
        return object()
    if i == 7:
        os._exit(4)
    if i == 9:
        import sys
        sys.exit("bye")
    if i == 11:
        while True:
            pass
    return i
def same(x):
    return x
def kind(x):
    return type(x).__name__
def add(x, y=0):
    return x + y
def values(_):
    return {"none": None, "yes": True, "int": -5, "big": 1 << 70, "float": 0.5, "complex": 1j, "text": "ä", "bytes": b"b",
            "list": [1, "a"], "when": datetime.datetime(2026, 1, 2, 3, 4, 5, 6000, datetime.timezone.utc), "keys": {1: 2}}
`

const arrays = `
import numpy as np
def double(a):
    assert type(a) is np.ndarray, type(a)
    return 2 * a
def shape(a):
    return np.shape(a)
def zeros(n):
    return np.zeros(n)
def kinds(_):
    return {"f2": np.ones(2, "f2"), "big": np.arange(3, dtype=">i4"), "bool": np.array([True, False]), "scalar": np.float32(1.5),
            "long": np.longdouble(2), "strided": np.arange(6)[::2], "text": np.array(["a"]), "c8": np.ones((1, 2), "c8")}
`

// pythonPool is a pool that runs Python; the test is skipped where there is none, or not with NumPy if that is wanted.
func pythonPool(t *testing.T, n int, numpy bool) *pools.MultiPool {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 on PATH")
	}
	if numpy && exec.Command(python, "-c", "import numpy").Run() != nil {
		t.Skip("no NumPy")
	}
	dog := time.AfterFunc(time.Minute, func() { panic("this test hangs") })
	p, err := pools.NewMultiPool(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		dog.Stop()
	})
	return p
}

func TestPythonValues(t *testing.T) {
	p := pythonPool(t, 2, false)
	tasks := make([]float64, 10000)
	for i := range tasks {
		tasks[i] = float64(i * i)
	}
	out, err := pools.Python[float64, float64]("math:sqrt").Map(t.Context(), p, tasks)
	if err != nil || len(out) != len(tasks) || out[1234] != 1234 || out[9999] != 9999 {
		t.Fatal(err)
	}
	points := make([]point, 50)
	for i := range points {
		points[i] = point{float64(i), 1, "", upTo(i * 300)}
	}
	back, err := pools.Python[point, *point]("describe", pools.Source(module)).Map(t.Context(), p, points)
	if err != nil {
		t.Fatal(err)
	}
	for i, q := range back {
		if q.X != 1 || q.Y != float64(i) || q.Tag != "none" || len(q.Data) != i*300 || i > 0 && q.Data[i] != float64(2*i) {
			t.Fatal(i, q)
		}
	}
	all, err := pools.Python[int, map[string]any]("values", pools.Source(module)).Map(t.Context(), p, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"none": nil, "yes": true, "int": int64(-5), "big": new(big.Int).Lsh(big.NewInt(1), 70), "float": 0.5, "complex": 1i,
		"text": "ä", "bytes": []byte("b"), "list": []any{int64(1), "a"}, "keys": map[any]any{int64(1): int64(2)},
		"when": time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)}
	when := all[0]["when"].(time.Time)
	all[0]["when"] = when.UTC()
	if !reflect.DeepEqual(all[0], want) {
		t.Fatalf("%#v", all[0])
	}
	kinds, err := pools.Python[any, string]("kind", pools.Source(module)).Map(t.Context(), p,
		[]any{nil, true, 1, 1 << 40, uint64(math.MaxUint64), 0.5, "a", []byte("b"), []string{"c"}, map[string]int{}, 1i, time.Now(), big.NewInt(5)})
	if err != nil || !slices.Equal(kinds, strings.Fields("NoneType bool int int int float str bytes list dict complex datetime int")) {
		t.Fatal(kinds, err)
	}
	for _, f := range []pools.Func[any, int]{
		pools.Python[any, int]("add", pools.Source(module), pools.Spread()), pools.Python[any, int]("add", pools.Source(module), pools.Keywords()),
	} {
		task := any([]int{3, 4})
		if _, err := f.Map(t.Context(), p, []any{task}); err != nil {
			task = map[string]int{"x": 3, "y": 4}
			if out, err := f.Map(t.Context(), p, []any{task}); err != nil || out[0] != 7 {
				t.Fatal(out, err)
			}
		}
	}
	n := 0
	for x, err := range pools.Python[int, int]("same", pools.Source(module)).Stream(t.Context(), p, func(yield func(int) bool) {
		for i := 0; yield(i); i++ {
		}
	}) {
		if err != nil || x != n {
			t.Fatal(x, err)
		}
		if n++; n == 1000 {
			break
		}
	}
}

func TestPythonErrors(t *testing.T) {
	p := pythonPool(t, 2, false)
	tasks := make([]int, 13)
	for i := range tasks {
		tasks[i] = i
	}
	out, err := pools.Python[int, int]("fail", pools.Source(module)).Map(t.Context(), p, tasks, pools.ContinueOnError(), pools.TaskTimeout(500*time.Millisecond))
	several, ok := err.(interface{ Unwrap() []error })
	if !ok || len(several.Unwrap()) != 5 {
		t.Fatal(err)
	}
	for i, x := range out {
		if failed := i%2 == 1 && i > 1; !failed && x != i {
			t.Fatal(i, x)
		}
	}
	errs := several.Unwrap()
	var pe *pools.PythonError
	if !errors.As(errs[0], &pe) || pe.Type != "Bad" || pe.Message != "no three" || !strings.Contains(pe.Traceback, `raise Bad("no three")`) {
		t.Fatalf("%+v", pe)
	}
	if !errors.As(errs[1], &pe) || pe.Type != "TypeError" || !strings.Contains(pe.Message, "type object cannot travel") {
		t.Fatalf("%+v", pe)
	}
	var lost *pools.WorkerLostError
	if !errors.As(errs[2], &lost) || lost.ExitCode != 4 {
		t.Fatal(errs[2])
	}
	if !errors.As(errs[3], &pe) || pe.Type != "SystemExit" || pe.Message != "bye" {
		t.Fatalf("%+v", pe)
	}
	if !errors.Is(errs[4], pools.ErrTaskTimeout) {
		t.Fatal(errs[4])
	}
	for _, name := range []string{"nowhere:f", "math:nothing", "math:pi"} {
		if _, err := pools.Python[int, int](name).Map(t.Context(), p, tasks); !errors.As(err, &pe) {
			t.Fatal(err)
		}
	}
	for _, f := range []pools.Func[int, int]{pools.Python[int, int]("math"), pools.Python[int, int]("a b:c"), pools.Python[int, int]("f(", pools.Source("x"))} {
		if _, err := f.Map(t.Context(), p, tasks); !errors.Is(err, pools.ErrArgument) {
			t.Fatal(err)
		}
	}
	if _, err := pools.Python[int, int]("math:sqrt").Map(t.Context(), p, []int{2}); err == nil || !strings.Contains(err.Error(), "does not fit into int") {
		t.Fatal(err)
	}
	if _, err := pools.Python[int, int]("f", pools.Interpreter("/nowhere/python")).Map(t.Context(), p, tasks); err == nil {
		t.Fatal("no error")
	}
	if _, err := pools.Python[int, int]("math:sqrt", pools.Interpreter("/nowhere/python")).Map(t.Context(), p, tasks); !errors.Is(err, pools.ErrUnavailable) {
		t.Fatal(err)
	}
}

func TestPythonArrays(t *testing.T) {
	p := pythonPool(t, 2, true)
	double := pools.Python[[]float64, []float64]("double", pools.Source(arrays))
	for _, n := range []int{0, 1, 5, 100, 10000, 1 << 20} {
		out, err := double.Map(t.Context(), p, [][]float64{upTo(n), upTo(n), upTo(n)})
		if err != nil {
			t.Fatal(n, err)
		}
		for _, row := range out {
			if len(row) != n || n > 0 && row[n-1] != float64(2*n-2) {
				t.Fatal(n, len(row))
			}
		}
	}
	table, err := pools.Python[[][]int32, [][]int32]("double", pools.Source(arrays)).Map(t.Context(), p, [][][]int32{{{1, 2, 3}, {4, 5, 6}}})
	if err != nil || !reflect.DeepEqual(table, [][][]int32{{{2, 4, 6}, {8, 10, 12}}}) {
		t.Fatal(table, err)
	}
	cube := pools.Array[float32]{Shape: []int{2, 1, 2}, Data: []float32{1, 2, 3, 4}}
	cubes, err := pools.Python[pools.Array[float32], pools.Array[float64]]("double", pools.Source(arrays)).Map(t.Context(), p, []pools.Array[float32]{cube})
	if err != nil || !slices.Equal(cubes[0].Shape, cube.Shape) || !slices.Equal(cubes[0].Data, []float64{2, 4, 6, 8}) {
		t.Fatal(cubes, err)
	}
	shapes, err := pools.Python[any, []int]("shape", pools.Source(arrays)).Map(t.Context(), p, []any{[]int{1, 2}, [][]bool{{true}}, 3, []bool{}})
	if err != nil || !reflect.DeepEqual(shapes, [][]int{{2}, {1, 1}, {}, {0}}) {
		t.Fatal(shapes, err)
	}
	kinds, err := pools.Python[int, map[string]any]("kinds", pools.Source(arrays)).Map(t.Context(), p, []int{0})
	want := map[string]any{"f2": []float32{1, 1}, "big": []int32{0, 1, 2}, "bool": []bool{true, false}, "scalar": 1.5, "long": 2.0,
		"strided": []int64{0, 2, 4}, "text": []any{"a"}, "c8": pools.Array[complex64]{Shape: []int{1, 2}, Data: []complex64{1, 1}}}
	if err != nil || !reflect.DeepEqual(kinds[0], want) {
		t.Fatalf("%#v %v", kinds[0], err)
	}
}
