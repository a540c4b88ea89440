//go:build linux && (amd64 || arm64)

package pools

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/codec"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/dispatch"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/inproc"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/process"
	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// remotePool is an Engine as Go code uses it: ports for callers, functions in its arena, the end.
type remotePool struct {
	e      *Engine
	python bool                  // its workers are Python's
	hostOf func(rank int) string // nil: all workers are on this machine
	beside bool                  // MPI ranks whose workers are processes beside them
	leave  func() error          // what remains to be done at the end; nil: nothing

	mu      sync.Mutex
	free    *sync.Cond
	ports   []int
	opened  int
	calls   int
	feeders sync.WaitGroup     // sources that a call may have left behind
	blobs   map[string]blobRef // functions, by their encoded specification
	closed  bool
	gone    chan struct{} // closed when everything has been given back
}

type blobRef struct{ serial, off uint64 }

// openRemote opens an engine and starts its workers, if it has a command for them.
func openRemote(cfg EngineConfig, python bool) (*remotePool, error) {
	e, err := OpenEngine(cfg)
	if err != nil {
		return nil, err
	}
	p := &remotePool{e: e, python: python, blobs: make(map[string]blobRef), gone: make(chan struct{})}
	p.free = sync.NewCond(&p.mu)
	if cfg.Command != nil {
		if err := e.Start(); err != nil {
			e.Terminate()
			return nil, errors.Join(err, p.join())
		}
	}
	return p, nil
}

// acquire takes a port for one call; where all are in use it waits for one.
func (p *remotePool) acquire() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.closed {
			return 0, ErrClosed
		}
		if n := len(p.ports); n > 0 {
			port := p.ports[n-1]
			p.ports = p.ports[:n-1]
			p.calls++
			return port, nil
		}
		if p.opened < process.PortCount {
			port, _, err := p.e.OpenPort()
			if err != nil {
				return 0, err
			}
			p.opened++
			p.calls++
			return port, nil
		}
		p.free.Wait()
	}
}

func (p *remotePool) release(port int) {
	p.mu.Lock()
	p.ports = append(p.ports, port)
	p.calls--
	p.mu.Unlock()
	p.free.Broadcast()
}

// function puts the specification of a function into the arena, unless it is there. Functions stay: their number is that of the
// program's.
func (p *remotePool) function(spec *remoteSpec) (blobRef, error) {
	b, err := codec.EncodeOne(spec)
	if err != nil {
		return blobRef{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if ref, ok := p.blobs[string(b)]; ok {
		return ref, nil
	}
	ref := blobRef{serial: uint64(len(p.blobs) + 1)}
	frame := wire.Append(nil, wire.Frame{Header: wire.Header{Type: wire.Blob, Kind: wire.MsgpackList, Func: ref.serial}, Inband: b})
	if ref.off, _, err = p.e.Alloc(uint64(len(frame))); err != nil {
		return blobRef{}, err
	}
	copy(p.e.tr.Mem()[ref.off:], frame)
	p.blobs[string(b)] = ref
	return ref, nil
}

// close lets calls under way finish, ends the workers and gives everything back. Repeatable, from any goroutine.
func (p *remotePool) close() error {
	if within() {
		return inproc.ErrWithin
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		<-p.gone
		return nil
	}
	p.closed = true
	p.mu.Unlock()
	p.free.Broadcast()
	p.e.Close()
	p.mu.Lock()
	for p.calls > 0 {
		p.free.Wait()
	}
	p.mu.Unlock()
	p.feeders.Wait()
	return p.join()
}

// within says whether this goroutine is inside a call, in a callback or a loop over results: it cannot wait for its own end.
func within() bool {
	run := reflect.ValueOf((*remotePool).run).Pointer()
	var pcs [64]uintptr
	for skip := 2; ; skip += len(pcs) {
		n := runtime.Callers(skip, pcs[:])
		for _, pc := range pcs[:n] {
			if f := runtime.FuncForPC(pc - 1); f != nil && f.Entry() == run {
				return true
			}
		}
		if n < len(pcs) {
			return false
		}
	}
}

func (p *remotePool) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}

// describe is what the workers are, for String.
func (p *remotePool) describe() string {
	p.mu.Lock()
	calls, closed := p.calls, p.closed
	p.mu.Unlock()
	what := "processes of this program"
	if p.python {
		what = "processes of Python"
	}
	if p.leave != nil {
		what = "MPI ranks"
		if p.beside {
			what = "MPI ranks, " + what + " beside them"
			if p.python {
				what = "MPI ranks with Python beside them"
			}
		}
	}
	return state(what, calls, 0, closed)
}

// join waits for the workers to leave and frees the engine.
func (p *remotePool) join() error {
	defer close(p.gone)
	var err error
	for {
		n, failure := p.e.Join(1000)
		if failure != nil {
			err = failure
			p.e.Terminate()
		}
		if n == 0 || failure != nil {
			break
		}
	}
	p.mu.Lock()
	for _, port := range p.ports {
		p.e.ClosePort(port)
	}
	p.ports = nil
	p.mu.Unlock()
	err = errors.Join(err, p.e.Free())
	if p.leave != nil {
		err = errors.Join(err, p.leave())
	}
	return err
}

// remoteJob is one call under way.
type remoteJob struct {
	p       *remotePool
	spec    *remoteSpec
	call    *call
	port    int
	words   []int64
	id      int64
	feeder  *feeder // of a call of unknown length
	encoder codec.Encoder
	frame   wire.Frame
	bad     []badTask // of the event at hand
	over    bool      // nothing more is wanted
	fatal   error     // no task of this job can run
}

type badTask struct {
	task int64
	err  error
}

// Chunks of this size are posted at once: the workers can begin while the next one is encoded. As in _job.py.
const bigChunk = 16 << 10

// run is one call from begin to end, on the caller's goroutine. Its error is what kept the call from going on; failures of tasks have been
// told by then. Whatever ends it, nothing of it stays behind; where it was the context, workers that run its tasks are ended.
func (p *remotePool) run(ctx context.Context, c *call) error {
	if p.isClosed() {
		return ErrClosed
	}
	spec, err := c.function.remote()
	if err != nil {
		return err
	}
	if p.python != (spec.Go == "") {
		return fmt.Errorf("%w: the %s cannot run on %s", ErrUnavailable, spec, p.describe())
	}
	if err := c.coder.check(); err != nil {
		return fmt.Errorf("%s: %w", spec, err)
	}
	if err := ctx.Err(); err != nil || c.spec.Tasks == 0 {
		return err
	}
	port, err := p.acquire()
	if err != nil {
		return err
	}
	defer p.release(port)
	j := &remoteJob{p: p, spec: spec, call: c, port: port, words: p.e.tr.Port(port)}
	if err := j.begin(); err != nil {
		return p.explain(err)
	}
	ended := false
	defer func() {
		if !ended { // also when user code panics in here
			p.e.Cancel(j.id, ctx.Err() != nil)
		}
	}()
	stop := context.AfterFunc(ctx, func() { p.e.Kick(port) })
	defer stop()
	if c.spec.Tasks == dispatch.Unknown {
		j.feeder = feed(c.spec, func() { p.e.Kick(port) })
		p.feeders.Go(func() { <-j.feeder.gone })
		defer func() { j.feeder.dismiss(ctx.Err() == nil) }()
	}
	for !ended {
		found, err := j.turn()
		switch {
		case err != nil:
			return p.explain(err)
		case j.over:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case j.fatal != nil:
			return j.fatal
		}
		ended = found&FlagIdle != 0 && j.words[wordOffers] == 0
	}
	if j.feeder != nil {
		return j.feeder.failure()
	}
	return nil
}

// Flags of a TASKS frame; docs/PROTOCOL.md.
const (
	taskKeepGoing = 4
	taskStateless = 8
	taskTimed     = 32
	taskPlain     = 64
)

func (j *remoteJob) begin() error {
	ref, err := j.p.function(j.spec)
	if err != nil {
		return err
	}
	spec := &j.call.spec
	flags, jobFlags := int64(taskStateless|taskPlain), int64(0)
	if j.call.keep && spec.Retries == 0 {
		flags |= taskKeepGoing
	}
	if spec.Limit > 0 {
		flags |= taskTimed
	}
	if !spec.Unordered && !spec.Quiet {
		jobFlags |= JobOrdered
	}
	if spec.Tasks == dispatch.Unknown {
		jobFlags |= JobLazy
	}
	copy(j.words[process.PortParams:], []int64{
		spec.Tasks, int64(ref.serial), int64(spec.Chunk), int64(spec.Retries), jobFlags, int64(spec.Limit), flags,
		int64(ref.serial), int64(ref.off), // the serial is the key of the task's time as well
	})
	j.id, err = j.p.e.Begin(j.port)
	return err
}

// turn encodes what is offered, waits, and takes in what came.
func (j *remoteJob) turn() (int, error) {
	offers, sent, big, starved := int(j.words[wordOffers]), 0, false, false
	for sent < offers && !big && !starved {
		var err error
		if starved, big, err = j.encode(sent); err != nil || j.over {
			return 0, err
		}
		if !starved {
			sent++
		}
	}
	wait := WaitAny
	switch {
	case starved:
		wait = WaitHold
	case sent < offers:
		wait = WaitNone
	case j.call.spec.Quiet:
		wait = WaitBatch
	}
	found, err := j.p.e.Step(j.port, sent, wait)
	if err != nil {
		return 0, err
	}
	if found&FlagEvents != 0 {
		for k := range int(j.words[wordEvents]) {
			if err := j.event(j.words[process.PortEvents+k*process.EventWords:][:process.EventWords]); err != nil {
				return 0, err
			}
			if j.over || j.fatal != nil {
				break
			}
		}
	}
	return found, nil
}

// encode writes the tasks of offer k into its slot, and says whether there are none yet, and whether the chunk is big.
func (j *remoteJob) encode(k int) (starved, big bool, err error) {
	w := j.words[process.PortOffers+k*process.OfferWords:][:process.OfferWords]
	slot, room, first, count := uint64(w[2]), uint64(w[3]), w[4], int(w[5])
	n := count
	if j.feeder != nil {
		var last bool
		if n, last = j.feeder.take(first, count); last {
			j.words[process.PortParams+15] = 1
		} else if n == 0 {
			return true, false, nil
		}
	}
	var p codec.Payload
	if n > 0 {
		p, err = j.call.coder.encode(&j.encoder, first, n)
		if j.p.python && p.Kind == wire.MsgpackList {
			p, _ = codec.Pickled(p)
		}
	}
	if err != nil {
		index := first
		var item *codec.ItemError
		if errors.As(err, &item) {
			index += int64(item.Index)
		}
		j.call.spec.Work.Fail(index, inproc.Failure{Err: j.taskError(index, fmt.Errorf("it cannot be encoded for another process: %w", err))})
		j.over = true
		return false, false, nil
	}
	need := uint64(process.SlotFrame + headerSize + wire.EntrySize*len(p.Large) + len(p.Inband) + 128)
	for _, b := range p.Large {
		need += uint64(len(b)) + 64
	}
	if need > room {
		if slot, err = j.p.e.Grow(j.port, k, need); err != nil {
			return false, false, err
		}
	}
	mem, le := j.p.e.tr.Mem(), binary.LittleEndian
	frame := slot + process.SlotFrame
	if n < count {
		le.PutUint32(mem[frame+40:], uint32(n))
	}
	if n == 0 {
		return false, false, nil
	}
	le.PutUint16(mem[frame+6:], uint16(p.Kind))
	le.PutUint64(mem[frame+48:], uint64(len(p.Inband)))
	at := frame + headerSize
	if len(p.Large) > 0 {
		le.PutUint32(mem[frame+offNBuf:], uint32(len(p.Large)))
		table := at
		at += uint64(wire.EntrySize * len(p.Large))
		free := (at + uint64(len(p.Inband)) + 63) &^ 63
		for _, b := range p.Large {
			le.PutUint64(mem[table:], free)
			le.PutUint64(mem[table+8:], uint64(len(b)))
			copy(mem[free:], b)
			table += wire.EntrySize
			free = (free + uint64(len(b)) + 63) &^ 63
		}
		le.PutUint64(mem[frame+offNext:], free)
	}
	copy(mem[at:], p.Inband)
	return false, need > bigChunk, nil
}

// event takes in one event of the engine's.
func (j *remoteJob) event(w []int64) error {
	chunk, first, count, slot, flags := w[1], w[2], w[3], uint64(w[4]), w[5]
	if flags&(EventTasks|EventFunc) != 0 {
		return j.question(chunk, first, count, slot, flags)
	}
	j.bad = j.bad[:0]
	record, err := j.read(slot, first, count)
	if err != nil {
		return err
	}
	end := first + count
	switch {
	case flags&EventLost != 0:
		j.bad = append(j.bad, badTask{end, j.lost(end, flags, w[6], w[7])})
		end++
	case flags&EventFailed != 0:
		j.bad = append(j.bad, badTask{end, j.rebuild(end, record)})
		end++
	}
	for _, b := range j.bad { // in order of their tasks
		j.deliver(first, b.task)
		if j.over {
			return nil
		}
		j.over = !j.call.spec.Work.Fail(b.task, inproc.Failure{Err: b.err})
		first = b.task + 1
		j.settled(1)
	}
	j.deliver(first, end)
	return nil
}

// deliver hands over the results of tasks from first on, before end.
func (j *remoteJob) deliver(first, end int64) {
	if first < end && !j.over {
		j.over = !j.call.spec.Work.Deliver(first, int(end-first))
		j.settled(end - first)
	}
}

// settled lets the source go on.
func (j *remoteJob) settled(n int64) {
	if j.feeder != nil {
		j.feeder.settled(n)
	}
}

// question answers a chunk that a worker could not read. A function that one of them does not know none knows; tasks are tried one by one,
// then it is the task's error.
func (j *remoteJob) question(chunk, first, count int64, slot uint64, flags int64) error {
	switch {
	case flags&EventFunc != 0:
		record, err := j.read(slot, first, 0)
		if err != nil {
			return err
		}
		j.fatal = j.noFunction(record)
		return nil
	case count > 1:
		return j.p.e.Requeue(j.port, chunk, true, 0, 0)
	}
	return j.p.e.Reject(j.port, chunk)
}

// read takes in the results of an answered chunk and returns the error record behind them, if there is one.
func (j *remoteJob) read(slot uint64, first, count int64) (record []byte, err error) {
	if slot == 0 {
		return nil, nil
	}
	tr := j.p.e.tr
	mem := tr.Mem()
	limits := wire.Limits{Arena: tr.Len(), External: j.p.e.fleet != nil && j.p.e.cfg.Workers == 0}
	left := count
	for seg := tr.Load(slot + process.ReplySegments); seg != 0 && (left > 0 || record == nil); seg = j.frame.Next {
		if seg > tr.Len()-headerSize {
			return nil, fail(CodeInternal, "results at %d, beyond the arena", seg)
		}
		if err := j.frame.Decode(mem[seg:], limits); err != nil {
			return nil, &Error{CodeInternal, err}
		}
		if j.frame.Kind == wire.ErrorRecord {
			record = slices.Clone(j.frame.Inband)
			continue
		}
		n := min(int64(j.frame.Count), left)
		if n < int64(j.frame.Count) {
			return nil, fail(CodeInternal, "%d results where %d are left", j.frame.Count, left)
		}
		p := codec.Payload{Kind: j.frame.Kind, Inband: j.frame.Inband}
		for _, b := range j.frame.Buffers {
			p.Large = append(p.Large, bufferAt(mem, b))
		}
		err := j.call.coder.decode(p, first+count-left, int(n), func(index int64, record []byte, err error) {
			if record != nil {
				err = j.rebuild(index, record)
			} else {
				err = j.taskError(index, fmt.Errorf("its result: %w", err))
			}
			j.bad = append(j.bad, badTask{index, err})
		})
		if err != nil {
			return nil, fmt.Errorf("%s: results of task %d and following: %w", j.spec, first+count-left, err)
		}
		left -= n
	}
	if left > 0 {
		return nil, fail(CodeInternal, "%d of %d results are missing", left, count)
	}
	return record, nil
}

// taskError is an error of this side's with the place of its task.
func (j *remoteJob) taskError(index int64, err error) *TaskError {
	return &TaskError{Index: int(index), Worker: "on the master", Pid: os.Getpid(), Rank: -1, Host: host(), Err: err}
}

// lost tells of a task whose worker has died.
func (j *remoteJob) lost(index, flags, info, code int64) error {
	pid, rank := int(info&0xffffffff), int(info>>32)
	t := j.place(index, pid, "", rank)
	if flags&EventTimeout != 0 {
		t.Err = &TimeoutError{Limit: j.call.spec.Limit}
		return t
	}
	l := &WorkerLostError{Pid: pid, Rank: t.Rank, Host: t.Host, ExitCode: -1}
	switch {
	case flags&EventExit == 0:
	case code < 0:
		l.Signal = syscall.Signal(-code)
	default:
		l.ExitCode = int(code)
	}
	t.Err = l
	return t
}

// place is a TaskError without its cause; rank 0: no MPI rank, no name: this machine, or the rank's.
func (j *remoteJob) place(index int64, pid int, machine string, rank int) *TaskError {
	t := &TaskError{Index: int(index), Attempts: j.call.spec.Retries + 1, Pid: pid, Rank: -1, Host: machine}
	if rank > 0 {
		t.Rank = rank
		if machine == "" {
			t.Host = j.p.hostOf(rank)
		}
		t.Worker = fmt.Sprintf("rank %d, pid %d on %s", rank, pid, t.Host)
		return t
	}
	if machine == "" {
		t.Host = host()
	}
	t.Worker = fmt.Sprintf("worker pid %d", pid)
	return t
}

// errorRecord is what a worker tells of a failed task; docs/PROTOCOL.md, "Payloads".
type errorRecord struct {
	What      int
	Pickled   any // of no use here
	Type      string
	Text      string
	Traceback string
	Pid       int
	Code      any
	Host      string
	Rank      *int
}

// What an error record is about.
const (
	errPlain = iota
	errExit
	errInterrupt
	errResult
	errRead
	errTimeout
	errPanic // of Go
)

func (j *remoteJob) rebuild(index int64, b []byte) error {
	var r errorRecord
	if err := codec.DecodeOne(b, &r); err != nil {
		return j.taskError(index, fmt.Errorf("it failed, and its error cannot be read: %w", err))
	}
	rank := 0
	if r.Rank != nil {
		rank = *r.Rank
	}
	t := j.place(index, r.Pid, r.Host, rank)
	t.Err = j.cause(&r)
	return t
}

func (j *remoteJob) cause(r *errorRecord) error {
	switch {
	case r.What == errTimeout:
		return &TimeoutError{Limit: j.call.spec.Limit}
	case j.p.python:
		return &PythonError{Type: plainType(r.Type), Message: r.Text, Traceback: r.Traceback}
	case r.What == errPanic:
		return &PanicError{Value: r.Text, Stack: []byte(r.Traceback)}
	case r.What == errResult:
		return fmt.Errorf("its result cannot be encoded: %s", r.Text)
	case r.What == errRead:
		return fmt.Errorf("it cannot be read in the worker: %s", r.Text)
	}
	return &RemoteError{Type: r.Type, Message: r.Text}
}

func (j *remoteJob) noFunction(b []byte) error {
	var r errorRecord
	if err := codec.DecodeOne(b, &r); err != nil {
		return fmt.Errorf("%s cannot be found in the worker, and its error cannot be read: %w", j.spec, err)
	}
	if j.p.python {
		return fmt.Errorf("%s: %w", j.spec, &PythonError{Type: plainType(r.Type), Message: r.Text, Traceback: r.Traceback})
	}
	return fmt.Errorf("%w: %s", ErrNotRegistered, r.Text)
}

// size is the number of workers.
func (p *remotePool) size() int { return p.e.total }

// explain turns an error of the engine's into one of this package's.
func (p *remotePool) explain(err error) error {
	switch CodeOf(err) {
	case CodeTerminated:
		return fmt.Errorf("%w: %w", ErrClosed, err)
	case CodeStart:
		if p.python {
			err = fmt.Errorf("%w; what the interpreter printed to stderr says more", err)
		}
		return &WorkerLostError{Rank: -1, ExitCode: -1, Err: err}
	case CodeLost:
		return &WorkerLostError{Rank: -1, ExitCode: -1, Err: err}
	}
	return err
}

// plainType takes the name that a source text gets as a module off the type of an exception.
func plainType(name string) string {
	if rest, ok := strings.CutPrefix(name, "_schwimmbad_go_"); ok {
		if _, class, ok := strings.Cut(rest, "."); ok {
			return class
		}
	}
	return name
}

// bufferAt is the memory of a buffer: in the arena, or on the master of MPI ranks C memory beside it.
func bufferAt(mem []byte, b wire.Buffer) []byte {
	if b.Offset&wire.External != 0 {
		at := b.Offset &^ wire.External
		return unsafe.Slice(*(**byte)(unsafe.Pointer(&at)), b.Length)
	}
	return mem[b.Offset : b.Offset+b.Length]
}
