//go:build !mpi || !cgo

package mpix

import (
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// Comm is a communicator of our own.
type Comm struct{}

// Init initialises MPI unless that was done.
func Init() (int, error) { return 0, ErrNoMPI }

// Finalize ends MPI.
func Finalize() error { return ErrNoMPI }

// Look tells the state of MPI.
func Look() (Info, error) { return Info{}, ErrNoMPI }

// Abort ends the job.
func Abort(int) {}

// Dup starts to duplicate a communicator.
func Dup(int) (*Comm, error) { return nil, ErrNoMPI }

// Ready says whether every rank has come.
func (c *Comm) Ready(int64) (bool, error) { return false, ErrNoMPI }

// Rank is this process's place.
func (c *Comm) Rank() int { return 0 }

// Size is the number of ranks.
func (c *Comm) Size() int { return 0 }

// Node says how many of the ranks are on this machine.
func (c *Comm) Node() (int, bool, error) { return 0, false, ErrNoMPI }

// Tell gives all ranks what rank 0 has.
func (c *Comm) Tell([]byte) error { return ErrNoMPI }

// Ask gives rank 0 what each rank has.
func (c *Comm) Ask([]byte) ([]byte, error) { return nil, ErrNoMPI }

// Nudge lets MPI go on with what is under way in this process.
func (c *Comm) Nudge() error { return ErrNoMPI }

// KeepNudging does so after each pause.
func (c *Comm) KeepNudging(time.Duration) (func(), error) { return nil, ErrNoMPI }

// Link is the sending and receiving end of one process.
type Link struct {
	Dead  *Flag
	Ring  func(int)
	Quiet int64
}

// NewLink makes the end of this process.
func NewLink(*Comm, Receiver) *Link { return nil }

// Send queues a message.
func (l *Link) Send(int, wire.Message, []Part, func()) {}

// Wake says that a rank has to look at once.
func (l *Link) Wake(int) {}

// Flush hands what is queued to MPI.
func (l *Link) Flush() error { return ErrNoMPI }

// Queued says whether Flush would send anything.
func (l *Link) Queued() bool { return false }

// Pending says how many messages have not been sent yet.
func (l *Link) Pending() int { return 0 }

// Progress takes in what has come.
func (l *Link) Progress() (bool, error) { return false, ErrNoMPI }

// Wait waits for messages.
func (l *Link) Wait([]int, int64, *Tune) (Woken, error) { return Woken{}, ErrNoMPI }

// Hear makes waits look at a descriptor.
func (l *Link) Hear(int, [TokenSize]byte) {}

// Free gives back what the link holds.
func (l *Link) Free() {}

// Memory is a block from C.
func Memory(int) []byte { return nil }

// Release gives a block from Memory back.
func Release([]byte) {}

// Unmap ends a mapping.
func Unmap([]byte) error { return ErrNoMPI }

// Discard gives the pages of a shared mapping back to the system.
func Discard([]byte) error { return ErrNoMPI }

// TokenSize is the length of the secret by which the master knows its workers.
const TokenSize = 16

// Server is the master's end of the lifelines.
type Server struct{ Token [TokenSize]byte }

// Addresses lists where workers may find the master.
func (s *Server) Addresses() string { return "" }

// Ring wakes a worker.
func (s *Server) Ring(int) {}

// Left counts the workers that have not said goodbye.
func (s *Server) Left(time.Duration) int { return 0 }

// Close says goodbye to every worker.
func (s *Server) Close() {}

// Peer is what a worker says of itself when it connects.
type Peer struct {
	Rank, Pid int
	Host      string
}

// Client is a worker's end.
type Client struct{ Bell int }

// Close says goodbye to the master.
func (k *Client) Close() {}

// Listen opens the master's end.
func Listen(bool, func(p Peer)) (*Server, error) { return nil, ErrNoMPI }

// Dial connects a worker.
func Dial(string, [TokenSize]byte, int, func()) (*Client, error) { return nil, ErrNoMPI }
