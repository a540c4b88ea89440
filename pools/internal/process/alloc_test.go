package process

import (
	"errors"
	"math/rand/v2"
	"testing"
)

func TestAllocClasses(t *testing.T) {
	a := newAllocator(1<<20, 1<<30)
	for _, v := range []struct{ size, capacity uint64 }{
		{0, MinSlot}, {1, MinSlot}, {MinSlot, MinSlot}, {MinSlot + 1, 2 * MinSlot}, {100_000, 1 << 17}, {1 << 20, 1 << 20}, {1<<20 + 1, 1 << 21},
	} {
		off, capacity, err := a.alloc(v.size)
		if err != nil || capacity != v.capacity || off%PageSize != 0 {
			t.Errorf("%d bytes: %d at %d, %v; want %d", v.size, capacity, off, err, v.capacity)
		}
	}
}

func TestAllocIsLastInFirstOut(t *testing.T) {
	a := newAllocator(0, 1<<30)
	var offs []uint64
	for range 5 {
		off, _, _ := a.alloc(MinSlot)
		offs = append(offs, off)
	}
	for _, off := range offs {
		a.release(off, 1<<40)
	}
	for i := range offs {
		if off, _, _ := a.alloc(MinSlot); off != offs[len(offs)-1-i] {
			t.Fatalf("%d came before the range that was freed last", off)
		}
	}
}

// Ranges beyond the warm limit are given back to the system and reused last.
func TestAllocColdRanges(t *testing.T) {
	const size = 1 << 20
	a := newAllocator(0, 1<<30)
	first, _, _ := a.alloc(size)
	second, _, _ := a.alloc(size)
	third, _, _ := a.alloc(size)
	for _, v := range []struct{ off, punched uint64 }{{first, 0}, {second, 0}, {third, size}} {
		if n, ok := a.release(v.off, 2*size); !ok || n != v.punched {
			t.Fatalf("range %d: %d bytes punched, want %d", v.off, n, v.punched)
		}
	}
	for _, want := range []uint64{second, first, third} {
		if off, _, _ := a.alloc(size); off != want {
			t.Fatalf("got %d, want %d: warm ranges come first", off, want)
		}
	}
	small, _, _ := a.alloc(1)
	if n, ok := a.release(small, 0); n != 0 || !ok {
		t.Fatal("a small range is not worth a system call")
	}
}

func TestAllocFull(t *testing.T) {
	a := newAllocator(0, 4*MinSlot)
	for range 4 {
		if _, _, err := a.alloc(1); err != nil {
			t.Fatal(err)
		}
	}
	for _, size := range []uint64{1, MinSlot * 8, 1 << 46, 1<<46 + 1, 1 << 63, ^uint64(0)} {
		if _, _, err := a.alloc(size); !errors.Is(err, ErrArenaFull) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestReleaseOfWhatIsNotHeld(t *testing.T) {
	a := newAllocator(0, 1<<30)
	off, _, _ := a.alloc(3 * MinSlot)
	for _, wrong := range []uint64{off + MinSlot, off + 1, 1 << 40, ^uint64(0)} {
		if _, ok := a.release(wrong, 0); ok {
			t.Errorf("released %d, which was never handed out", wrong)
		}
	}
	if _, ok := a.release(off, 0); !ok {
		t.Fatal("the range itself")
	}
	if _, ok := a.release(off, 0); ok {
		t.Fatal("released twice: it would be handed out twice")
	}
	if a.used != 0 {
		t.Fatalf("%d bytes in use", a.used)
	}
}

// Random requests against a model that knows every range: no two overlap, all lie inside, the books balance.
func TestAllocRandom(t *testing.T) {
	const start, end = 3 << 20, 512 << 20
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	a := newAllocator(start, end)
	type held struct{ off, capacity uint64 }
	var live []held
	var used uint64
	owner := make(map[uint64]bool) // pages
	steps := 200_000
	if testing.Short() {
		steps = 20_000
	}
	for i := range steps {
		if len(live) > 0 && rnd.IntN(100) < 48 {
			k := rnd.IntN(len(live))
			h := live[k]
			live[k] = live[len(live)-1]
			live = live[:len(live)-1]
			n, ok := a.release(h.off, 8<<20)
			if !ok || n != 0 && n != h.capacity {
				t.Fatalf("step %d: release %+v: %d, %v", i, h, n, ok)
			}
			used -= h.capacity
			for p := h.off; p < h.off+h.capacity; p += PageSize {
				delete(owner, p)
			}
			continue
		}
		size := uint64(1) << rnd.IntN(22)
		size += rnd.Uint64N(size)
		off, capacity, err := a.alloc(size)
		if err != nil {
			continue
		}
		if capacity < size || off < start || off+capacity > end {
			t.Fatalf("step %d: %d bytes at %d for %d", i, capacity, off, size)
		}
		for p := off; p < off+capacity; p += PageSize {
			if owner[p] {
				t.Fatalf("step %d: %d bytes at %d overlap another range", i, capacity, off)
			}
			owner[p] = true
		}
		live = append(live, held{off, capacity})
		if used += capacity; a.used != used {
			t.Fatalf("step %d: %d bytes in use, the allocator says %d", i, used, a.used)
		}
	}
}
