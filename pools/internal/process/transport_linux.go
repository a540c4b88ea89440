//go:build linux && (amd64 || arm64)

// Package process is the transport to worker processes on this machine: a shared-memory arena for the payloads, one
// pipe that hands 8-byte records to whichever worker is free, one that brings them back, and a pidfd per worker
// that wakes the wait when it dies. It knows no scheduling policy and does not look inside payloads.
//
// Nothing here blocks but Wait, no goroutine is started, and all methods but Wait, Kick and Load are called under the
// engine's lock.
package process

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// State of a worker slot.
type State uint8

// States a worker goes through.
const (
	Absent   State = iota // never started, or its end was processed
	Starting              // process exists, has not said hello
	Ready                 // has said hello
)

// Worker is one process the transport feeds, or one thread of this process.
type Worker struct {
	Pid    int
	Child  bool // our own child: its exit status can be collected here
	Thread bool // of this process: it cannot be killed, does not die alone, and says when it leaves
	Rank   int  // the MPI rank that it is, 0: none. It must not be killed, others notice its death, and it is not waited for
	State  State
	pidfd  int
}

// Exit tells how a worker ended.
type Exit struct {
	Worker  int
	Pid     int
	Known   bool // Code is meaningful
	Code    int  // exit code, or the negative signal number
	WasRead State
}

// Transport owns the arena, the pipes, the pidfds and the epoll instance of one pool.
type Transport struct {
	*Arena
	Workers []Worker
	pipe    pipes
	epoll   int
	kick    int // eventfd: wakes the thread in Wait
	buf     [512 * 8]byte
	events  [64]syscall.EpollEvent
}

const (
	tagAnswer = -1
	tagKick   = -2
)

// Open makes a transport for n workers; none is started yet.
func Open(n int, arenaBytes uint64) (*Transport, error) {
	arena, err := NewArena(n, arenaBytes)
	if err != nil {
		return nil, err
	}
	t := &Transport{Arena: arena, Workers: make([]Worker, n), epoll: -1, kick: -1}
	for i := range t.Workers {
		t.Workers[i].pidfd = -1
	}
	if err := t.openFds(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *Transport) openFds() error {
	if err := t.pipe.open(); err != nil {
		return err
	}
	var err error
	if t.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll_create1: %w", err)
	}
	const efdCloexecNonblock = 0x80000 | 0x800
	fd, _, e := syscall.Syscall(syscall.SYS_EVENTFD2, 0, efdCloexecNonblock, 0)
	if e != 0 {
		return fmt.Errorf("eventfd2: %w", e)
	}
	t.kick = int(fd)
	if err := t.watch(t.pipe.answer[0], tagAnswer); err != nil {
		return err
	}
	return t.watch(t.kick, tagKick)
}

func (t *Transport) watch(fd int, tag int32) error {
	ev := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: tag}
	if err := syscall.EpollCtl(t.epoll, syscall.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	return nil
}

// WorkerFds are the descriptors a worker needs, in the order of the protocol: work, answer, life, arena.
func (t *Transport) WorkerFds() [4]int {
	return [4]int{t.pipe.work[0], t.pipe.answer[1], t.pipe.life[0], t.Fd()}
}

// MasterFds are the descriptors that no other process may keep: a forked child closes them.
func (t *Transport) MasterFds() [5]int {
	return [5]int{t.pipe.work[1], t.pipe.answer[0], t.pipe.life[1], t.epoll, t.kick}
}

// Epoll can be read when Wait would find something.
func (t *Transport) Epoll() int { return t.epoll }

// Attach registers a process, started by anyone, as worker i.
func (t *Transport) Attach(i, pid int, child bool) error {
	fd, _, e := syscall.Syscall(sysPidfdOpen, uintptr(pid), 0, 0)
	if e != 0 {
		return fmt.Errorf("worker %d: pidfd_open(%d): %w", i, pid, e)
	}
	if err := t.watch(int(fd), int32(i)); err != nil {
		_ = syscall.Close(int(fd))
		return err
	}
	w := &t.Workers[i]
	w.pidfd, w.Pid, w.Child = int(fd), pid, child
	if w.State != Ready { // a quick worker may have said hello already
		w.State = Starting
	}
	return nil
}

// AttachThread registers a thread of this process, which reads and writes the same pipes as a process would, as worker i.
func (t *Transport) AttachThread(i int) {
	w := &t.Workers[i]
	w.Pid, w.Thread = syscall.Getpid(), true
	if w.State != Ready {
		w.State = Starting
	}
}

// AttachRank makes an MPI rank on this machine, which opens the descriptors by their Places, worker i.
func (t *Transport) AttachRank(i, rank int) {
	t.Workers[i] = Worker{Rank: rank, State: Starting, pidfd: -1}
}

// Places tell a rank where to find the work queue, the answer pipe and the arena.
func (t *Transport) Places() (all [3]Place, err error) {
	for k, fd := range [...]int{t.pipe.work[0], t.pipe.answer[1], t.Fd()} {
		if all[k], err = PlaceOf(fd); err != nil {
			return all, err
		}
	}
	return all, nil
}

// Forget empties the place of a thread that has left, or of a process that cannot be watched.
func (t *Transport) Forget(i int) { t.Workers[i] = Worker{pidfd: -1} }

// ResetCell prepares worker i's cell for a new process; the heap keeps blocks that are still being read.
func (t *Transport) ResetCell(i int) {
	cell := t.Cell(i)
	top := t.Load(cell + CellHeapTop)
	clear(t.mem[cell : cell+CellSize])
	if start, _ := t.Heap(i); top < start {
		top = start
	}
	t.Store(cell+CellHeapTop, top)
}

// Post writes records to the shared work queue and says how many went in; the pipe may be full.
func (t *Transport) Post(records []uint64) (int, error) {
	for done := 0; done < len(records); {
		n := min(len(records)-done, len(t.buf)/8)
		for i := range n {
			binary.LittleEndian.PutUint64(t.buf[8*i:], records[done+i])
		}
		w, err := syscall.Write(t.pipe.work[1], t.buf[:8*n])
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			if n > 1 { // no room for all of them as one write: try one by one
				w, err = syscall.Write(t.pipe.work[1], t.buf[:8])
				if err == nil {
					done += w / 8
					continue
				}
			}
			return done, nil
		case err != nil:
			return done, fmt.Errorf("work queue: %w", err)
		}
		done += w / 8
	}
	return len(records), nil
}

// QueuedWork says how many posted records no worker has taken.
func (t *Transport) QueuedWork() int { return queued(t.pipe.work[0]) }

// Wake is what one Wait found.
type Wake struct {
	Answers bool // the answer pipe is readable
	Exits   bool // at least one worker ended; see Ended
	Signal  bool // a signal interrupted the wait
	Kicked  bool // somebody called Kick
}

// Wait sleeps until something happens, timeoutMs at most. It is the only place that sleeps, runs without the engine's
// lock, and in one thread at a time. syscall.Syscall, not RawSyscall: the scheduler of Go must be able to take the
// processor away while this thread sleeps.
func (t *Transport) Wait(timeoutMs int) (w Wake, ended []int, err error) {
	n, _, e := syscall.Syscall6(syscall.SYS_EPOLL_PWAIT, uintptr(t.epoll), uintptr(unsafe.Pointer(&t.events[0])),
		uintptr(len(t.events)), uintptr(timeoutMs), 0, 0)
	if e == syscall.EINTR {
		return Wake{Signal: true}, nil, nil
	}
	if e != 0 {
		return w, nil, fmt.Errorf("epoll_pwait: %w", e)
	}
	for i := range int(n) {
		switch tag := t.events[i].Fd; {
		case tag == tagAnswer:
			w.Answers = true
		case tag == tagKick:
			w.Kicked = true
			var b [8]byte
			_, _ = syscall.Read(t.kick, b[:]) // resets the counter; EAGAIN if another wake-up did
		case tag >= 0:
			ended = append(ended, int(tag))
		}
	}
	w.Exits = len(ended) > 0
	return w, ended, nil
}

// How often a spinning thread gives its CPU away. The kernel may have woken the worker on this very CPU, where it runs only if
// we step aside; but each time costs the thread a slice of its share, so it must not do so in a loop (measured:
// stalls of milliseconds).
const spinYields = 2

// Spin looks for answers without sleeping, ns at most, and says whether there are any. Called like Wait, and instead of it
// where an answer is expected in less time than it takes to wake this thread. Ends of workers are left to Wait.
func (t *Transport) Spin(ns int64) bool {
	start := time.Now()
	for n := 0; ; n++ {
		if queued(t.pipe.answer[0]) > 0 {
			return true
		}
		if n < spinYields {
			_, _, _ = syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
		} else if time.Since(start) >= time.Duration(ns) {
			return false
		}
	}
}

// Kick wakes the thread in Wait, from any thread.
func (t *Transport) Kick() {
	one := [8]byte{1}
	_, _ = syscall.Write(t.kick, one[:]) // EAGAIN: a wake-up is pending already
}

// Answers reads the records that came back, in the order they came.
func (t *Transport) Answers(dst []uint64) ([]uint64, error) {
	for {
		n, err := syscall.Read(t.pipe.answer[0], t.buf[:])
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return dst, nil
		case err != nil:
			return dst, fmt.Errorf("answer pipe: %w", err)
		}
		for i := 0; i+8 <= n; i += 8 {
			dst = append(dst, binary.LittleEndian.Uint64(t.buf[i:]))
		}
		if n < len(t.buf) {
			return dst, nil
		}
	}
}

// Bury collects the exit status of worker i, whose pidfd is readable, and frees its place.
func (t *Transport) Bury(i int) Exit {
	w := &t.Workers[i]
	x := Exit{Worker: i, Pid: w.Pid, WasRead: w.State}
	if w.Child {
		var ws syscall.WaitStatus
		for {
			pid, err := syscall.Wait4(w.Pid, &ws, syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if err == nil && pid == w.Pid { // ECHILD: somebody else's wait() or SIGCHLD ignored took it
				x.Known = true
				if ws.Signaled() {
					x.Code = -int(ws.Signal())
				} else {
					x.Code = ws.ExitStatus()
				}
			}
			break
		}
	}
	if w.pidfd >= 0 {
		_ = syscall.EpollCtl(t.epoll, syscall.EPOLL_CTL_DEL, w.pidfd, nil)
		closeFd(&w.pidfd)
	}
	*w = Worker{pidfd: -1}
	return x
}

// Gone says whether worker i has ended, also if nobody has looked since.
func (t *Transport) Gone(i int) bool {
	fd := struct {
		fd      int32
		events  int16
		revents int16
	}{int32(t.Workers[i].pidfd), 1, 0}
	if fd.fd < 0 {
		return t.Workers[i].State == Absent
	}
	var now syscall.Timespec
	n, _, e := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&fd)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return e == 0 && n > 0
}

// Signal sends sig to worker i through its pidfd, so never to a stranger who got the same pid.
func (t *Transport) Signal(i int, sig syscall.Signal) error {
	w := &t.Workers[i]
	if w.pidfd < 0 {
		return nil
	}
	_, _, e := syscall.Syscall6(sysPidfdSendSignal, uintptr(w.pidfd), uintptr(sig), 0, 0, 0, 0)
	if e != 0 && e != syscall.ESRCH {
		return fmt.Errorf("worker %d (pid %d): %w", i, w.Pid, e)
	}
	return nil
}

// Alive counts the workers that exist, without ranks.
func (t *Transport) Alive() (n int) {
	for i := range t.Workers {
		if t.Workers[i].State != Absent && t.Workers[i].Rank == 0 {
			n++
		}
	}
	return n
}

// HangUp makes idle workers leave: they see the end of the queue. Busy ones see it after their task. The descriptor's number
// stays taken (by a copy of another one), because forked children close the numbers that MasterFds named.
func (t *Transport) HangUp() {
	if t.pipe.work[1] >= 0 {
		// It cannot fail: both descriptors are open and the number is in use.
		_ = syscall.Dup3(t.kick, t.pipe.work[1], syscall.O_CLOEXEC)
	}
}

// Close frees every descriptor and the mapping. Workers that still run are killed by the end of the lifeline.
func (t *Transport) Close() error {
	t.pipe.close()
	for i := range t.Workers {
		closeFd(&t.Workers[i].pidfd)
	}
	closeFd(&t.epoll)
	closeFd(&t.kick)
	runtime.KeepAlive(t)
	return t.Arena.Close()
}

// Go's own clock is the same one, read without a system call, but tells no absolute values.
var (
	loaded   = time.Now()
	loadedAt = monotonic()
)

// Monotonic is CLOCK_MONOTONIC in nanoseconds: the clock that workers write into their cells.
func Monotonic() int64 { return loadedAt + int64(time.Since(loaded)) }

func monotonic() int64 {
	var ts syscall.Timespec
	const clockMonotonic = 1
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}
