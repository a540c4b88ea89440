//go:build linux && (amd64 || arm64)

package pools_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math"
	"os"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

// In a package-level variable, so that each process of the program has it.
var collatz = pools.Register("collatz", func(_ context.Context, n int) (int, error) {
	steps := 0
	for ; n != 1; steps++ {
		switch {
		case n < 1:
			os.Exit(7) // as a crash in a C library would
		case n%2 == 0:
			n /= 2
		default:
			n = 3*n + 1
		}
	}
	return steps, nil
})

// Worker processes: what happens to one task costs nothing but that task.
func ExampleProcesses() {
	ctx := context.Background()

	pool, err := pools.NewMultiPool(2, pools.Processes()) // main has called pools.Main() first
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	steps, err := collatz.Map(ctx, pool, []int{6, 0, 27}, pools.ContinueOnError())
	fmt.Println(steps)
	var lost *pools.WorkerLostError
	if errors.As(err, &lost) {
		fmt.Println("exit code", lost.ExitCode)
	}
	// Output:
	// [8 0 111]
	// exit code 7
}

const growth = `
def grow(star):
    if star["mass"] <= 0:
        raise ValueError("no star: " + star["name"])
    return {**star, "mass": 2 * star["mass"]}
`

// Functions of Python, on any pool. The program imports pyshim.
func ExamplePython() {
	ctx := context.Background()
	pool, err := pools.NewMultiPool(2)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	// import _ "github.com/schwimmbad-go/schwimmbad-go/pyshim"
	gamma := pools.Python[float64, float64]("math:gamma")
	fmt.Println(gamma.Map(ctx, pool, []float64{3, 4, 5}))

	type Star struct {
		Name string  `msgpack:"name"`
		Mass float64 `msgpack:"mass"`
	}
	grow := pools.Python[Star, Star]("grow", pools.Source(growth))
	fmt.Println(grow.Map(ctx, pool, []Star{{"Sun", 1}, {"Vega", 2.1}}))

	_, err = grow.Map(ctx, pool, []Star{{"Moon", 0}})
	var raised *pools.PythonError
	if errors.As(err, &raised) { // raised.Traceback has the rest
		fmt.Println(raised.Type, "-", raised.Message)
	}
	// Output:
	// [2 6 24] <nil>
	// [{Sun 2} {Vega 4.2}] <nil>
	// ValueError - no star: Moon
}

// MPI: the program runs on every rank up to this line, and on rank 0 beyond it.
func ExampleNewMPIPool() {
	integrate := pools.Register("integrate", func(_ context.Context, k float64) (float64, error) {
		sum := 0.0
		for i := range 1_000_000 {
			sum += math.Sin(k * float64(i) / 1e6)
		}
		return sum / 1e6, nil
	})

	pool, err := pools.NewMPIPool() // on the other ranks it serves, and never returns
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close() // lets the other ranks leave
	fmt.Println(integrate.Map(context.Background(), pool, []float64{1, 2, 3}))
}
