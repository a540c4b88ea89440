//go:build linux && (amd64 || arm64)

package pools

import (
	"fmt"
	"slices"
	"strings"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/mpix"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// fleet is the lanes of a pool whose workers are MPI ranks. A chunk that is posted waits here until a lane has room for it: the
// queue that local workers share, for workers that share nothing.
type fleet struct {
	e       *Engine
	comm    *Comm
	session int64
	lanes   []*lane // by rank; lanes[0] is the crew, with 0 workers where rank 0 only distributes
	order   []*lane // heap of those with workers, the least loaded one first
	queue   []*chunk
	clock   uint64
	pace    mpix.Tune // of waits for answers
	far     bool      // some rank gets its tasks by MPI
	awaited int       // neighbours that have not said hello

	stamps  map[uint64]uint64  // of the blobs allocated now, by offset
	sending map[uint64]int     // ranges of the arena that MPI still reads, by offset
	loose   map[uint64][]loose // by slot
	zombies map[uint64]bool    // those of them that are free when it has done
	frame   wire.Frame         // scratch
	parts   []mpix.Part        // scratch
	failure error              // a rank cannot work
	failOff uint64

	detached bool // the communicator is another pool's
}

// newFleet makes the lanes of the ranks of c: perRank worker processes beside each or, with 0, the ranks themselves.
func newFleet(e *Engine, c *Comm, local, perRank int) *fleet {
	f := &fleet{
		e: e, comm: c, session: c.sessions + 1, stamps: make(map[uint64]uint64), sending: make(map[uint64]int), zombies: make(map[uint64]bool),
		loose: make(map[uint64][]loose),
	}
	f.expect(0)
	crew := &lane{workers: local, ready: true, place: -1}
	f.lanes = append(f.lanes, crew)
	for r := 1; r < c.Size(); r++ {
		l := &lane{rank: r, workers: max(perRank, 1), blobs: make(map[uint64]uint64), place: -1}
		if perRank == 0 && c.near[r] {
			l.workers, l.place = 0, crew.workers
			crew.workers++
		}
		f.far = f.far || l.workers > 0
		f.lanes = append(f.lanes, l)
	}
	for _, l := range f.lanes {
		if l.workers > 0 {
			f.order = append(f.order, l)
		}
	}
	for i, l := range f.order {
		l.at = i
	}
	return f
}

// begin takes over the communicator and begins a session on it.
func (f *fleet) begin(setup []byte) error {
	f.hire()
	tr := f.e.tr
	switch {
	case f.awaited > 0:
		tr.Discard = keepPages
	case f.far:
		tr.Discard = mpix.Discard
	}
	if f.far {
		f.e.busy, tr.Unmap = f.busy, mpix.Unmap
	}
	f.comm.begin(f, tr.Kick)
	if err := f.open(setup); err != nil {
		return err
	}
	return f.flush()
}

// open begins a session: the ranks set themselves up anew, from what setup holds or, without it, from what their own script said.
func (f *fleet) open(setup []byte) error {
	places, err := f.e.tr.Places()
	if err != nil {
		return &Error{CodeSystem, err}
	}
	var desk []byte
	for _, p := range places {
		desk = p.Append(desk)
	}
	for _, l := range f.lanes[1:] {
		m := wire.Message{Kind: wire.MsgOpen, Chunk: uint64(f.session), A: int64(f.e.cfg.MaxTasks)}
		var parts []mpix.Part
		if l.place >= 0 {
			m.Flags, m.B = wire.FlagShare, int64(l.place)
			parts = append(parts, mpix.Part{Data: desk})
		}
		if setup != nil {
			parts = append(parts, mpix.Part{Data: setup})
		}
		f.comm.link.Send(l.rank, m, parts, nil)
		f.comm.link.Wake(l.rank)
	}
	return nil
}

// tell sends every rank a message without parts.
func (f *fleet) tell(m wire.Message) {
	for _, l := range f.lanes[1:] {
		f.comm.link.Send(l.rank, m, nil, nil)
		f.comm.link.Wake(l.rank)
	}
}

// detach leaves the communicator to another pool: nothing of this one is under way there any more. A caller may still hold a port of
// its engine, and results that lie in its memory.
func (f *fleet) detach() {
	if !f.detached {
		f.detached = true
		f.comm.begin(nil, nil)
		f.comm.lastJob, f.comm.generation = f.e.sched.Marks()
	}
}

// expect suits the waits to chunks that take so many ns (0: nobody knows): who waits for what comes in milliseconds need not look
// every few microseconds, and take the CPU from those who work. (1790 tasks of 5 ms on three ranks and two CPUs: 5.6 s on Open MPI and 6.3
// on MPICH before, 5.3 and 5.5 now.)
func (f *fleet) expect(ns float64) {
	f.pace = f.comm.tune
	if ns > paceLeast {
		f.pace.Spin = 0
		f.pace.Floor = max(f.pace.Floor, int64(min(ns/pacePart, paceMost)))
	}
}

// wait sleeps until a message or something of the crew's has come. Without the engine's lock.
func (f *fleet) wait(ns int64) (w mpix.Woken, wake process.Wake, ended []int, err error) {
	if f.comm.Broken() { // nothing comes any more
		wake, ended, err = f.e.tr.Wait(int((ns + 999_999) / 1e6))
		return w, wake, ended, err
	}
	w, err = mpiError(f.comm.link.Wait([]int{f.e.tr.Epoll()}, ns, &f.pace))
	if err == nil && w.Ready {
		wake, ended, err = f.e.tr.Wait(0)
	}
	return w, wake, ended, err
}

// progress takes in what has come from the ranks.
func (f *fleet) progress() error {
	if f.comm.Broken() {
		f.bury()
		return nil
	}
	_, err := mpiError(f.comm.link.Progress())
	return err
}

// flush hands out what waits, and MPI what is to be sent; while another thread watches, that one does.
func (f *fleet) flush() error {
	if f.detached {
		return nil
	}
	f.assign()
	if f.comm.Broken() || !f.comm.link.Queued() {
		return nil
	}
	if f.e.leading {
		f.e.tr.Kick()
		return nil
	}
	_, err := mpiError(0, f.comm.link.Flush())
	return err
}

// unsent says whether MPI still reads or writes the arena.
func (f *fleet) unsent() bool { return f.comm.link.Pending() > 0 }

// checkThread refuses calls from threads that may not use MPI.
func (f *fleet) checkThread() error {
	if f.comm.level >= mpix.ThreadSerialized {
		return nil
	}
	if info, err := mpix.Look(); err != nil || !info.MainThread {
		return fail(CodeMPI, "MPI was started for its main thread alone (mpi4py.rc.threads = False?): use the pool in the thread that "+
			"imported mpi4py.MPI, or ask for thread support")
	}
	return nil
}

// cancel lets the ranks stop what they run of a job.
func (f *fleet) cancel(j *job, kill bool) {
	if f.detached {
		return
	}
	m := wire.Message{Kind: wire.MsgCancel, Job: uint64(j.id)}
	if kill {
		m.Flags = wire.FlagKill
	}
	for _, l := range f.lanes[1:] {
		if slices.ContainsFunc(l.flying, func(c *chunk) bool { return c.job == j }) {
			f.comm.link.Send(l.rank, m, nil, nil)
			f.comm.link.Wake(l.rank)
		}
	}
}

// fail makes the pool unusable.
func (f *fleet) fail(code Code, why error, off uint64) {
	if f.failure == nil {
		f.failure, f.failOff = &Error{code, why}, off
	}
	f.e.failure, f.e.failOff = f.failure, f.failOff
	f.e.poke()
}

// bury tells what was lost with ranks that have died. MPI cannot go on without them.
func (f *fleet) bury() {
	var texts []string
	for _, p := range f.comm.losses() {
		texts = append(texts, obituary(p, f.tasks(p.Rank)))
	}
	if len(texts) > 0 {
		slices.Sort(texts)
		f.fail(CodeLost, fmt.Errorf("%s", strings.Join(texts, "; ")), 0)
	}
}

// inHand names what a rank has in hand. Called on any goroutine, also where this thread or one that waits for it has the lock; so it is
// tried for a moment, in which whoever is changing just that gets done.
func (f *fleet) inHand(rank int) string {
	for tries := 0; !f.e.mu.TryLock(); tries++ {
		if tries == 20 {
			return ""
		}
		process.Nap(50e3)
	}
	defer f.e.mu.Unlock()
	return f.tasks(rank)
}
