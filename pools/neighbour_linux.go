//go:build linux && (amd64 || arm64)

package pools

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/mpix"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
)

// A neighbour is a rank on rank 0's machine that runs its tasks itself. It works from rank 0's arena, on the same pipes as a worker process
// would: MPI opens and closes its sessions and carries no task. Ranks that wait inside MPI look for messages again and again, and where
// they share CPUs with rank 0 they take its time; a read() of a pipe sleeps.

// sharedVariable bounds how many ranks work from rank 0's memory; 0: none, MPI carries everything.
const sharedVariable = "SCHWIMMBAD_GO_SHARED_RANKS"

// meet finds out which ranks can be neighbours: those that can open a descriptor of rank 0's. They cannot on another machine, in another
// container, or where /proc is hidden from them; and MPI must take calls from any thread, see nudgeEvery. Collective; the answer is rank 0's.
func (c *Comm) meet() (near []bool, err error) {
	offer := make([]byte, mpix.TokenSize+process.PlaceSize)
	most := 0
	if c.comm.Rank() == 0 {
		most = sharedRanks(c.comm.Size() - 1)
		probe, err := hide(offer)
		if err == nil {
			defer func() { _ = syscall.Close(probe) }() // it holds a random number
		} else { // the others wait for what comes now; they will not find it
			fmt.Fprintf(os.Stderr, "schwimmbad-go: %v; tasks go to the ranks by messages\n", err)
		}
	}
	if err := c.comm.Tell(offer); err != nil {
		return nil, err
	}
	answer := []byte{0}
	if c.comm.Rank() > 0 && c.level >= mpix.ThreadMultiple && process.ParsePlace(offer[mpix.TokenSize:]).Holds(offer[:mpix.TokenSize]) {
		answer[0] = 1
	}
	answers, err := c.comm.Ask(answer)
	near = make([]bool, len(answers))
	for rank, yes := range answers {
		if yes != 0 && most > 0 {
			near[rank] = true
			most--
		}
	}
	return near, err
}

// hide makes what ranks have to find: a random number, in a file, and in words with the file's place.
func hide(offer []byte) (probe int, err error) {
	token := offer[:mpix.TokenSize]
	if _, err := rand.Read(token); err != nil {
		return -1, err
	}
	if probe, err = process.Probe(token); err != nil {
		return -1, err
	}
	at, err := process.PlaceOf(probe)
	if err != nil {
		_ = syscall.Close(probe)
		return -1, err
	}
	copy(offer[mpix.TokenSize:], at.Append(nil))
	return probe, nil
}

// sharedRanks is how many ranks may be neighbours.
func sharedRanks(all int) int {
	text := os.Getenv(sharedVariable)
	if text == "" {
		return all
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 { // an error here would leave the other ranks waiting
		fmt.Fprintf(os.Stderr, "schwimmbad-go: %s=%q is ignored: it is a number of ranks, 0 or more\n", sharedVariable, text)
		return all
	}
	return n
}

// hire makes the neighbours among the ranks members of the crew, behind its worker processes.
func (f *fleet) hire() {
	for _, l := range f.lanes[1:] {
		if l.place >= 0 {
			f.e.tr.AttachRank(l.place, l.rank)
			f.awaited++
		}
	}
}

// talks says whether MPI has to be looked at. It need not be where all ranks are neighbours that are at work, and nothing is left to send.
func (f *fleet) talks() bool {
	return f.far || !f.detached && (f.awaited > 0 || f.comm.Broken() || f.comm.link.Queued() || f.unsent())
}

// inOrder is the place of a broadcast's result in the order of ranks. Whoever is free takes a task of the crew; but a neighbour runs one and
// is never replaced, so its place is its own. Those of the worker processes before it come in any order.
func (f *fleet) inOrder(j *job, first int64, worker int) int64 {
	switch {
	case first >= int64(len(f.e.tr.Workers)): // by MPI
		return first
	case worker >= f.e.cfg.Workers:
		return int64(worker)
	}
	j.seated++
	return int64(j.seated - 1)
}

// giveUp lets the neighbours, which are not to be killed, stop between two tasks.
func (f *fleet) giveUp() {
	for _, c := range f.e.chunks {
		if c.posted && c.slot != 0 {
			f.e.tr.Store32(c.slot+process.ReplyCancel, 1)
		}
	}
}

// tasks names what a rank has in hand.
func (f *fleet) tasks(rank int) string {
	l := f.lanes[rank]
	if l.place < 0 {
		return taskRanges(l.flying)
	}
	if c := f.e.claimed(l.place); c != nil {
		return taskRanges([]*chunk{c})
	}
	return ""
}

// keepPages is how the arena is trimmed while neighbours map it: not at all. A task may hand an array that lies there to MPI, whose
// libraries notice what becomes of pages only in their own process.
func keepPages([]byte) error { return nil }

// deskOffer is what the master says of the arena that a rank is to work from.
type deskOffer struct {
	index  int
	places [3]process.Place
}

func parseDesk(index int64, b []byte) (o deskOffer) {
	o.index = int(index)
	for i := range o.places {
		o.places[i] = process.ParsePlace(b[i*process.PlaceSize:])
	}
	return o
}

// Desk is a worker's place in rank 0's own crew, with descriptors that are its owner's to close.
type Desk struct {
	Index                int
	Work, Answer, Memory int
}

func (d *Desk) close() {
	for _, fd := range []int{d.Work, d.Answer, d.Memory} {
		_ = syscall.Close(fd) // nothing is buffered
	}
}

// Desk opens the place that the pool which begins has for this rank in rank 0's crew; nil: it has none, or has ended already. Where there is
// one, the caller says Hello, then serves as a worker process does until its work queue ends, and calls Next.
func (r *Rank) Desk() (*Desk, error) {
	o := r.desk
	r.desk = nil
	if o == nil {
		return nil, nil
	}
	// For reading as well: then a write into the pipe of a pool that has been freed meanwhile is no broken pipe.
	modes := [...]int{syscall.O_RDONLY, syscall.O_RDWR, syscall.O_RDWR}
	var fds [3]int
	for i, p := range o.places {
		fd, err := p.Open(modes[i])
		if err != nil {
			for _, fd := range fds[:i] {
				_ = syscall.Close(fd)
			}
			if errors.Is(err, process.ErrGone) {
				return nil, nil
			}
			return nil, &Error{CodeSystem, err}
		}
		fds[i] = fd
	}
	d := &Desk{o.index, fds[0], fds[1], fds[2]}
	r.rest()
	var err error
	if r.moving, err = r.comm.comm.KeepNudging(nudgeEvery); err != nil {
		d.close()
		return nil, &Error{CodeSystem, err}
	}
	return d, nil
}

// rest ends what keeps MPI moving while this rank works as a neighbour.
func (r *Rank) rest() {
	if r.moving != nil {
		r.moving()
		r.moving = nil
	}
}

// What tasks have begun in MPI without waiting for its end, such as the sending of a large array, goes on inside calls of MPI only. A neighbour,
// and rank 0 with neighbours alone, sleeps elsewhere; so they make such a call after this time.
const nudgeEvery = 10 * time.Millisecond

// doze waits for something of the crew's, as the transport does, and meanwhile lets MPI go on.
func (f *fleet) doze(ns int64) (wake process.Wake, ended []int, err error) {
	for {
		part := min(ns, int64(nudgeEvery))
		wake, ended, err = f.e.tr.Wait(int((part + 999_999) / 1e6))
		if ns -= part; ns <= 0 || err != nil || wake != (process.Wake{}) {
			return wake, ended, err
		}
		if err := f.comm.comm.Nudge(); err != nil {
			return wake, ended, err
		}
	}
}

// neighbour is a Go rank at work in rank 0's crew.
type neighbour struct {
	w    *worker
	desk *Desk
}

func (s *rankServer) sit(d *Desk) (*neighbour, error) {
	mem, err := mapShared(d.Memory)
	if err != nil {
		return nil, err
	}
	n := &neighbour{s.worker(d.Index, mem), d}
	n.w.tell = func(slot, generation uint64) { sendRecord(d.Answer, uint32(generation), uint32(slot/process.PageSize)) }
	return n, nil
}

// serve runs chunks until the pool ends. The mapping stays: a task that has exceeded its time may still use it, and there is one pool in the
// life of a program.
func (n *neighbour) serve() {
	serveRecords(n.w, n.desk.Work)
	n.desk.close()
}
