//go:build linux && (amd64 || arm64)

package pools

import (
	"bytes"
	"sync"
	"testing"
	"unsafe"
)

func bothOf(n int) (a, b []byte) {
	a = make([]byte, n)
	for i := range a {
		a[i] = byte(i * 7)
	}
	return a, bytes.Clone(a)
}

// equal compares in pieces.
func (h *helper) equal(a, b []byte) bool {
	return len(a) == len(b) && h.each(len(a), func(from, to int) bool { return bytes.Equal(a[from:to], b[from:to]) })
}

func TestEach(t *testing.T) {
	var h helper
	defer h.stop()
	for _, n := range []int{0, 1, equalAlone - 1, equalAlone, equalAlone + 1, 3*equalAlone - 5} {
		a, b := bothOf(n)
		if !h.equal(a, b) {
			t.Fatalf("%d equal bytes differ", n)
		}
		if n > 0 && h.equal(a, b[:n-1]) {
			t.Fatalf("%d bytes and one less", n)
		}
		for _, at := range []int{0, 1, equalPiece - 1, equalPiece, n / 2, n - 2, n - 1} {
			if at < 0 || at >= n {
				continue
			}
			b[at] ^= 128
			if h.equal(a, b) {
				t.Fatalf("%d bytes: the difference at %d was not noticed", n, at)
			}
			b[at] ^= 128
		}
	}
}

// TestEachAtOnce: the helper has one comparison at a time, the others do without it.
func TestEachAtOnce(t *testing.T) {
	var h helper
	var all sync.WaitGroup
	for k := range 4 {
		all.Add(1)
		go func() {
			defer all.Done()
			a, b := bothOf(equalAlone + k*equalPiece)
			for i := range 50 {
				at := (i * 7919 * 331) % len(a)
				if i%2 == 1 {
					b[at]++
				}
				if h.equal(a, b) != (i%2 == 0) {
					t.Errorf("comparison %d of %d", i, k)
				}
				b[at] = a[at]
			}
		}()
	}
	all.Wait()
	h.stop()
	if a, b := bothOf(equalAlone); !h.equal(a, b) {
		t.Error("without the helper")
	}
}

// TestSame: a range is compared the first time and known by its digests from then on; either way no change passes, and nothing that
// was known of memory that has been written or given back is used.
func TestSame(t *testing.T) {
	e := openTest(t, EngineConfig{Workers: 1})
	for _, n := range []int{1, equalAlone - 1, equalAlone, 2*equalAlone + 4095, 3*equalAlone + 1} {
		mine, other := bothOf(n)
		off, _, err := e.Alloc(uint64(n))
		if err != nil {
			t.Fatal(err)
		}
		put := func(b []byte) {
			if err := e.Copy(off, unsafe.Pointer(&b[0]), uint64(n)); err != nil {
				t.Fatal(err)
			}
		}
		same := func(b []byte) bool { return e.Same(off, unsafe.Pointer(&b[0]), uint64(n)) }
		put(mine)
		for round := range 3 {
			if !same(other) {
				t.Fatalf("round %d: %d equal bytes differ", round, n)
			}
			for _, at := range []int{0, n / 3, n / 2, n - 1} {
				other[at] ^= 1
				if same(other) {
					t.Fatalf("round %d: %d bytes: the difference at %d was not noticed", round, n, at)
				}
				other[at] ^= 1
			}
		}
		other[n/2]++
		put(other)
		if same(mine) || !same(other) {
			t.Fatalf("%d bytes: what was there before was remembered", n)
		}
		if err := e.FreeRange(off); err != nil {
			t.Fatal(err)
		}
	}
	if len(e.digests) != 0 {
		t.Errorf("digests of %d ranges that were given back", len(e.digests))
	}
}
