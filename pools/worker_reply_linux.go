//go:build linux && (amd64 || arm64)

package pools

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/codec"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// reply is the answer of a worker under construction.
type reply struct {
	w                *worker
	slot, generation uint64
	head             wire.Header
	chunk            opened
	began            int64
	cursor, end      uint64         // free part of the slot
	done             int            // results written
	failures         map[int][]byte // error records among the results, by their place in the chunk
	first, last      uint64         // frames
	bytes            uint64
	unwatch          func() // ends the watch over the running chunk
}

// failed notes an error of task i and says whether the tasks behind it are to run. If not, results and error are written.
func (r *reply) failed(i int, err error) bool {
	b := r.record(err, errPlain)
	if r.head.Flags&taskKeepGoing != 0 {
		if r.failures == nil {
			r.failures = make(map[int][]byte)
		}
		r.failures[i] = b
		return true
	}
	r.put(i)
	r.error(b)
	return false
}

// error writes an error record behind the results.
func (r *reply) error(b []byte) {
	if err := r.write(wire.ErrorRecord, 0, 1, codec.Payload{Inband: b}); err != nil {
		fmt.Fprintf(os.Stderr, "schwimmbad-go: worker %d: %v\n", os.Getpid(), err)
		os.Exit(1)
	}
}

// record describes an error; docs/PROTOCOL.md, "Payloads".
func (r *reply) record(err error, what int) []byte {
	e := errorRecord{What: what, Type: fmt.Sprintf("%T", err), Text: err.Error(), Pid: os.Getpid()}
	var p *PanicError
	var t *TimeoutError
	switch {
	case errors.As(err, &p):
		e.What, e.Text, e.Traceback = errPanic, fmt.Sprint(p.Value), string(p.Stack)
	case errors.As(err, &t):
		e.What = errTimeout
	}
	if r.w.rank > 0 {
		e.Rank, e.Host = &r.w.rank, host()
	}
	b, bad := codec.EncodeOne([]any{e.What, nil, e.Type, e.Text, e.Traceback, e.Pid, nil, e.Host, e.Rank})
	if bad != nil {
		panic(bad) // plain values
	}
	return b
}

// newPanic is what was recovered, with the stack of the goroutine that panics.
func newPanic(v any) *PanicError { return &PanicError{Value: v, Stack: debug.Stack()} }

// refuse answers a chunk of which nothing was run.
func (r *reply) refuse(status uint32, what int, err error) {
	r.error(r.record(err, what))
	r.answer(status)
}

// put writes the results up to task `to` that are not written yet. They are safe once `done` counts them.
func (r *reply) put(to int) {
	if to == r.done {
		return
	}
	failed := make(map[int][]byte)
	for i, b := range r.failures {
		if i >= r.done && i < to {
			failed[i-r.done] = b
		}
	}
	for !r.try(to, failed) {
	}
	r.done = to
	r.w.store32(r.slot+process.ReplyDone, uint32(to))
}

// try writes the results up to `to`. What keeps it from that becomes the failure of the task it belongs to, or of all of them.
func (r *reply) try(to int, failed map[int][]byte) bool {
	p, err := r.chunk.encode(&r.w.encoder, r.done, to, failed)
	if err == nil {
		flags := uint32(0)
		if len(failed) > 0 {
			flags = 1 // HAS_ERRORS
		}
		if err = r.write(p.Kind, flags, to-r.done, p); err == nil {
			return true
		}
		if len(failed) == to-r.done {
			fmt.Fprintf(os.Stderr, "schwimmbad-go: worker %d: %v\n", os.Getpid(), err)
			os.Exit(1)
		}
	}
	var item *codec.ItemError
	if errors.As(err, &item) {
		failed[item.Index] = r.record(err, errResult)
		return false
	}
	for i := range to - r.done {
		if failed[i] == nil {
			failed[i] = r.record(err, errResult)
		}
	}
	return false
}

// write makes one RESULTS frame behind the others, in the slot if it fits, else in a block of the heap.
func (r *reply) write(kind wire.Kind, flags uint32, count int, p codec.Payload) (err error) {
	w := r.w
	need := uint64(headerSize + wire.EntrySize*len(p.Large) + len(p.Inband) + 64)
	for _, b := range p.Large {
		need += uint64(len(b)) + 64
	}
	at, block := r.cursor, uint64(0)
	if at != 0 && at+need <= r.end {
		r.cursor = (at + need + 63) &^ 63
	} else {
		if block, err = w.heap.take(need); err != nil {
			return err
		}
		at = block + process.HeapBlockHead
	}
	h := wire.Header{
		Type: wire.Results, Kind: kind, Flags: flags, NBuf: uint32(len(p.Large)), Job: r.head.Job, First: r.head.First + uint64(r.done),
		Count: uint32(count), NBytes: uint64(len(p.Inband)), BlockOff: block,
	}
	h.Put(w.mem[at:])
	body := at + headerSize + uint64(wire.EntrySize*len(p.Large))
	copy(w.mem[body:], p.Inband)
	free := (body + uint64(len(p.Inband)) + 63) &^ 63
	for i, b := range p.Large {
		entry := w.mem[at+headerSize+uint64(wire.EntrySize*i):]
		binary.LittleEndian.PutUint64(entry, free)
		binary.LittleEndian.PutUint64(entry[8:], uint64(len(b)))
		copy(w.mem[free:], b)
		free = (free + uint64(len(b)) + 63) &^ 63
	}
	if r.last != 0 {
		w.store(r.last+offNext, at)
	} else {
		r.first = at
		w.store(r.slot+process.ReplySegments, at)
	}
	r.last = at
	r.bytes += need
	return nil
}

// answer writes the rest of the reply block, then the record, and lets go of the chunk.
func (r *reply) answer(status uint32) {
	w := r.w
	job := r.head.Job
	spent := uint64(process.Monotonic() - r.began)
	w.chunks++
	w.busy += spent
	w.store(r.slot+process.ReplyElapsed, spent)
	w.store(r.slot+process.ReplyBytes, r.bytes)
	w.store32(r.slot+process.ReplyWorker, uint32(w.index))
	w.store32(r.slot+process.ReplyStatus, status)
	retires := w.maxTasks > 0 && w.tasks >= w.maxTasks
	if retires {
		w.store(w.cell+process.CellExitWant, 1)
	}
	w.tell(r.slot, r.generation)
	w.store(w.cell+process.CellClaim, 0)
	w.store(w.cell+process.CellTasks, w.tasks)
	w.store(w.cell+process.CellChunks, w.chunks)
	w.store(w.cell+process.CellBusy, w.busy)
	if retires {
		w.retire()
	}
	if r.head.Flags&TaskPark != 0 && (status == process.StatusComplete || status == process.StatusFailed) {
		w.park(job)
	}
}

// workerHeap is the worker's own range of the arena, for results that do not fit behind their tasks. The worker alone takes blocks and marks
// them in use, the reader alone marks them free.
type workerHeap struct {
	w        *worker
	top, end uint64
	blocks   []heapBlock
}

type heapBlock struct{ off, size uint64 }

const minBlock = 16 << 10

func (h *workerHeap) open(w *worker) {
	size := w.load(process.CtlHeapSize)
	at := w.load(process.CtlHeaps) + uint64(w.index)*size
	h.w, h.end = w, at+size
	for top := w.load(w.cell + process.CellHeapTop); at < top; { // what a predecessor that died left: blocks may still be read
		n := w.load(at)
		if n < minBlock || n > h.end-at { // it died while making this one
			break
		}
		h.blocks = append(h.blocks, heapBlock{at, n})
		at += n
	}
	h.top = at
}

// take finds a free block with room for so many bytes behind its head, or makes one. The last one used comes first: its pages are
// there already.
func (h *workerHeap) take(bytes uint64) (uint64, error) {
	want := max(bytes+process.HeapBlockHead, minBlock)
	for i := len(h.blocks) - 1; i >= 0; i-- {
		b := h.blocks[i]
		if want <= b.size && b.size <= 4*want && h.w.load32(b.off+process.HeapBlockState) == 0 {
			h.w.store32(b.off+process.HeapBlockState, 1)
			h.blocks = append(append(h.blocks[:i], h.blocks[i+1:]...), b)
			return b.off, nil
		}
	}
	size := uint64(minBlock)
	for size < want {
		size *= 2
	}
	if size > h.end-h.top {
		return 0, fmt.Errorf("%d bytes do not fit into what is left of this worker's shared memory (%d bytes); SCHWIMMBAD_GO_ARENA sets the "+
			"size of the whole", bytes, h.end-h.top)
	}
	off := h.top
	h.w.store(off, size)
	h.w.store32(off+process.HeapBlockState, 1)
	h.top += size
	h.w.store(h.w.cell+process.CellHeapTop, h.top)
	h.blocks = append(h.blocks, heapBlock{off, size})
	return off, nil
}
