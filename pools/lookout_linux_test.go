//go:build linux && (amd64 || arm64)

package pools

import (
	"bytes"
	"math/rand/v2"
	"syscall"
	"testing"
	"unsafe"
)

// mapped is memory outside of Go's heap, as NumPy's is.
func mapped(t *testing.T, n int) []byte {
	t.Helper()
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Munmap(b) })
	return b
}

func watching(t *testing.T) *Engine {
	t.Helper()
	e := openTest(t, EngineConfig{Workers: 1})
	if e.lookout.w == nil {
		t.Skip("this kernel does not watch writes")
	}
	return e
}

// watches says whether memory at an offset is known without being read.
func (e *Engine) watches(off uint64) bool {
	r := e.lookout.ranges[off]
	return r != nil && r.armed != nil && r.since >= watchTrust
}

// TestSameAtRandom: two ranges of the arena, two pieces of memory, and whatever a program may do to them between two maps; the answer is
// always that of a comparison.
func TestSameAtRandom(t *testing.T) {
	e := watching(t)
	seed := rand.Uint64()
	t.Log("seed ", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	const n = watchLeast + 5*4096 + 100
	memory := [2][]byte{mapped(t, n+4096)[123:][:n], mapped(t, n+4096)[64:][:n]}
	for i := range memory[0] {
		memory[0][i] = byte(i * 7)
	}
	copy(memory[1], memory[0])
	var offs [2]uint64
	var kept [2][]byte // what was copied there
	put := func(k int, b []byte) {
		if err := e.Copy(offs[k], unsafe.Pointer(&b[0]), n); err != nil {
			t.Fatal(err)
		}
		kept[k] = bytes.Clone(b)
	}
	for k := range offs {
		var err error
		if offs[k], _, err = e.Alloc(n); err != nil {
			t.Fatal(err)
		}
		put(k, memory[0])
	}
	unread := 0
	for round := range 6000 {
		b, k := memory[0], 0
		if round%1000 >= 700 { // a while with both, and nothing that settles
			b, k = memory[r.IntN(2)], r.IntN(2)
		}
		at := r.IntN(n)
		switch action := r.IntN(300); {
		case action == 0:
			b[at] ^= 1
		case action == 1:
			b[at], b[n-1-at] = b[n-1-at], b[at]
		case action == 2:
			b[at] = b[at] + 0
		case action == 3:
			from := uintptr(unsafe.Pointer(&b[at])) &^ 4095
			if _, _, e := syscall.Syscall(syscall.SYS_MADVISE, from, 4096, syscall.MADV_DONTNEED); e != 0 {
				t.Fatal(e)
			}
		case action == 4:
			copy(b[at:], kept[1-k][at:])
		}
		want, known := bytes.Equal(b, kept[k]), e.watches(offs[k])
		if got := e.Same(offs[k], unsafe.Pointer(&b[0]), n); got != want {
			t.Fatalf("round %d: %v, and the comparison says %v (known: %v)", round, got, want, known)
		}
		if known && e.watches(offs[k]) {
			unread++
		}
		if !want {
			put(k, b)
		}
	}
	t.Log("not read: ", unread)
	if unread < 100 {
		t.Error("memory was read nearly each time")
	}
}

// TestSameMemoryTwice: memory that is compared with two ranges in turn is watched for one of them, and a write between two looks is
// not lost to the other.
func TestSameMemoryTwice(t *testing.T) {
	e := watching(t)
	b := mapped(t, watchLeast)
	b[0] = 1
	same := func(off uint64) bool { return e.Same(off, unsafe.Pointer(&b[0]), watchLeast) }
	var offs [2]uint64
	for k := range offs {
		offs[k], _, _ = e.Alloc(watchLeast)
		_ = e.Copy(offs[k], unsafe.Pointer(&b[0]), watchLeast)
	}
	for i := range b {
		b[i] += 0
	}
	for range watchAfter + watchTrust + 2 {
		same(offs[0])
	}
	if !e.watches(offs[0]) {
		t.Fatal("not watched")
	}
	b[5000] = 7
	_ = e.Copy(offs[1], unsafe.Pointer(&b[0]), watchLeast)
	for range watchAfter + watchTrust + 2 {
		if !same(offs[1]) {
			t.Fatal("equal")
		}
	}
	if !e.watches(offs[1]) {
		t.Fatal("not watched for the second")
	}
	if same(offs[0]) {
		t.Fatal("the write was lost")
	}
}

// TestDataThatChange are watched ever more rarely: each time costs who writes them.
func TestDataThatChange(t *testing.T) {
	e := watching(t)
	b := mapped(t, watchLeast)
	off, _, _ := e.Alloc(watchLeast)
	for i := range b {
		b[i] = 1
	}
	_ = e.Copy(off, unsafe.Pointer(&b[0]), watchLeast)
	armed := 0
	for map_ := range 2000 {
		before := e.watches(off)
		if !e.Same(off, unsafe.Pointer(&b[0]), watchLeast) {
			t.Fatal("written, but as it was")
		}
		if !before && e.watches(off) {
			armed++
		}
		if map_%20 == 19 {
			b[map_] = 1
		}
	}
	if armed == 0 || armed > 8 {
		t.Errorf("watched %d times", armed)
	}
}

func TestWatchingTurnedOff(t *testing.T) {
	t.Setenv(watchVariable, "0")
	e := openTest(t, EngineConfig{Workers: 1})
	if fds := e.MasterFds(); e.lookout.w != nil || fds[5] != -1 {
		t.Error("a watcher")
	}
}
