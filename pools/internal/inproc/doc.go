// Package inproc runs Go functions on goroutines, driven by the scheduler of [dispatch].
//
// A [Crew] is the workers of one pool. There is no queue of chunks and no goroutine that hands them out: whoever is free takes the
// next chunk from the scheduler himself, under the crew's lock, so chunks are sized when they start. Callers are workers, too: a
// call first makes its own goroutine run tasks, and wakes others where the work is worth it. The scheduler remembers what a task of
// each function takes; a call of 16 tiny tasks on an idle pool starts nobody.
//
// How many tasks run at once is counted in tokens. Who runs a chunk holds one; a worker is a goroutine that was started with a
// token, and it ends when it finds nothing to do. So a crew without work has no goroutines, and one that is never closed leaks none.
// A call from within a task has its own task's token, as that task waits for it: it can always go on, and nesting never deadlocks.
//
// Tasks are claimed one by one with an atomic instruction on the [Cursor] of the chunk, and an idle worker may take over the
// unclaimed half of a chunk in flight. So a guess of the scheduler's about run times is never binding: no task waits behind a
// long one while somebody is free. Where nobody is free because nobody was woken, a timer that ticks during calls sees to it.
//
// What runs cannot be stopped from outside: a goroutine ends by itself or not at all. Tasks learn through their context that
// they are not wanted any more. A call that is cancelled gives them a moment, then it leaves them behind; so does a time limit.
// A goroutine left behind holds no token, touches nothing that the caller still sees, and is waited for by [Crew.Close].
package inproc
