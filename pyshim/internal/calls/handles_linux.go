//go:build linux && (amd64 || arm64)

package calls

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

// entry is what a handle stands for: an engine, one port of it, a communicator, or a serving rank.
type entry struct {
	engine *pools.Engine
	port   int // -1: the engine itself
	comm   *pools.Comm
	rank   *pools.Rank
}

func (e entry) open() bool { return e.engine != nil || e.comm != nil || e.rank != nil }

// Table hands out integers for objects of this side. Reading it takes no lock, since every engine call does so; a closed
// handle leaves a hole that is never filled again, so a stale handle is recognised.
type Table struct {
	mu      sync.Mutex
	entries atomic.Pointer[[]entry]
}

func (t *Table) put(e entry) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var old []entry
	if p := t.entries.Load(); p != nil {
		old = *p
	}
	next := append(old[:len(old):len(old)], e)
	t.entries.Store(&next)
	return int64(len(next)) // handles start at 1: 0 is never valid
}

func (t *Table) get(h int64) entry {
	p := t.entries.Load()
	if p == nil || h < 1 || h > int64(len(*p)) {
		return entry{}
	}
	return (*p)[h-1]
}

// drop makes every handle for which gone says so invalid.
func (t *Table) drop(gone func(h int64, e entry) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.entries.Load()
	if p == nil {
		return
	}
	next := append([]entry(nil), *p...)
	for i, e := range next {
		if e.open() && gone(int64(i+1), e) {
			next[i] = entry{}
		}
	}
	t.entries.Store(&next)
}

// AddEngine makes a handle for an engine.
func (t *Table) AddEngine(e *pools.Engine) int64 { return t.put(entry{engine: e, port: -1}) }

// AddComm makes a handle for a communicator.
func (t *Table) AddComm(c *pools.Comm) int64 { return t.put(entry{comm: c, port: -1}) }

// AddRank makes a handle for a serving rank.
func (t *Table) AddRank(r *pools.Rank) int64 { return t.put(entry{rank: r, port: -1}) }

// DropRank makes the handles of a serving rank invalid.
func (t *Table) DropRank(r *pools.Rank) {
	t.drop(func(_ int64, e entry) bool { return e.rank == r })
}

// Engine is the engine of a handle.
func (t *Table) Engine(h int64) (*pools.Engine, error) {
	if e := t.get(h); e.engine != nil && e.port < 0 {
		return e.engine, nil
	}
	return nil, badHandle(h)
}

// Port is the engine and the index of a port.
func (t *Table) Port(h int64) (*pools.Engine, int, error) {
	if e := t.get(h); e.engine != nil && e.port >= 0 {
		return e.engine, e.port, nil
	}
	return nil, 0, badHandle(h)
}

// Comm is the communicator of a handle.
func (t *Table) Comm(h int64) (*pools.Comm, error) {
	if e := t.get(h); e.comm != nil {
		return e.comm, nil
	}
	return nil, badHandle(h)
}

// Rank is the serving rank of a handle.
func (t *Table) Rank(h int64) (*pools.Rank, error) {
	if e := t.get(h); e.rank != nil {
		return e.rank, nil
	}
	return nil, badHandle(h)
}

// Engines are those that are open.
func (t *Table) Engines() (open []*pools.Engine) {
	if p := t.entries.Load(); p != nil {
		for _, e := range *p {
			if e.engine != nil && e.port < 0 {
				open = append(open, e.engine)
			}
		}
	}
	return open
}

func badHandle(h int64) error {
	return &pools.Error{Code: pools.CodeHandle, Err: fmt.Errorf("handle %d is unknown or closed", h)}
}

// Guard turns a panic into an error: nothing may unwind into the other side, and one call's fault must not end its process.
// To be deferred.
func Guard(err *error) {
	if r := recover(); r != nil {
		*err = &pools.Error{Code: pools.CodeInternal, Err: fmt.Errorf("engine fault: %v", r)}
	}
}
