//go:build linux && (amd64 || arm64)

package calls

import "github.com/schwimmbad-go/schwimmbad-go/pools"

// PortOpen reserves an exchange area; returns its handle and where it lies in the arena.
func (t *Table) PortOpen(h int64) (port int64, offset uint64, err error) {
	port, err = t.OnEngine(h, func(e *pools.Engine) (int64, error) {
		i, off, err := e.OpenPort()
		if err != nil {
			return 0, err
		}
		offset = off
		return t.put(entry{engine: e, port: i}), nil
	})
	return port, offset, err
}

// onPort runs f on a port. The two calls of the hot path do not use it: a closure costs them an allocation.
func (t *Table) onPort(h int64, f func(*pools.Engine, int) (int64, error)) (v int64, err error) {
	defer Guard(&err)
	e, p, err := t.Port(h)
	if err != nil {
		return 0, err
	}
	return f(e, p)
}

// PortClose gives the exchange area back.
func (t *Table) PortClose(h int64) (int64, error) {
	v, err := t.onPort(h, func(e *pools.Engine, p int) (int64, error) { e.ClosePort(p); return 0, nil })
	if err == nil {
		t.drop(func(x int64, _ entry) bool { return x == h })
	}
	return v, err
}

// Begin starts a job; returns its number.
func (t *Table) Begin(h int64) (id int64, err error) {
	defer Guard(&err)
	e, p, err := t.Port(h)
	if err != nil {
		return 0, err
	}
	return e.Begin(p)
}

// Step submits, waits and lists; returns what was found, as flags.
func (t *Table) Step(h int64, submitted, wait int32) (flags int64, err error) {
	defer Guard(&err)
	e, p, err := t.Port(h)
	if err != nil {
		return 0, err
	}
	found, err := e.Step(p, int(submitted), int(wait))
	return int64(found), err
}

// Grow is a larger slot for an offer; returns its offset.
func (t *Table) Grow(h int64, offer int32, n uint64) (int64, error) {
	return t.onPort(h, func(e *pools.Engine, p int) (int64, error) {
		off, err := e.Grow(p, int(offer), n)
		return int64(off), err
	})
}

// Cancel gives a job up.
func (t *Table) Cancel(h, job int64, kill int32) (int64, error) {
	return t.onPort(h, func(e *pools.Engine, _ int) (int64, error) { e.Cancel(job, kill != 0); return 0, nil })
}

// Requeue offers the tasks of a chunk again.
func (t *Table) Requeue(h, chunk int64, split int32, serial, off uint64) (int64, error) {
	return t.onPort(h, func(e *pools.Engine, p int) (int64, error) {
		return 0, e.Requeue(p, chunk, split != 0, serial, off)
	})
}

// Reject lets the first task of a chunk fail with the record the worker left.
func (t *Table) Reject(h, chunk int64) (int64, error) {
	return t.onPort(h, func(e *pools.Engine, p int) (int64, error) { return 0, e.Reject(p, chunk) })
}

// Kick makes Step of this port return, from any thread.
func (t *Table) Kick(h int64) (int64, error) {
	return t.onPort(h, func(e *pools.Engine, p int) (int64, error) { e.Kick(p); return 0, nil })
}
