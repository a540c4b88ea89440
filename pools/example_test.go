package pools_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

// The results of a map come in the order of its tasks, whoever ran them.
func Example() {
	ctx := context.Background()
	pool, err := pools.NewMultiPool(0) // a worker for each CPU
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	roots, err := pools.Map(ctx, pool, func(_ context.Context, x float64) (float64, error) {
		if x < 0 {
			return 0, fmt.Errorf("%v has no square root", x)
		}
		return math.Sqrt(x), nil
	}, []float64{1, 4, 9, 16})
	fmt.Println(roots, err)
	// Output: [1 2 3 4] <nil>
}

func ExampleMap() {
	ctx := context.Background()
	pool := pools.NewSerialPool()
	defer pool.Close()

	numbers, err := pools.Map(ctx, pool, func(_ context.Context, s string) (int, error) { return strconv.Atoi(s) }, []string{"1", "two", "3"})
	fmt.Println(numbers)
	fmt.Println(err) // names the task
	// Output:
	// []
	// task 1 (on the caller's goroutine): strconv.Atoi: parsing "two": invalid syntax
}

// A stream takes its tasks from a sequence, which may be endless, and keeps a bounded number of them in memory.
func ExampleStream() {
	ctx := context.Background()
	pool, err := pools.NewMultiPool(4)
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	naturals := func(yield func(int) bool) {
		for i := 1; yield(i); i++ {
		}
	}
	square := func(_ context.Context, x int) (int, error) { return x * x, nil }
	for r, err := range pools.Stream(ctx, pool, square, naturals) {
		if err != nil || r > 30 {
			break // ends everything
		}
		fmt.Println(r)
	}
	// Output:
	// 1
	// 4
	// 9
	// 16
	// 25
}

func ExampleForEach() {
	ctx := context.Background()
	pool, err := pools.NewMultiPool(2)
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	table := make([]string, 3)
	err = pools.ForEach(ctx, pool, func(_ context.Context, i int) error {
		table[i] = strings.Repeat("*", i+1)
		return nil
	}, []int{0, 1, 2})
	fmt.Println(table, err)
	// Output: [* ** ***] <nil>
}

// F gives a function the methods Map and Stream, which read better where it is used several times.
func ExampleF() {
	ctx := context.Background()
	pool := pools.NewSerialPool()
	length := pools.F(func(_ context.Context, s string) (int, error) { return len(s), nil })

	lengths, err := length.Map(ctx, pool, []string{"a", "bc", ""})
	fmt.Println(lengths, err)
	for n, err := range length.Stream(ctx, pool, slices.Values([]string{"def"})) {
		fmt.Println(n, err)
	}
	// Output:
	// [1 2 0] <nil>
	// 3 <nil>
}

// A registered function runs on every pool: worker processes and MPI ranks of the same program find it by its name.
var cube = pools.Register("cube", func(_ context.Context, x int) (int, error) { return x * x * x, nil })

func ExampleRegister() {
	pool, err := pools.NewMultiPool(2)
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	fmt.Println(cube.Map(context.Background(), pool, []int{1, 2, 3}))
	// Output: [1 8 27] <nil>
}

// A SerialPool runs each task when its result is asked for, and draws the next one after it.
func ExampleSerialPool() {
	pool := pools.NewSerialPool()
	defer pool.Close()

	tasks := func(yield func(int) bool) {
		for i := range 3 {
			fmt.Println("draw", i)
			if !yield(i) {
				return
			}
		}
	}
	double := func(_ context.Context, x int) (int, error) { return 2 * x, nil }
	for r := range pools.Stream(context.Background(), pool, double, tasks) {
		fmt.Println("take", r)
	}
	// Output:
	// draw 0
	// take 0
	// draw 1
	// take 2
	// draw 2
	// take 4
}

// Tasks of a MultiPool run at once, and may use the pool themselves.
func ExampleMultiPool() {
	ctx := context.Background()
	pool, err := pools.NewMultiPool(4)
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	var fib func(ctx context.Context, n int) (int, error)
	fib = func(ctx context.Context, n int) (int, error) {
		if n < 2 {
			return n, nil
		}
		parts, err := pools.Map(ctx, pool, fib, []int{n - 1, n - 2})
		if err != nil {
			return 0, err
		}
		return parts[0] + parts[1], nil
	}
	fmt.Println(fib(ctx, 12))
	fmt.Println(pool)
	// Output:
	// 144 <nil>
	// MultiPool(4 goroutines)
}

func ExampleJoblibPool() {
	pool, err := pools.NewJoblibPool(-1) // as n_jobs=-1
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	halve := func(_ context.Context, x float64) (float64, error) { return x / 2, nil }
	for r, err := range pools.Stream(context.Background(), pool, halve, slices.Values([]float64{1, 2, 3})) {
		fmt.Println(r, err)
	}
	// Output:
	// 0.5 <nil>
	// 1 <nil>
	// 1.5 <nil>
}

// With PreDispatch no more tasks exist at a time than the program can hold, whatever their results wait for.
func ExamplePreDispatch() {
	pool, err := pools.NewJoblibPool(4, pools.PreDispatch(3))
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	var taken, most atomic.Int64
	tasks := func(yield func(int64) bool) {
		for drawn := int64(1); drawn <= 1000; drawn++ {
			most.Store(max(most.Load(), drawn-taken.Load()))
			if !yield(drawn) {
				return
			}
		}
	}
	id := func(_ context.Context, x int64) (int64, error) { return x, nil }
	for range pools.Stream(context.Background(), pool, id, tasks) {
		taken.Add(1)
	}
	fmt.Println(taken.Load(), most.Load() <= 3)
	// Output: 1000 true
}

// A program chooses its pool by an option.
func ExampleChoose() {
	for _, workers := range []int{1, 3} {
		pool, err := pools.Choose(pools.Workers(workers))
		if err != nil {
			panic(err)
		}
		fmt.Println(pool.Size(), pool)
		pool.Close()
	}
	// Output:
	// 0 SerialPool(the caller's goroutine)
	// 3 MultiPool(3 goroutines)
}

func ExampleOrdered() {
	ctx := context.Background()
	pool, err := pools.NewMultiPool(3)
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	nap := func(_ context.Context, ms int) (int, error) {
		time.Sleep(time.Duration(ms) * time.Millisecond)
		return ms, nil
	}
	for r := range pools.Stream(ctx, pool, nap, slices.Values([]int{30, 1, 15}), pools.Ordered()) { // as without it
		fmt.Print(r, " ")
	}
	// Output: 30 1 15
}

func ExampleUnordered() {
	ctx := context.Background()
	pool, err := pools.NewMultiPool(2)
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	second := make(chan struct{})
	task := func(_ context.Context, i int) (int, error) {
		if i == 0 {
			<-second // the first task is the last to end
		}
		return i, nil
	}
	for r := range pools.Stream(ctx, pool, task, slices.Values([]int{0, 1}), pools.Unordered()) {
		if r == 1 {
			close(second)
		}
		fmt.Print(r, " ")
	}
	// Output: 1 0
}

// Every chunk of 3 tasks is run by one worker, one task after the other.
func ExampleChunkSize() {
	ctx := context.Background()
	pool, err := pools.NewMultiPool(2)
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	chunks := 0
	double := func(_ context.Context, x int) (int, error) { return 2 * x, nil }
	got, err := pools.Map(ctx, pool, double, []int{1, 2, 3, 4, 5, 6, 7}, pools.ChunkSize(3),
		pools.OnProgress(func(int, int) { chunks++ }))
	fmt.Println(got, err, chunks)
	// Output: [2 4 6 8 10 12 14] <nil> 3
}

func ExampleRetries() {
	ctx := context.Background()
	pool := pools.NewSerialPool()
	tries := 0
	flaky := func(_ context.Context, x int) (int, error) {
		if tries++; tries < 3 {
			return 0, errors.New("try again")
		}
		return x, nil
	}
	got, err := pools.Map(ctx, pool, flaky, []int{7}, pools.Retries(2))
	fmt.Println(got, err, tries)
	// Output: [7] <nil> 3
}

func ExampleTaskTimeout() {
	ctx := context.Background()
	pool, err := pools.NewMultiPool(2)
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	wait := func(ctx context.Context, forever bool) (string, error) {
		if forever {
			<-ctx.Done() // what tasks should look at
			return "", ctx.Err()
		}
		return "done", nil
	}
	got, err := pools.Map(ctx, pool, wait, []bool{false, true}, pools.TaskTimeout(50*time.Millisecond), pools.ContinueOnError())
	var late *pools.TimeoutError
	fmt.Printf("%q %v\n", got, errors.Is(err, pools.ErrTaskTimeout))
	if errors.As(err, &late) {
		fmt.Println(late.Limit)
	}
	// Output:
	// ["done" ""] true
	// 50ms
}

func ExampleContinueOnError() {
	ctx := context.Background()
	pool, err := pools.NewMultiPool(2)
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	inverse := func(_ context.Context, x float64) (float64, error) {
		if x == 0 {
			return 0, errors.New("division by zero")
		}
		return 1 / x, nil
	}
	got, err := pools.Map(ctx, pool, inverse, []float64{1, 0, 4, 0}, pools.ContinueOnError())
	fmt.Println(got)
	for _, err := range err.(interface{ Unwrap() []error }).Unwrap() {
		var failed *pools.TaskError
		if errors.As(err, &failed) {
			fmt.Println(failed.Index, failed.Err)
		}
	}
	// Output:
	// [1 0 0.25 0]
	// 1 division by zero
	// 3 division by zero
}

func ExampleCallback() {
	ctx := context.Background()
	pool, err := pools.NewMultiPool(2)
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	upper := func(_ context.Context, s string) (string, error) { return strings.ToUpper(s), nil }
	_, err = pools.Map(ctx, pool, upper, []string{"a", "b"}, pools.Callback(func(i int, s string) { fmt.Println(i, s) }))
	fmt.Println(err)
	// Output:
	// 0 A
	// 1 B
	// <nil>
}

func ExampleOnProgress() {
	ctx := context.Background()
	pool := pools.NewSerialPool()
	id := func(_ context.Context, x int) (int, error) { return x, nil }
	_, err := pools.Map(ctx, pool, id, []int{1, 2, 3}, pools.OnProgress(func(done, total int) { fmt.Printf("%d/%d\n", done, total) }))
	fmt.Println(err)
	// Output:
	// 1/3
	// 2/3
	// 3/3
	// <nil>
}

// A panic in a task is the error of that task. The stack is the one of the goroutine that panicked.
func ExamplePanicError() {
	ctx := context.Background()
	pool, err := pools.NewMultiPool(2)
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	at := func(_ context.Context, i int) (string, error) { return []string{"zero", "one"}[i], nil }
	_, err = pools.Map(ctx, pool, at, []int{0, 1, 2})
	var panicked *pools.PanicError
	if errors.As(err, &panicked) {
		fmt.Println(panicked)
		fmt.Println(strings.Contains(string(panicked.Stack), "ExamplePanicError"))
	}
	// Output:
	// panic: runtime error: index out of range [2] with length 2
	// true
}

func ExampleTaskError() {
	ctx := context.Background()
	pool := pools.NewSerialPool()
	errEmpty := errors.New("empty")
	_, err := pools.Map(ctx, pool, func(_ context.Context, s string) (byte, error) {
		if s == "" {
			return 0, errEmpty
		}
		return s[0], nil
	}, []string{"a", "", "c"})
	var failed *pools.TaskError
	fmt.Println(errors.Is(err, errEmpty), errors.As(err, &failed), failed.Index)
	// Output: true true 1
}
