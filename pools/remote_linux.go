//go:build linux && (amd64 || arm64)

package pools

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"sync"

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
