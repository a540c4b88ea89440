//go:build linux && (amd64 || arm64)

package pools

import (
	"bytes"
	"sync"
	"testing"
)

func bothOf(n int) (a, b []byte) {
	a = make([]byte, n)
	for i := range a {
		a[i] = byte(i * 7)
	}
	return a, bytes.Clone(a)
}

func TestEqual(t *testing.T) {
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

// TestEqualAtOnce: the helper has one comparison at a time, the others do without it.
func TestEqualAtOnce(t *testing.T) {
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
