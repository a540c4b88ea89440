//go:build cgo && linux && (amd64 || arm64)

package main

import (
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

// slab hands out integers for objects of this side. Reading it takes no lock, since every engine call does so; a closed
// handle leaves a hole that is never filled again, so a stale handle is recognised.
type slab struct {
	mu    sync.Mutex
	table atomic.Pointer[[]entry]
}

var handles slab

func (s *slab) put(e entry) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var old []entry
	if p := s.table.Load(); p != nil {
		old = *p
	}
	next := append(old[:len(old):len(old)], e)
	s.table.Store(&next)
	return int64(len(next)) // handles start at 1: 0 is never valid
}

func (s *slab) get(h int64) (entry, bool) {
	p := s.table.Load()
	if p == nil || h < 1 || h > int64(len(*p)) {
		return entry{}, false
	}
	e := (*p)[h-1]
	return e, e.open()
}

// drop makes every handle for which gone says so invalid.
func (s *slab) drop(gone func(h int64, e entry) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.table.Load()
	if p == nil {
		return
	}
	next := append([]entry(nil), *p...)
	for i, e := range next {
		if e.open() && gone(int64(i+1), e) {
			next[i] = entry{}
		}
	}
	s.table.Store(&next)
}
