//go:build linux && (amd64 || arm64)

package pools

import (
	"fmt"
	"os"
	"syscall"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/mpix"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// What Rank.Next found.
const (
	RankChunk  = 1 // a chunk to run, in the slot given; then call Answer
	RankOpen   = 2 // a pool begins: set up as the BLOB frame at this offset says (0: as the script said); then call Hello
	RankClose  = 3 // the pool ends
	RankExit   = 4 // leave
	RankNeeds  = 5 // the worker in this place has to be started
	RankResume = 6 // look after signals, and call again
)

// How long answers of brief chunks may wait for each other.
const answerWait = 100e3 // ns

// A rank looks after its signals at least this often; each look costs an idle one some 50 us.
const rankSlice = 1e9 // ns

// RankConfig says how a rank runs tasks.
type RankConfig struct {
	Workers    int    // processes beside it; 0: the caller runs the chunks itself, one at a time
	ArenaBytes uint64 // as in EngineConfig
	MaxTasks   int    // as in EngineConfig
}

// Rank is an MPI rank that serves the master. It moves chunks between messages and an arena like the master's own, in which
// either the caller or a crew of processes runs them: both are workers as docs/PROTOCOL.md describes. All methods are for one
// thread.
type Rank struct {
	crew
	comm    *Comm
	cfg     RankConfig
	ready   []*chunk // to be run by the caller
	events  []rankEvent
	session int64
	serving bool
	halted  bool       // workers could not be started: the master knows
	setup   []byte     // of the pool at hand, in the arena; nil: as the script said
	desk    *deskOffer // in rank 0's crew, in the pool that begins; nil: none
	moving  func()     // ends what keeps MPI moving; nil: nothing does
	held    int64      // when the oldest answer that has not been sent was given, 0: none
	running uint64     // slot that the caller has in hand, 0: none
	brief   bool       // the chunk that runs now is so short that its answer may wait

	blobs   map[uint64]localBlob // by the master's offset
	retired []retiredBlob
	inHand  map[uint64]int // chunks, by job
	lastJob uint64
	server  int            // socket of the process that starts the workers, -1: there is none
	parked  map[uint64]int // answers of a broadcast, by job
	sending map[uint64]int // slots that MPI still reads
	zombies map[uint64]bool
	frame   wire.Frame  // scratch
	parts   []mpix.Part // scratch
}

type rankEvent struct {
	what int
	at   uint64
}

// OpenRank makes the serving end of a rank other than 0.
func OpenRank(c *Comm, cfg RankConfig) (*Rank, error) {
	if c.Rank() == 0 || c.rank != nil || !c.ready {
		return nil, fail(CodeArgument, "rank %d cannot serve on this communicator", c.Rank())
	}
	r := &Rank{
		comm: c, cfg: cfg, server: -1, blobs: make(map[uint64]localBlob), inHand: make(map[uint64]int), parked: make(map[uint64]int),
		sending: make(map[uint64]int), zombies: make(map[uint64]bool),
	}
	if err := r.open(r, max(cfg.Workers, 1), cfg.ArenaBytes, cfg.MaxTasks, nil, nil); err != nil {
		return nil, err
	}
	r.busy, r.tr.Discard, r.tr.Unmap = r.isSending, mpix.Discard, mpix.Unmap
	c.rank = r
	return r, nil
}

// Arena tells where the rank's memory is mapped, how long it is and its descriptor.
func (r *Rank) Arena() (addr uintptr, length uint64, fd int) {
	return r.tr.Addr(), r.tr.Len(), r.tr.Fd()
}

// WorkerFds are the descriptors that a worker started by the caller must inherit.
func (r *Rank) WorkerFds() [4]int { return r.tr.WorkerFds() }

// MasterFds are the descriptors that any other child of this process must close; -1: none.
func (r *Rank) MasterFds() [6]int {
	fds := r.tr.MasterFds()
	return [6]int{fds[0], fds[1], fds[2], fds[3], fds[4], -1}
}

// Attach registers a process that the caller started as worker i; pid 0 says that it could not be started.
func (r *Rank) Attach(i, pid int, child bool) error { return r.attach(i, pid, child) }

// Hello tells the master that this rank is set up for the pool that begins.
func (r *Rank) Hello() error {
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	b, err := wire.Marshal(wire.RankInfo{Host: host, Pid: os.Getpid(), Workers: max(r.cfg.Workers, 1)}, 0)
	if err != nil {
		return &Error{CodeInternal, err}
	}
	r.comm.link.Send(0, wire.Message{Kind: wire.MsgHello, Chunk: uint64(r.session)}, []mpix.Part{{Data: b}}, nil)
	r.serving = true
	if r.cfg.Workers > 0 {
		r.askForWorkers()
	}
	return r.flushLink()
}

// Refuse tells the master that this rank cannot work, with the error record whose frame lies at off (0: none).
func (r *Rank) Refuse(code Code, text string, off uint64) error {
	m := wire.Message{Kind: wire.MsgFailed, Chunk: uint64(r.session), A: int64(code)}
	parts := []mpix.Part{{}, {Data: []byte(text)}}
	if off != 0 {
		end, err := frameEnd(&r.frame, r.tr.Mem(), off)
		if err != nil {
			return &Error{CodeArgument, err}
		}
		parts[0] = mpix.Part{Base: off, Data: r.tr.Mem()[off:end]}
	}
	r.comm.link.Send(0, m, parts, nil)
	return r.flushLink()
}

func (r *Rank) flushLink() error {
	r.held = 0
	_, err := mpiError(0, r.comm.link.Flush())
	return err
}

// Next waits for something to do, 100 ms at most, and says what and where (see the Rank constants).
func (r *Rank) Next() (what int, at uint64, err error) {
	r.rest()
	end := process.Monotonic() + rankSlice
	for {
		if len(r.events) > 0 {
			e := r.events[0]
			r.events = r.events[1:]
			return e.what, e.at, nil
		}
		if len(r.needs) > 0 && r.serving {
			var place [1]int64
			r.takeNeeds(place[:])
			return RankNeeds, uint64(place[0]), nil
		}
		if len(r.ready) > 0 {
			return r.run()
		}
		if err := r.crew.flush(); err != nil {
			return 0, at, err
		}
		if err := r.flushLink(); err != nil {
			return 0, at, err
		}
		left := end - process.Monotonic()
		if left <= 0 {
			return RankResume, at, nil
		}
		signal, err := r.sleep(left)
		if err != nil {
			return 0, at, err
		}
		if signal {
			return RankResume, at, nil
		}
	}
}

// run hands the caller the next chunk. Answers that were held back go out first, unless this one takes no time either.
func (r *Rank) run() (what int, at uint64, err error) {
	c := r.ready[0]
	r.ready = r.ready[:copy(r.ready, r.ready[1:])]
	r.brief = c.brief
	if r.held != 0 && (!c.brief || process.Monotonic()-r.held > answerWait) {
		if err := r.flushLink(); err != nil {
			return 0, at, err
		}
	}
	r.running = c.slot
	return RankChunk, c.slot, nil
}

// sleep waits for messages, for the crew and for signals.
func (r *Rank) sleep(ns int64) (signal bool, err error) {
	var fds []int
	if r.cfg.Workers > 0 {
		fds = []int{r.tr.Epoll()}
	}
	w, err := mpiError(r.comm.link.Wait(fds, r.nextLook(ns), &r.comm.tune))
	if err != nil {
		return false, err
	}
	if err := r.Look(); err != nil {
		return false, err
	}
	if r.cfg.Workers > 0 {
		var wake process.Wake
		var ended []int
		if w.Ready {
			if wake, ended, err = r.tr.Wait(0); err != nil {
				return false, &Error{CodeSystem, err}
			}
		}
		if err := r.attend(wake, ended); err != nil {
			return false, err
		}
	}
	return w.Signal, nil
}

// Look takes in what has come, without waiting: a chunk may have been cancelled while it runs.
func (r *Rank) Look() error {
	_, err := mpiError(r.comm.link.Progress())
	return err
}

// cannotStart tells the master that no worker gets ready.
func (r *Rank) cannotStart(code Code, why error, off uint64) {
	if r.halted {
		return
	}
	r.halted = true
	if err := r.Refuse(code, why.Error(), off); err != nil {
		fmt.Fprintf(os.Stderr, "schwimmbad-go: rank %d: %v\n", r.comm.Rank(), err)
	}
}

func (r *Rank) wantsWorkers() bool { return r.serving && !r.halted }

func (r *Rank) poke() {} // there is one thread, and it is here

// Close ends the crew and gives everything back.
func (r *Rank) Close() error {
	r.serving = false
	r.rest()
	for i := range r.tr.Workers {
		_ = r.tr.Signal(i, syscall.SIGKILL) // what is left of them; the end of the lifeline does the same
	}
	r.comm.rank = nil
	if r.comm.link.Pending() > 0 {
		return nil // MPI may still read the arena: it goes with the process
	}
	if err := r.tr.Close(); err != nil {
		return &Error{CodeSystem, err}
	}
	return nil
}
