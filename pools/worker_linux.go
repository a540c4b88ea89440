//go:build linux && (amd64 || arm64)

package pools

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/codec"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// Results are written out when this much time has passed since the last time; blocks of tasks that are shorter than the second grow. As in
// _worker.py.
const (
	flushAfter = 100e3 // ns
	shortBlock = 20e3  // ns
)

// worker runs chunks of registered functions, in a process of its own or in an MPI rank: the worker's side of docs/PROTOCOL.md. It
// belongs to one goroutine at a time.
type worker struct {
	index    int
	mem      []byte
	cell     uint64
	maxTasks uint64
	tell     func(slot, generation uint64) // the reply in a slot is complete
	retire   func()                        // after its last task
	look     func()                        // take in what has come, where nobody else sets the cancel word; nil: somebody does
	looking  sync.Mutex                    // for look, which a timer calls as well
	limits   bool                          // nobody else ends a task that takes too long
	rank     int                           // of the MPI rank, 0: none
	heap     workerHeap
	encoder  codec.Encoder
	frame    wire.Frame
	funcs    map[uint64]servant // by serial of their blob
	resume   func()             // goes on with the next record, on a goroutine of its own, where a task has ended this one

	tasks, chunks, busy uint64
}

func newWorker(index int, mem []byte) *worker {
	w := &worker{index: index, mem: mem, funcs: make(map[uint64]servant)}
	w.cell = w.load(process.CtlCells) + uint64(index)*w.load(process.CtlCellSize)
	w.maxTasks = w.load(process.CtlMaxTasks)
	w.heap.open(w)
	return w
}

func (w *worker) word(off uint64) *uint64      { return (*uint64)(unsafe.Pointer(&w.mem[off])) }
func (w *worker) half(off uint64) *uint32      { return (*uint32)(unsafe.Pointer(&w.mem[off])) }
func (w *worker) load(off uint64) uint64       { return atomic.LoadUint64(w.word(off)) }
func (w *worker) store(off, v uint64)          { atomic.StoreUint64(w.word(off), v) }
func (w *worker) load32(off uint64) uint32     { return atomic.LoadUint32(w.half(off)) }
func (w *worker) store32(off uint64, v uint32) { atomic.StoreUint32(w.half(off), v) }
func (w *worker) cancelled(slot uint64) bool   { return w.load32(slot+process.ReplyCancel) != 0 }
func (w *worker) storeBlock(now, at, n uint64) {
	w.store(w.cell+process.CellStarted, now)
	w.store(w.cell+process.CellRunning, at)
	w.store(w.cell+process.CellBlock, n)
}

// run runs the chunk in a slot and answers.
func (w *worker) run(slot, generation uint64) {
	at := slot + process.SlotFrame
	id := w.load(at + 24)
	if id>>32 != generation {
		return // the slot belongs to another chunk by now: nobody waits for this one
	}
	w.store(w.cell+process.CellClaim, id)
	w.storeBlock(0, 0, 0)
	r := &reply{w: w, slot: slot, generation: generation, began: process.Monotonic()}
	if err := w.frame.Decode(w.mem[at:slot+w.load(slot+process.ReplyCapacity)], wire.Limits{Arena: uint64(len(w.mem))}); err != nil {
		r.refuse(process.StatusUnreadable, errRead, err)
		return
	}
	r.head = w.frame.Header
	r.cursor = r.head.Next
	if r.cursor == 0 {
		r.cursor = (at + uint64(w.frame.Size()) + 63) &^ 63
	}
	r.end = slot + w.load(slot+process.ReplyCapacity)
	if w.cancelled(slot) {
		r.answer(process.StatusStopped)
		return
	}
	f, err := w.function()
	if err != nil {
		r.refuse(process.StatusNoFunction, errRead, err)
		return
	}
	p := codec.Payload{Kind: w.frame.Kind, Inband: w.frame.Inband}
	for _, b := range w.frame.Buffers {
		p.Large = append(p.Large, w.mem[b.Offset:b.Offset+b.Length])
	}
	chunk, err := f.open(p, int(r.head.Count))
	if err != nil {
		r.refuse(process.StatusUnreadable, errRead, err)
		return
	}
	r.chunk = chunk
	w.runBlocks(r)
}

// function is the one that the chunk at hand names.
func (w *worker) function() (servant, error) {
	serial := w.frame.Func
	if f := w.funcs[serial]; f != nil {
		return f, nil
	}
	var blob wire.Frame
	if w.frame.Extra > uint64(len(w.mem)) {
		return nil, fmt.Errorf("a function at %d, beyond the arena", w.frame.Extra)
	}
	if err := blob.Decode(w.mem[w.frame.Extra:], wire.Limits{Arena: uint64(len(w.mem))}); err != nil {
		return nil, err
	}
	var spec remoteSpec
	if blob.Kind != wire.MsgpackList {
		return nil, errors.New("the function is a pickle: only Python can read it")
	}
	if err := codec.DecodeOne(blob.Inband, &spec); err != nil {
		return nil, err
	}
	if spec.Go == "" {
		return nil, fmt.Errorf("the workers of this pool are Go processes, and cannot run the %s", &spec)
	}
	f, err := lookup(spec.Go)
	if err != nil {
		return nil, err
	}
	w.funcs[serial] = f
	return f, nil
}

// runBlocks runs the tasks in blocks; between two, it looks at the clock and at whether anyone still wants the results.
func (w *worker) runBlocks(r *reply) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r.unwatch = w.watch(r.slot, cancel)
	defer r.unwatch()
	count, block, budget := int(r.head.Count), max(int(r.head.Block), 1), int64(r.head.Nanos)
	most := count
	if w.maxTasks > 0 {
		most = min(count, max(int(w.maxTasks)-int(w.tasks), 1))
	}
	timed := r.head.Flags&taskTimed != 0
	start := process.Monotonic()
	flushed, now, looked := start, start, start
	for at := 0; ; {
		n := min(block, most-at)
		w.storeBlock(uint64(now), uint64(at), uint64(n))
		for stop := at + n; at < stop; at++ {
			if err := w.call(ctx, r, at); err != nil {
				if !r.failed(at, err) {
					w.tasks += uint64(at) + 1
					r.answer(process.StatusFailed)
					return
				}
			}
		}
		before := now
		now = process.Monotonic()
		if at >= count {
			w.tasks += uint64(count)
			r.put(at)
			r.answer(process.StatusComplete)
			return
		}
		if w.look != nil && now-looked > 1e6 {
			looked = now
			w.looking.Lock()
			w.look()
			w.looking.Unlock()
		}
		stop := at >= most || w.cancelled(r.slot) || budget > 0 && now-start >= budget
		if stop || now-flushed >= flushAfter {
			r.put(at)
			flushed = now
		}
		if stop {
			w.tasks += uint64(at)
			r.answer(process.StatusStopped)
			return
		}
		if now-before < shortBlock && !timed {
			block *= 2
		}
	}
}

// watch cancels the context of tasks that nobody waits for any more, until the function that it returns is called. Short chunks end before
// it looks.
func (w *worker) watch(slot uint64, cancel context.CancelFunc) (stop func()) {
	var t *time.Timer
	over := false
	w.looking.Lock() // until t is set
	defer w.looking.Unlock()
	t = time.AfterFunc(5*time.Millisecond, func() {
		w.looking.Lock()
		defer w.looking.Unlock()
		if over {
			return
		}
		if w.look != nil {
			w.look()
		}
		if w.cancelled(slot) {
			cancel()
			return
		}
		t.Reset(20 * time.Millisecond)
	})
	return func() {
		w.looking.Lock()
		defer w.looking.Unlock()
		over = true
		t.Stop()
	}
}

// call runs one task. A panic becomes an error with its stack.
func (w *worker) call(ctx context.Context, r *reply, i int) (err error) {
	if limit := w.load(r.slot + process.ReplyLimit); w.limits && limit > 0 && r.head.Flags&taskTimed != 0 {
		return w.callWithin(ctx, r.chunk, i, time.Duration(limit))
	}
	returned := false
	defer func() {
		if returned {
			return
		}
		if v := recover(); v != nil {
			err = newPanic(v)
			return
		}
		// runtime.Goexit: this goroutine ends whatever we do. The chunk is finished as one with a failed task, and another one serves.
		w.goexit(r, i)
	}()
	err = r.chunk.call(ctx, i)
	returned = true
	return err
}

func (w *worker) goexit(r *reply, i int) {
	r.failed(i, ErrGoexit)
	w.tasks += uint64(i) + 1
	if r.head.Flags&taskKeepGoing != 0 { // it stands among the results; the tasks behind it are offered again
		r.put(i + 1)
		r.answer(process.StatusStopped)
	} else {
		r.answer(process.StatusFailed)
	}
	r.unwatch()
	w.resume()
}

// callWithin runs a task on a goroutine that is left alone when the time is over: there is no way to end one in Go. Its context says
// that it should end itself.
func (w *worker) callWithin(ctx context.Context, c opened, i int, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		returned := false
		defer func() {
			if returned {
				return
			}
			if v := recover(); v != nil {
				done <- newPanic(v)
			} else {
				done <- ErrGoexit
			}
		}()
		err := c.call(ctx, i)
		returned = true
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return &TimeoutError{Limit: limit}
		}
		return err
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return &TimeoutError{Limit: limit}
		}
		return <-done
	}
}

// park waits after a broadcast's task until each worker has run one.
func (w *worker) park(job uint64) {
	for pause := int64(50e3); w.load(process.CtlGate) < job; pause = min(2*pause, 5e6) {
		process.Nap(pause)
	}
}

// serveIfWorker serves a pool if this process was started to do that.
func serveIfWorker() {
	spec := os.Getenv(process.WorkerEnv)
	if spec == "" {
		return
	}
	err := serveProcess(spec)
	fmt.Fprintf(os.Stderr, "schwimmbad-go: worker process %d: %v\n", os.Getpid(), err)
	os.Exit(1)
}

func serveProcess(spec string) error {
	var version, index, work, answer, life, arena int
	if _, err := fmt.Sscanf(spec, "%d:%d:%d,%d,%d,%d", &version, &index, &work, &answer, &life, &arena); err != nil {
		return fmt.Errorf("%s=%q: %w", process.WorkerEnv, spec, err)
	}
	if version != process.ControlVersion {
		return fmt.Errorf("worker protocol %d, but the pool speaks %d: two versions of this program are mixed", process.ControlVersion, version)
	}
	rank, err := strconv.Atoi(os.Getenv(rankVariable))
	if err != nil {
		rank = 0 // it works beside none
	}
	leaveLaunch()
	for _, fd := range []int{work, answer, life, arena} {
		syscall.CloseOnExec(fd)
	}
	signal.Ignore(os.Interrupt) // Ctrl-C is the master's to handle; it ends the workers
	mem, err := mapShared(arena)
	if err != nil {
		return err
	}
	if err := followMaster(life); err != nil {
		return err
	}
	w := newWorker(index, mem)
	w.rank = rank
	control := func(code wire.Code) { sendRecord(answer, uint32(code)<<24|uint32(index), 0) }
	w.tell = func(slot, generation uint64) { sendRecord(answer, uint32(generation), uint32(slot/process.PageSize)) }
	w.retire = func() {
		control(wire.Retired)
		os.Exit(0)
	}
	loop := func() {
		serveRecords(w, work)
		os.Exit(0)
	}
	w.resume = func() { go loop() }
	w.store(w.cell+process.CellPid, uint64(os.Getpid()))
	control(wire.Hello)
	go loop()
	select {} // the loop ends the process
}

// mapShared maps a pool's arena.
func mapShared(arena int) ([]byte, error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(arena, &st); err != nil {
		return nil, err
	}
	mem, err := syscall.Mmap(arena, 0, int(st.Size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("shared memory: %w", err)
	}
	const dontDump = 16
	_ = syscall.Madvise(mem, dontDump) // a core dump must not hold it; failing is harmless
	if binary.LittleEndian.Uint64(mem[process.CtlMagic:]) != process.ControlMagic {
		return nil, errors.New("the shared memory is not a pool's")
	}
	return mem, nil
}

// serveRecords runs chunks until the queue is closed.
func serveRecords(w *worker, work int) {
	var b [8]byte
	for {
		n, err := syscall.Read(work, b[:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n < len(b) {
			return
		}
		w.run(uint64(binary.LittleEndian.Uint32(b[:]))*process.PageSize, uint64(binary.LittleEndian.Uint32(b[4:])))
	}
}

// sendRecord writes 8 bytes: high and low half.
func sendRecord(fd int, high, low uint32) {
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], low)
	binary.LittleEndian.PutUint32(b[4:], high)
	for {
		_, err := syscall.Write(fd, b[:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			os.Exit(1) // the master is gone
		}
		return
	}
}

// followMaster makes the kernel end this process when the master ends, even in the middle of a task: see the lifeline in docs/PROTOCOL.md.
func followMaster(life int) error {
	own, err := syscall.Open(fmt.Sprintf("/proc/self/fd/%d", life), syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("lifeline: %w", err)
	}
	const setsig = 10 // F_SETSIG
	for _, c := range [][2]int{{syscall.F_SETOWN, os.Getpid()}, {setsig, int(syscall.SIGKILL)}, {syscall.F_SETFL, syscall.O_NONBLOCK | syscall.O_ASYNC}} {
		if _, _, e := syscall.Syscall(syscall.SYS_FCNTL, uintptr(own), uintptr(c[0]), uintptr(c[1])); e != 0 {
			return fmt.Errorf("lifeline: %w", e)
		}
	}
	// It may have ended before we listened: then no signal will come.
	if n, err := syscall.Read(own, make([]byte, 1)); n == 0 && err == nil {
		os.Exit(1)
	}
	return nil
}

// leaveLaunch takes what names this process as somebody's worker out of the environment of its own children: the pool's variable, and
// those by which an MPI launcher made its master a rank.
func leaveLaunch() {
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		if name == process.WorkerEnv || name == rankVariable || isLauncherVariable(name) {
			_ = os.Unsetenv(name) // it fails for names that the environment cannot have
		}
	}
}
