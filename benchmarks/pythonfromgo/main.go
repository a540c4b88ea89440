// Pythonfromgo maps Python's functions from Go, for benchmarks/python_from_go.py: it reads the name of a workload, maps it, answers with the
// seconds that took, and so on until its input ends.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
	_ "github.com/schwimmbad-go/schwimmbad-go/pyshim"
)

type body struct {
	Name     string  `msgpack:"name"`
	Mass     float64 `msgpack:"mass"`
	Position []any   `msgpack:"position"`
}

type point struct {
	Name     string    `msgpack:"name"`
	Position []float64 `msgpack:"position"`
}

type hit struct {
	X int `msgpack:"x"`
	Y int `msgpack:"y"`
}

type event struct {
	ID   int               `msgpack:"id"`
	Open bool              `msgpack:"open"`
	Tags map[string]string `msgpack:"tags"`
	Hits []hit             `msgpack:"hits"`
}

func workload[T, R any](p pools.Pool, f pools.Func[T, R], tasks []T) func() error {
	return func() error {
		out, err := f.Map(context.Background(), p, tasks)
		if err == nil && len(out) != len(tasks) {
			err = fmt.Errorf("%d results of %d tasks", len(out), len(tasks))
		}
		return err
	}
}

func floats(n int) []float64 {
	xs := make([]float64, n)
	for i := range xs {
		xs[i] = float64(i)
	}
	return xs
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: pythonfromgo WORKERS DIRECTORY (of tasks.py)")
	}
	workers, err := strconv.Atoi(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	p, err := pools.NewMultiPool(workers)
	if err != nil {
		log.Fatal(err)
	}
	path := pools.PythonPath(os.Args[2])
	bodies := make([]body, 1000)
	for i := range bodies {
		bodies[i] = body{fmt.Sprint("body ", i), float64(i), []any{1.0, 2.0, 3.0}}
	}
	points, events := make([]point, 1000), make([]event, 1000)
	for i := range points {
		points[i] = point{fmt.Sprint("point ", i), []float64{1, 2, float64(i)}}
		events[i] = event{ID: i, Open: i%2 == 0, Tags: map[string]string{"run": fmt.Sprint("r", i%7), "site": "north"}}
		for j := range 5 {
			events[i].Hits = append(events[i].Hits, hit{j, -j})
		}
	}
	arrays := make([][]float64, 32)
	for i := range arrays {
		arrays[i] = floats(100_000)
	}
	root, spin := pools.Python[float64, float64]("tasks:root", path), pools.Python[float64, float64]("tasks:spin", path)
	work := map[string]func() error{
		"16 floats":                workload(p, root, floats(16)),
		"10000 floats":             workload(p, root, floats(10_000)),
		"10000 tasks of 10 us":     workload(p, spin, floats(10_000)),
		"1000 records":             workload(p, pools.Python[body, body]("tasks:move", path), bodies),
		"1000 records with arrays": workload(p, pools.Python[point, point]("tasks:shift", path), points),
		"1000 nested records":      workload(p, pools.Python[event, event]("tasks:turn", path), events),
		"32 arrays of 800 kB":      workload(p, pools.Python[[]float64, float64]("tasks:total", path), arrays),
		"32 arrays, there & back":  workload(p, pools.Python[[]float64, []float64]("tasks:double", path), arrays),
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		f, ok := work[lines.Text()]
		if !ok {
			log.Fatalf("no workload %q", lines.Text())
		}
		began := time.Now()
		if err := f(); err != nil {
			log.Fatal(err)
		}
		fmt.Println(time.Since(began).Seconds())
	}
	if err := p.Close(); err != nil {
		log.Fatal(err)
	}
}
