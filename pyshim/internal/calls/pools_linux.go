//go:build linux && (amd64 || arm64)

package calls

import (
	"fmt"
	"syscall"
	"unsafe"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

// CheckABI refuses a caller that was made for another version.
func CheckABI(abi uint32) error {
	if abi != pools.ABI {
		return &pools.Error{Code: pools.CodeArgument, Err: fmt.Errorf("the caller was made for another version of the engine (this one: %d)", pools.ABI)}
	}
	return nil
}

// Open makes an engine; returns its handle.
func (t *Table) Open(cfg pools.EngineConfig) (h int64, err error) {
	defer Guard(&err)
	e, err := pools.OpenEngine(cfg)
	if err != nil {
		return 0, err
	}
	return t.AddEngine(e), nil
}

// OnEngine runs f on the engine of a handle.
func (t *Table) OnEngine(h int64, f func(*pools.Engine) (int64, error)) (v int64, err error) {
	defer Guard(&err)
	e, err := t.Engine(h)
	if err != nil {
		return 0, err
	}
	return f(e)
}

// Start starts the workers of an engine that has a command for them.
func (t *Table) Start(h int64) (int64, error) {
	return t.OnEngine(h, func(e *pools.Engine) (int64, error) { return 0, e.Start() })
}

// Stats reads the counters, in the order of swg_stats.
func (t *Table) Stats(h int64) (out [11]int64, err error) {
	_, err = t.OnEngine(h, func(e *pools.Engine) (int64, error) {
		s := e.Stats()
		out = [11]int64{
			s.Tasks, s.Chunks, s.Retries, s.Lost, s.Retired, s.BytesIn, s.BytesOut, s.BusyNanos, s.Workers, s.InFlight, s.JobsNow,
		}
		return 0, nil
	})
	return out, err
}

// Attach registers a process as worker index; pid 0: it could not be started.
func (t *Table) Attach(h int64, index, pid, child int32) (int64, error) {
	return t.OnEngine(h, func(e *pools.Engine) (int64, error) { return 0, e.Attach(int(index), int(pid), child != 0) })
}

// WorkerPid is the process in a worker's place, 0 for none.
func (t *Table) WorkerPid(h int64, index int32) (int64, error) {
	return t.OnEngine(h, func(e *pools.Engine) (int64, error) { return int64(e.WorkerPid(int(index))), nil })
}

// Kill sends a signal to a worker.
func (t *Table) Kill(h int64, index, sig int32) (int64, error) {
	return t.OnEngine(h, func(e *pools.Engine) (int64, error) { return 0, e.Kill(int(index), syscall.Signal(sig)) })
}

// SetSetup names the blob that started workers read first.
func (t *Table) SetSetup(h int64, off uint64) (int64, error) {
	return t.OnEngine(h, func(e *pools.Engine) (int64, error) { e.SetSetup(off); return 0, nil })
}

// Close lets running jobs finish, then the workers leave.
func (t *Table) Close(h int64) (int64, error) {
	return t.OnEngine(h, func(e *pools.Engine) (int64, error) { e.Close(); return 0, nil })
}

// Terminate ends the workers now.
func (t *Table) Terminate(h int64) (int64, error) {
	return t.OnEngine(h, func(e *pools.Engine) (int64, error) { e.Terminate(); return 0, nil })
}

// Join waits for the workers to leave; returns how many are left.
func (t *Table) Join(h int64, timeoutMs int32) (int64, error) {
	return t.OnEngine(h, func(e *pools.Engine) (int64, error) {
		n, err := e.Join(int(timeoutMs))
		return int64(n), err
	})
}

// Free gives everything back.
func (t *Table) Free(h int64) (int64, error) {
	return t.OnEngine(h, func(e *pools.Engine) (int64, error) {
		if err := e.Free(); err != nil {
			return 0, err
		}
		t.drop(func(_ int64, x entry) bool { return x.engine == e }) // its ports go with it
		return 0, nil
	})
}

// Alloc reserves a range of the arena; returns its offset.
func (t *Table) Alloc(h int64, n uint64) (int64, error) {
	return t.OnEngine(h, func(e *pools.Engine) (int64, error) {
		off, _, err := e.Alloc(n)
		return int64(off), err
	})
}

// Release gives a range back.
func (t *Table) Release(h int64, off uint64) (int64, error) {
	return t.OnEngine(h, func(e *pools.Engine) (int64, error) { return 0, e.FreeRange(off) })
}

// Same compares a range with memory of this process: 1 equal, 0 different.
func (t *Table) Same(h int64, off uint64, p unsafe.Pointer, n uint64) (int64, error) {
	return t.OnEngine(h, func(e *pools.Engine) (int64, error) {
		if e.Same(off, p, n) {
			return 1, nil
		}
		return 0, nil
	})
}

// Copy writes memory of this process into a range.
func (t *Table) Copy(h int64, off uint64, p unsafe.Pointer, n uint64) (int64, error) {
	return t.OnEngine(h, func(e *pools.Engine) (int64, error) { return 0, e.Copy(off, p, n) })
}

// Unsent counts the operations that MPI has not finished.
func (t *Table) Unsent(h int64) (int64, error) {
	return t.OnEngine(h, func(e *pools.Engine) (int64, error) { return int64(e.Unsent()), nil })
}
