//go:build linux && (amd64 || arm64)

package pools

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/mpix"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

const (
	// exitLost is the status of a rank whose master has died: none that a shell or Python uses.
	exitLost     = 14
	greetingSize = 512
)

// Comm is a communicator of this process's own, over which one pool at a time works. It lives from the first pool over its ranks to
// the end of the program: the other ranks never leave the call that made it.
type Comm struct {
	comm  *mpix.Comm
	link  *mpix.Link
	level int
	tune  mpix.Tune
	ready bool

	near []bool // rank 0: which ranks can work from its memory

	server *mpix.Server
	client *mpix.Client
	watch  bool

	mu    sync.Mutex
	dead  map[int]mpix.Peer     // ranks whose process is gone
	kick  func()                // wakes the thread that waits
	had   func(rank int) string // what a rank has in hand, in words, as far as that can be told at once
	fleet *fleet                // rank 0: the ranks' side of the pool that is open
	rank  *Rank                 // other ranks
	peers []wire.RankInfo

	leaving    bool
	gone       int   // rank 0: ranks that have said goodbye
	sessions   int64 // pools so far
	lastJob    dispatch.JobID
	generation uint32
}

// OpenComm begins to make a communicator of the ranks of the one with this Fortran handle (-1: the world). All its ranks have to make
// this call; Ready tells when they have.
func OpenComm(fortran int, watch bool) (*Comm, error) {
	info, err := LookAtMPI()
	if err != nil {
		return nil, err
	}
	if !info.Initialized || info.Finalized {
		return nil, fail(CodeMPI, "MPI is not running in this process")
	}
	c, err := mpiError(mpix.Dup(fortran))
	if err != nil {
		return nil, err
	}
	return &Comm{comm: c, level: info.Level, watch: watch, dead: make(map[int]mpix.Peer), peers: make([]wire.RankInfo, c.Size())}, nil
}

// Ready waits up to so many milliseconds for the other ranks.
func (c *Comm) Ready(ms int) (bool, error) {
	if c.ready {
		return true, nil
	}
	ok, err := mpiError(c.comm.Ready(int64(ms) * 1e6))
	if err != nil || !ok {
		return false, err
	}
	c.link = mpix.NewLink(c.comm, c)
	if err := c.greet(); err != nil {
		return false, err
	}
	c.ready = true
	return true, nil
}

// greet lets the ranks connect their lifelines to the master.
func (c *Comm) greet() error {
	here, oneNode, err := c.comm.Node()
	if err != nil {
		return &Error{CodeMPI, err}
	}
	c.tune = mpix.Crowded
	if here <= process.MachineCPUs()+1 { // rank 0 waits while the others work, and they while it prepares
		c.tune = mpix.Roomy
	}
	greeting := make([]byte, greetingSize)
	if c.comm.Rank() == 0 && c.watch {
		if c.server, err = mpix.Listen(oneNode, c.died); err != nil {
			fmt.Fprintf(os.Stderr, "schwimmbad-go: %v; the death of a rank may go unnoticed\n", err)
		} else {
			c.link.Ring, c.link.Quiet = c.server.Ring, c.tune.Spin
			copy(greeting, c.server.Token[:])
			text := c.server.Addresses()
			if len(text) > greetingSize-mpix.TokenSize-1 {
				text = text[:greetingSize-mpix.TokenSize-1]
			}
			copy(greeting[mpix.TokenSize:], text)
		}
	}
	if _, err := mpiError(0, c.comm.Tell(greeting)); err != nil {
		return err
	}
	if c.near, err = mpiError(c.meet()); err != nil {
		return err
	}
	text := string(bytes.TrimRight(greeting[mpix.TokenSize:], "\x00"))
	if c.comm.Rank() == 0 || text == "" {
		return nil
	}
	if c.client, err = mpix.Dial(text, [mpix.TokenSize]byte(greeting), c.comm.Rank(), c.orphaned); err != nil {
		fmt.Fprintf(os.Stderr, "schwimmbad-go: rank %d cannot watch the master: %v\n", c.comm.Rank(), err)
		return nil
	}
	c.link.Hear(c.client.Bell, [mpix.TokenSize]byte(greeting))
	return nil
}

// begin hands the communicator to a pool's fleet, whose thread kick wakes; nil: to nobody.
func (c *Comm) begin(f *fleet, kick func()) {
	c.fleet = f
	if f != nil {
		c.sessions = f.session
	}
	c.mu.Lock()
	c.kick, c.had = kick, nil
	if f != nil {
		c.had = f.inHand
	}
	c.mu.Unlock()
}

// died notes that the process of a rank is gone. Called on a goroutine of the lifeline. It tells of the first one itself: the
// launcher may end this process before the thread that is in a call has raised anything.
func (c *Comm) died(p mpix.Peer) {
	c.mu.Lock()
	first := len(c.dead) == 0
	c.dead[p.Rank] = p
	kick, had := c.kick, c.had
	c.mu.Unlock()
	if first && !aborting.Load() {
		tasks := ""
		if had != nil {
			tasks = had(p.Rank)
		}
		fmt.Fprintf(os.Stderr, "schwimmbad-go: %s; MPI cannot go on without it\n", obituary(p, tasks))
	}
	c.link.Dead.Set()
	if kick != nil {
		kick()
	}
}

func obituary(p mpix.Peer, tasks string) string {
	text := fmt.Sprintf("rank %d (pid %d on %s) has died", p.Rank, p.Pid, p.Host)
	if tasks != "" {
		text += " while it had " + tasks
	}
	return text
}

// orphaned ends a rank whose master is gone, whatever it is doing: nobody waits for it, and MPI would wait for ever.
func (c *Comm) orphaned() {
	fmt.Fprintf(os.Stderr, "schwimmbad-go: rank %d (pid %d) ends: the master has died\n", c.comm.Rank(), os.Getpid())
	syscall.Exit(exitLost)
}

// losses are the ranks that have died.
func (c *Comm) losses() (peers []mpix.Peer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.dead {
		peers = append(peers, p)
	}
	return peers
}

// Rank and Size tell this process's place and the number of processes.
func (c *Comm) Rank() int { return c.comm.Rank() }

// Size is the number of ranks.
func (c *Comm) Size() int { return c.comm.Size() }

// Broken says whether a rank has died: MPI cannot be finalized then, only aborted.
func (c *Comm) Broken() bool { return c.link != nil && c.link.Dead.IsSet() }

// Peer tells host, pid and number of workers of a rank that has said hello, zero values before.
func (c *Comm) Peer(rank int) (host string, pid, workers int) {
	if rank < 0 || rank >= len(c.peers) {
		return "", 0, 0
	}
	p := c.peers[rank]
	return p.Host, p.Pid, p.Workers
}

// Exit lets the other ranks leave and waits up to so many milliseconds until they are about to; it says how many are not yet, for
// another call. Rank 0 calls it at its end, another rank when it has been told to leave.
func (c *Comm) Exit(ms int) (int, error) {
	if !c.ready {
		return 0, nil
	}
	end := process.Monotonic() + int64(ms)*1e6
	if c.comm.Rank() > 0 {
		if !c.leaving {
			c.leaving = true
			c.link.Send(0, wire.Message{Kind: wire.MsgBye}, nil, nil)
		}
		left, err := c.drain(end)
		if left == 0 {
			if c.client != nil {
				c.link.Hear(-1, [mpix.TokenSize]byte{})
				c.client.Close()
			}
			c.link.Free()
		}
		return left, err
	}
	if c.Broken() {
		return 0, nil
	}
	if !c.leaving {
		c.leaving = true
		for r := 1; r < c.comm.Size(); r++ {
			c.link.Send(r, wire.Message{Kind: wire.MsgExit}, nil, nil)
			c.link.Wake(r)
		}
	}
	// What a rank says last must not lie there when MPI ends: UCX, inside MPICH, would complain on stdout.
	for c.gone < c.comm.Size()-1 {
		if _, err := c.drain(end); err != nil {
			return 0, err
		}
		left := end - process.Monotonic()
		if left <= 0 || c.Broken() {
			return c.comm.Size() - 1 - c.gone, nil
		}
		if _, err := mpiError(c.link.Wait(nil, left, &c.tune)); err != nil {
			return 0, err
		}
		if _, err := mpiError(c.link.Progress()); err != nil {
			return 0, err
		}
	}
	left, err := c.drain(end)
	if err != nil {
		return left, err
	}
	if c.server != nil {
		if left = c.server.Left(time.Duration(end - process.Monotonic())); left == 0 {
			c.server.Close()
		}
	}
	if left == 0 {
		c.link.Free()
	}
	return left, nil
}

// drain sends what is queued and waits until it has left.
func (c *Comm) drain(end int64) (int, error) {
	for {
		if _, err := mpiError(c.link.Progress()); err != nil {
			return 0, err
		}
		if _, err := mpiError(0, c.link.Flush()); err != nil {
			return 0, err
		}
		left := end - process.Monotonic()
		if n := c.link.Pending(); n == 0 || left <= 0 {
			return n, nil
		}
		w, err := mpiError(c.link.Wait(nil, min(left, 10e6), &c.tune))
		if err != nil || w.Dead {
			return c.link.Pending(), err
		}
	}
}

// Place and Take hand a message to whoever it is for.
func (c *Comm) Place(src int, m *wire.Message, parts []wire.Part) mpix.Place {
	size := mpix.Room(parts, nil)
	switch {
	case c.rank != nil:
		return mpix.Place{Mem: c.rank.place(m, size)}
	case m.Kind == wire.MsgHello && size <= wire.MaxControl && !slices.ContainsFunc(parts, isBulk):
		return mpix.Place{Mem: make([]byte, size)} // short: it is copied, MPI never sees it
	case c.fleet != nil:
		return c.fleet.place(src, m, parts)
	}
	return mpix.Place{}
}

func isBulk(p wire.Part) bool { return p.Bulk }

// Take hands on a message that is complete.
func (c *Comm) Take(src int, m *wire.Message, parts []wire.Part, at mpix.Place) error {
	switch {
	case c.rank != nil:
		return c.rank.take(m, parts, at.Mem)
	case m.Kind == wire.MsgHello:
		info, err := wire.Unmarshal[wire.RankInfo](at.Mem, 0)
		if err != nil {
			return err
		}
		c.peers[src] = info
	case m.Kind == wire.MsgBye:
		c.gone++
		return nil
	}
	if c.fleet != nil {
		return c.fleet.take(src, m, parts, at)
	}
	return nil
}
