// Package mpix is the transport between the ranks of an MPI job. It is the only place that calls MPI: through gompi where that
// does what is needed, else through thin C wrappers (gompi has no non-blocking calls, ignores errors and cannot ask for less
// than MPI_THREAD_MULTIPLE). Every call is made on the caller's thread; no thread is started.
//
// It compiles to stubs without the build tag "mpi" or without cgo. A library built with the tag leaves MPI's symbols
// undefined: whoever loads it has loaded the MPI library with the same ABI before.
//
// It knows no scheduling policy and does not look inside payloads.
package mpix

import "errors"

// ErrNoMPI is what every call returns where MPI was not built in.
var ErrNoMPI = errors.New("this engine was built without MPI")

// Tune says how a wait passes its time, all in nanoseconds.
//
// First it looks without a pause for Spin, which makes a chunk that comes at once cost a microsecond. Then it sleeps a thirty-second
// part of the time it has waited so far, at least Floor, at most Cap, or IdleCap after IdleAfter. So the wait that is lost is 3 to
// 6 % of the time waited, and an idle rank does not burn a core.
//
// Where a bell rings for messages (Link.Hear), and has been heard once, it sleeps a quarter of that time, at most BellCap: the looks are
// only for a ring that was lost. A map 5 ms after the last then starts 100 to 200 us after its call in place of 300 to 600, one after 100
// ms in 0.7 to 0.9 ms, not 2; an idle rank takes 0.3 % of a CPU, not 1.
type Tune struct {
	Spin, Floor, Cap, IdleAfter, IdleCap, BellCap int64
}

// Roomy is for a node with a CPU for each of its working ranks, so that a map a millisecond after the last one finds them awake: with
// three ranks on two CPUs its task starts after 42 to 83 us, where Crowded takes 122 to 152. Crowded is for more ranks than that: there a
// rank that looks without a pause takes the CPU from one that works, for sched_yield gives it away only for a moment. Measured with three
// ranks on two CPUs, Open MPI, medians of maps of 16 rows / 16 numbers by the time of looking: 20 us 235 / 114 us, 50 us 207 / 36, 100 us 99 /
// 28, 300 us 108 / 35, 1.2 ms 124 / 29; a floor of 20 us instead of 5 costs up to half more, and where other programs keep the CPUs busy
// 1.2 ms costs twice as much as 50 us. Idle ranks take 0.3 to 0.6 % of a CPU with either.
var (
	Roomy   = Tune{Spin: 1200e3, Floor: 5e3, Cap: 1e6, IdleAfter: 300e6, IdleCap: 10e6, BellCap: 50e6}
	Crowded = Tune{Spin: 150e3, Floor: 5e3, Cap: 1e6, IdleAfter: 300e6, IdleCap: 10e6, BellCap: 50e6}
)

// Levels of thread support, as the MPI standard orders them.
const (
	ThreadSingle = iota
	ThreadFunneled
	ThreadSerialized
	ThreadMultiple
)

// Info is what is known of MPI in this process.
type Info struct {
	Initialized, Finalized bool
	Level                  int    // of thread support, -1 before MPI is initialised
	MainThread             bool   // this is the thread that initialised MPI
	Rank, Size             int    // in the world, 0 and 0 before
	Version                string // of the library
}

// Part is one piece of a message to send.
type Part struct {
	Base  uint64 // told to the receiver
	Apart bool   // a buffer, which the receiver may put anywhere
	Data  []byte // must stay as it is until the message was sent; not in Go's heap where it is large
}
