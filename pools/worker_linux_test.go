//go:build linux && (amd64 || arm64)

package pools

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// The test binary is its own worker: started with the worker's variable, it speaks the worker's side of the protocol, with
// the powers a test needs (dying at a chosen moment, refusing to read). A task is two words, an operation and its
// argument; a result is one.
const (
	opSquare     = iota // arg*arg
	opFail              // the task raises
	opSleep             // arg milliseconds
	opDie               // arg = offset<<8 | moment: die there, unless the word at that offset was set already
	opUnreadable        // arg = offset: the chunk cannot be read, unless the word there was set already
	opPid               // the worker's process id
	opExit              // leave with code arg
	opWait              // until the word at offset arg is set
	opHeap              // arg bytes in a block of the worker's heap; the result is the block's offset
	opCount             // add one to the word at offset arg: how often it ran
)

// Moments of a death.
const (
	beforeClaim  = 1 + iota // the record was read, nothing tells who has it
	afterClaim              // the chunk is claimed, no task runs yet
	inBlock                 // the task runs
	afterResults            // all results are written, the status is not
	afterStatus             // the status is written, the record not sent
	afterRecord             // the record is sent, the claim still stands
)

// badFunction is a blob serial that no worker can read.
const badFunction = 99

const (
	taskBytes  = 16
	frameAt    = process.SlotFrame
	tasksAt    = frameAt + headerSize
	kindError  = 6
	kindRaw    = 8
	typeResult = 2
)

func TestMain(m *testing.M) {
	if spec := os.Getenv(process.WorkerEnv); spec != "" && len(os.Args) > 1 {
		serve(spec)
	}
	Main()                       // without arguments: what the pools themselves start
	time.Sleep(time.Millisecond) // the first timer makes Go open its poller, for good
	before := openFiles()
	code := m.Run()
	if left := children(); code == 0 && left != "" {
		fmt.Println("FAIL: processes left behind:", left)
		code = 1
	}
	if after := openFiles(); code == 0 && after > before {
		fmt.Printf("FAIL: %d descriptors at the start, %d at the end\n", before, after)
		code = 1
	}
	os.Exit(code)
}

type testWorker struct {
	index        int
	mem          []byte
	cell         uint64
	work, answer int
	top, end     uint64
	tasks        uint64
	maxTasks     uint64
}

func (w *testWorker) word(off uint64) *uint64   { return (*uint64)(unsafe.Pointer(&w.mem[off])) }
func (w *testWorker) half(off uint64) *uint32   { return (*uint32)(unsafe.Pointer(&w.mem[off])) }
func (w *testWorker) load(off uint64) uint64    { return atomic.LoadUint64(w.word(off)) }
func (w *testWorker) store(off, v uint64)       { atomic.StoreUint64(w.word(off), v) }
func (w *testWorker) store32(off uint64, v int) { atomic.StoreUint32(w.half(off), uint32(v)) }
func (w *testWorker) once(off uint64) (first bool) {
	return atomic.CompareAndSwapUint64(w.word(off), 0, 1)
}

func serve(spec string) {
	w := testWorker{}
	var version, life, arena int
	_, err := fmt.Sscanf(spec, "%d:%d:%d,%d,%d,%d", &version, &w.index, &w.work, &w.answer, &life, &arena)
	if err != nil || version != process.ControlVersion {
		die("bad "+process.WorkerEnv, spec)
	}
	if os.Getenv("SWG_TEST_STILLBORN") != "" {
		os.Exit(7)
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(arena, &st); err != nil {
		die(err)
	}
	w.mem, err = syscall.Mmap(arena, 0, int(st.Size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		die(err)
	}
	go func() { // the end of the lifeline: the master is gone
		_, _ = syscall.Read(life, make([]byte, 1))
		os.Exit(0)
	}()
	w.cell = w.load(process.CtlCells) + uint64(w.index)*w.load(process.CtlCellSize)
	w.maxTasks = w.load(process.CtlMaxTasks)
	heap := w.load(process.CtlHeaps) + uint64(w.index)*w.load(process.CtlHeapSize)
	w.top, w.end = max(w.load(w.cell+process.CellHeapTop), heap), heap+w.load(process.CtlHeapSize)
	w.store(w.cell+process.CellPid, uint64(os.Getpid()))
	if os.Getenv("SWG_TEST_NO_INIT") != "" {
		w.store(w.cell+process.CellError, 4096)
		w.store(w.cell+process.CellExitWant, 1)
		w.send(uint64(wire.InitFailed)<<24|uint64(w.index), 0)
		os.Exit(1)
	}
	w.send(uint64(wire.Hello)<<24|uint64(w.index), 0)
	var b [8]byte
	for {
		if n, err := syscall.Read(w.work, b[:]); err == syscall.EINTR {
			continue
		} else if err != nil || n < 8 {
			os.Exit(0)
		}
		r := binary.LittleEndian.Uint64(b[:])
		w.run(uint64(uint32(r))*process.PageSize, r>>32)
	}
}

func die(why ...any) {
	fmt.Fprintln(os.Stderr, why...)
	os.Exit(3)
}

// send writes a record: high and low half.
func (w *testWorker) send(high, low uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], high<<32|low)
	if _, err := syscall.Write(w.answer, b[:]); err != nil {
		os.Exit(0) // the master is gone
	}
}

func (w *testWorker) run(slot, generation uint64) {
	f := slot + frameAt
	job := w.load(f + 16) // the slot is the engine's again after the answer
	id, count, block := w.load(f+24), uint64(*w.half(f + 40)), uint64(max(*w.half(f + 44), 1))
	if id>>32 != generation {
		return
	}
	task := func(i uint64) (op, arg uint64) {
		return w.load(slot + tasksAt + taskBytes*i), w.load(slot + tasksAt + taskBytes*i + 8)
	}
	moment := func(m, from, to uint64) {
		for i := from; i < to; i++ {
			if op, arg := task(i); op == opDie && arg&255 == m && w.once(arg>>8) {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
	}
	moment(beforeClaim, 0, count)
	w.store(w.cell+process.CellBlock, 0)
	w.store(w.cell+process.CellStarted, 0)
	w.store(w.cell+process.CellClaim, id)
	moment(afterClaim, 0, count)

	// One segment of results behind the tasks; a second one for the error record.
	seg := (slot + tasksAt + taskBytes*count + 63) &^ 63
	w.segment(seg, id, kindRaw, w.load(f+32))
	w.store(slot+process.ReplySegments, seg)
	began, status, at := process.Monotonic(), process.StatusComplete, uint64(0)
	budget := int64(w.load(f + 64))
	if w.load(f+56) == badFunction {
		status, count = process.StatusNoFunction, 0
	}
	for i := range count {
		if op, arg := task(i); op == opUnreadable && w.once(arg) {
			status, count = process.StatusUnreadable, 0
		}
	}
	for at < count {
		n := min(block, count-at)
		if w.maxTasks > 0 {
			n = min(n, w.maxTasks-w.tasks-at)
		}
		w.store(w.cell+process.CellStarted, uint64(process.Monotonic()))
		w.store(w.cell+process.CellRunning, at)
		w.store(w.cell+process.CellBlock, n)
		moment(inBlock, at, at+n)
		failed := false
		for i := at; i < at+n && !failed; i++ {
			value, heap, ok := w.task(task(i))
			if !ok {
				failed, n = true, i-at
				break
			}
			if heap != 0 {
				w.store(seg+80, heap)
			}
			w.store(seg+headerSize+8*i, value)
		}
		at += n
		*w.half(seg + 40) = uint32(at)
		w.store(seg+48, 8*at)
		w.store32(slot+process.ReplyDone, int(at))
		if failed {
			status = process.StatusFailed
			record := (seg + headerSize + 8*count + 63) &^ 63
			w.segment(record, id, kindError, w.load(f+32)+at)
			w.store(seg+72, record)
			break
		}
		full := w.maxTasks > 0 && w.tasks+at >= w.maxTasks
		if at < count && (full || atomic.LoadUint32(w.half(slot+process.ReplyCancel)) != 0 || budget > 0 && process.Monotonic()-began >= budget) {
			status = process.StatusStopped
			break
		}
	}
	w.tasks += at
	moment(afterResults, 0, count)
	spent := uint64(process.Monotonic() - began)
	w.store(w.cell+process.CellBusy, w.load(w.cell+process.CellBusy)+spent)
	w.store(slot+process.ReplyElapsed, spent)
	w.store(slot+process.ReplyBytes, 8*at)
	w.store32(slot+process.ReplyWorker, w.index)
	w.store32(slot+process.ReplyStatus, status)
	moment(afterStatus, 0, count)
	park := *w.half(f + 8)&TaskPark != 0 && (status == process.StatusComplete || status == process.StatusFailed)
	retire := w.maxTasks > 0 && w.tasks >= w.maxTasks
	if retire {
		w.store(w.cell+process.CellExitWant, 1)
	}
	w.send(generation, slot/process.PageSize)
	moment(afterRecord, 0, count)
	w.store(w.cell+process.CellClaim, 0)
	if retire {
		w.send(uint64(wire.Retired)<<24|uint64(w.index), 0)
		os.Exit(0)
	}
	for park && w.load(process.CtlGate) < job {
		process.Nap(50_000)
	}
}

func (w *testWorker) segment(at, id uint64, kind uint16, first uint64) {
	clear(w.mem[at : at+headerSize])
	le := binary.LittleEndian
	le.PutUint32(w.mem[at:], uint32('S'|'W'<<8|'G'<<16|wire.Version<<24))
	le.PutUint16(w.mem[at+4:], typeResult)
	le.PutUint16(w.mem[at+6:], kind)
	le.PutUint64(w.mem[at+24:], id)
	le.PutUint64(w.mem[at+32:], first)
}

func (w *testWorker) task(op, arg uint64) (value, heap uint64, ok bool) {
	switch op {
	case opSquare:
		return arg * arg, 0, true
	case opFail:
		return 0, 0, false
	case opSleep:
		time.Sleep(time.Duration(arg) * time.Millisecond)
	case opPid:
		return uint64(os.Getpid()), 0, true
	case opExit:
		os.Exit(int(arg))
	case opWait:
		for w.load(arg) == 0 {
			time.Sleep(time.Millisecond)
		}
	case opHeap:
		block := w.take(arg)
		return block, block, true
	case opCount:
		return atomic.AddUint64(w.word(arg), 1), 0, true
	}
	return arg, 0, true
}

// take finds a free block of the worker's heap, or makes one.
func (w *testWorker) take(n uint64) uint64 {
	size := (n + process.HeapBlockHead + process.PageSize - 1) &^ (process.PageSize - 1)
	start := w.load(process.CtlHeaps) + uint64(w.index)*w.load(process.CtlHeapSize)
	for at := start; at < w.top; at += w.load(at) {
		if w.load(at) == size && atomic.CompareAndSwapUint32(w.half(at+process.HeapBlockState), 0, 1) {
			return at
		}
	}
	if w.top+size > w.end {
		die("heap full")
	}
	at := w.top
	w.store(at, size)
	w.store32(at+process.HeapBlockState, 1)
	w.top += size
	w.store(w.cell+process.CellHeapTop, w.top)
	return at
}

func openFiles() int {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	return len(names)
}

// children lists this process's children, zombies included.
func children() string {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		panic(err)
	}
	var all []string
	for _, t := range threads {
		b, _ := os.ReadFile("/proc/self/task/" + t.Name() + "/children") // a thread that ended meanwhile has none
		all = append(all, strings.Fields(string(b))...)
	}
	return strings.Join(all, " ")
}
