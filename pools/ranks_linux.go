//go:build linux && (amd64 || arm64)

package pools

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"time"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/mpix"
)

// After so long somebody who waits for other ranks is told why.
const rankPatience = 10 * time.Second

// ranks is MPI as this process has it: MPI cannot be started a second time, so there is one per program.
var ranks struct {
	sync.Mutex
	used bool
}

// openRanks makes a pool of the other ranks of this MPI run. On those it does not return.
func openRanks(o rankOptions) (*remotePool, error) {
	ranks.Lock()
	defer ranks.Unlock()
	info, err := LookAtMPI()
	if err != nil {
		return nil, fmt.Errorf("%w: this program was built without MPI: build it with -tags mpi, see docs/GO.md: %w", ErrUnavailable, err)
	}
	if ranks.used {
		return nil, fmt.Errorf("%w: an MPIPool was made in this process before. The other ranks leave when it is closed, and MPI cannot be "+
			"started again: keep one pool for the whole program", ErrUnavailable)
	}
	if !info.Initialized && launchedRanks() == 0 {
		return nil, fmt.Errorf("%w: no MPI launcher started this program; run it as: mpirun -n 4 %s", ErrUnavailable, os.Args[0])
	}
	level, err := StartMPI()
	if err != nil {
		return nil, err
	}
	ranks.used = true
	stop := func() error {
		if info.Initialized { // by somebody else, who finalizes it
			return nil
		}
		return StopMPI()
	}
	if level < mpix.ThreadSerialized {
		return nil, errors.Join(fmt.Errorf("%w: this MPI (%s) allows calls from its main thread alone, and a goroutine has no thread of its own",
			ErrUnavailable, info.Version), stop())
	}
	c, err := OpenComm(-1, os.Getenv("SCHWIMMBAD_GO_LIFELINE") != "0")
	if err != nil {
		return nil, err
	}
	if c.Size() < 2 {
		return nil, errors.Join(fmt.Errorf("%w: there is one MPI rank only, and a pool needs another one to work: mpirun -n 4 %s. Where each of "+
			"several ranks says this, the launcher belongs to another MPI than the program (%s)", ErrUnavailable, os.Args[0], info.Version), stop())
	}
	if err := await(c); err != nil {
		return nil, err
	}
	if c.Rank() != 0 {
		serveRank(c, o, stop)
	}
	e, err := openRemote(EngineConfig{Comm: c, PerRank: o.beside, MaxTasks: o.maxTasks}, o.python)
	if err != nil {
		return nil, err
	}
	e.beside = o.beside > 0
	e.hostOf = func(rank int) string {
		host, _, _ := c.Peer(rank)
		return host
	}
	e.leave = func() error { return leaveRanks(c, stop) }
	return e, nil
}

// await waits for the other ranks.
func await(c *Comm) error {
	began, told := time.Now(), false
	for {
		ready, err := c.Ready(100)
		if ready || err != nil {
			return err
		}
		if !told && time.Since(began) > rankPatience {
			told = true
			fmt.Fprintf(os.Stderr, "schwimmbad-go: rank %d has waited %v for the other %d ranks: all of them have to call NewMPIPool\n",
				c.Rank(), rankPatience, c.Size()-1)
		}
	}
}

// leaveRanks lets the other ranks go and ends MPI. After the death of a rank MPI can only be aborted, which ends this process as well.
func leaveRanks(c *Comm, stop func() error) error {
	for began, told := time.Now(), false; ; {
		if c.Broken() {
			AbortMPI(1)
		}
		left, err := c.Exit(100)
		if err != nil {
			fmt.Fprintln(os.Stderr, "schwimmbad-go:", err)
			AbortMPI(1)
		}
		if left == 0 {
			return stop()
		}
		if !told && time.Since(began) > rankPatience {
			told = true
			fmt.Fprintf(os.Stderr, "schwimmbad-go: waiting for %d ranks whose last task still runs\n", left)
		}
	}
}

// rankVariable tells a worker process the rank that it works beside, for errors.
const rankVariable = "SCHWIMMBAD_GO_RANK"

// rankServer is what a rank other than 0 does: serve until the master closes its pool.
type rankServer struct {
	c    *Comm
	r    *Rank
	w    *worker
	near *neighbour // in rank 0's crew, until the pool ends; nil: chunks come by MPI
	stop func() error
	told uint64 // slot of the chunk just run
	argv []string
	env  []string
}

// serveRank serves and ends the process. A fault of ours or of MPI's ends the job: it cannot go on without this rank.
func serveRank(c *Comm, o rankOptions, stop func() error) {
	signal.Ignore(os.Interrupt) // Ctrl-C is the master's to handle; hydra sends it to every rank
	s := &rankServer{c: c, stop: stop}
	err := s.open(o)
	if err == nil {
		s.loop()
	}
	s.abort(err)
}

func (s *rankServer) abort(err error) {
	fmt.Fprintf(os.Stderr, "schwimmbad-go: rank %d (pid %d): %v\n", s.c.Rank(), os.Getpid(), err)
	AbortMPI(1)
}

func (s *rankServer) open(o rankOptions) (err error) {
	if s.r, err = OpenRank(s.c, RankConfig{Workers: o.beside, MaxTasks: o.maxTasks}); err != nil {
		return err
	}
	if o.beside > 0 {
		if s.argv, s.env, err = rankCommand(o); err != nil {
			return err
		}
		s.env = append(s.env, rankVariable+"="+strconv.Itoa(s.c.Rank()))
		for i := range o.beside {
			if err := s.r.startExec(i, s.argv, s.env); err != nil {
				return err
			}
		}
		return nil
	}
	s.w = s.worker(0, s.r.tr.Mem())
	s.w.look = func() {
		if err := s.r.Look(); err != nil {
			s.abort(err)
		}
	}
	s.w.tell = func(slot, _ uint64) { s.told = slot }
	return nil
}

// worker is a worker in this process, which cannot be replaced.
func (s *rankServer) worker(index int, mem []byte) *worker {
	w := newWorker(index, mem)
	w.maxTasks = 0
	w.rank, w.limits = s.c.Rank(), true
	w.resume = func() { go s.loop() }
	return w
}

// rankCommand starts the worker processes beside a rank.
func rankCommand(o rankOptions) (argv, environ []string, err error) {
	if o.python {
		argv, environ, err = pythonWorker(context.Background(), o.choice)
		return argv, scrubbed(environ), err
	}
	argv, err = ownCommand()
	return argv, scrubbed(os.Environ()), err
}

// loop runs what comes. It ends the process.
func (s *rankServer) loop() {
	for {
		if s.near != nil {
			s.near.serve()
			s.near = nil
		}
		if s.told != 0 {
			slot := s.told
			s.told = 0
			if err := s.r.Answer(slot); err != nil {
				s.abort(err)
			}
		}
		what, at, err := s.r.Next()
		if err == nil {
			err = s.act(what, at)
		}
		if err != nil {
			s.abort(err)
		}
	}
}

func (s *rankServer) act(what int, at uint64) error {
	switch what {
	case RankChunk:
		s.w.run(at, s.w.load(at+offChunk)>>32)
	case RankOpen:
		return s.enter()
	case RankNeeds:
		return s.r.startExec(int(at), s.argv, s.env)
	case RankExit:
		return s.leave()
	}
	return nil
}

// enter makes this rank a worker of the pool that begins.
func (s *rankServer) enter() error {
	if s.w != nil {
		clear(s.w.funcs)
	}
	desk, err := s.r.Desk()
	if err != nil {
		return err
	}
	if desk != nil {
		if s.near, err = s.sit(desk); err != nil {
			return err
		}
	}
	return s.r.Hello()
}

func (s *rankServer) leave() error {
	if err := s.r.Close(); err != nil {
		return err
	}
	for {
		left, err := s.c.Exit(100)
		if err != nil {
			return err
		}
		if left == 0 {
			break
		}
	}
	if err := s.stop(); err != nil {
		return err
	}
	os.Exit(0)
	return nil
}

// startExec starts a program as worker i, which was asked for.
func (w *crew) startExec(i int, argv, env []string) error {
	delete(w.starting, i)
	if err := w.tr.StartExec(i, argv, env); err != nil {
		w.boss.cannotStart(CodeStart, err, 0)
	}
	return nil
}
