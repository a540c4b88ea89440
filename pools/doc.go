// Package pools maps functions over tasks: in the caller's goroutine, on goroutines, worker processes or MPI ranks, through one
// scheduler.
//
//	pool, err := pools.NewMultiPool(0) // a worker for each CPU
//	...
//	defer pool.Close()
//	results, err := pools.Map(ctx, pool, fn, tasks)
//
// fn is a func(context.Context, T) (R, error), tasks a []T, results a []R in the same order. [Stream] takes an iter.Seq[T], endless
// if you like, and gives an iter.Seq2[R, error]; [ForEach] is for functions without a result. [F] and [Register] make a
// [Func], which has Map and Stream as methods; a registered one also runs in other processes.
//
// # Pools
//
//   - [SerialPool] runs tasks in the caller, one by one.
//   - [MultiPool] runs them on goroutines, no more at once than it has workers.
//   - [JoblibPool] is a MultiPool with joblib's count of workers and a bound for the tasks drawn ahead.
//
// They are one interface, [Pool], so that a program can choose at run time: [Choose] does.
//
// # What a call promises
//
// Results are in the order of the tasks. The first task that fails ends the call with a [*TaskError] that names it; with
// [ContinueOnError] all run, and all errors are joined. A panic in a task is a [*PanicError] with its stack. The context's end
// ends the call at once, and tasks learn of it through theirs. Whatever went wrong, the pool is as good as new for the next
// call. [Retries], [TaskTimeout], [Callback], [OnProgress], [ChunkSize] and [Unordered] are options of every call.
//
// Close waits for everything that runs; no goroutine outlives it. A pool has no goroutines while it has no work, so one that is
// forgotten costs only memory.
//
// # Costs
//
// Per call and task beside what the function takes, as CPU time on a busy 2-core machine on which a plain loop took 6 ns per tiny task:
//
//   - Map of 16 tiny tasks: 1 us, 3 allocations (one is the slice of results), and no goroutine.
//   - Map of 10 000 or 1 000 000 tiny tasks: 1 to 2 ns per task, no allocation per task.
//   - Stream: 2 us, and 30 ns per tiny task, no allocation per task.
//   - With TaskTimeout: 1 us per task, and a few allocations.
//   - SerialPool: 0.6 us for a Map; 0.1 us per task of a Stream.
//
// benchmarks/gopeers in the repository measures them beside other Go pools.
//
// # The engine
//
// [Engine], [Port], [Comm] and [Rank] are the chunk-level interface that language bindings are built on, of no use in a Go program. A
// binding encodes tasks into shared memory, the engine decides how many go into a chunk, hands chunks to whoever is free,
// watches the workers and says which results can be read.
package pools
