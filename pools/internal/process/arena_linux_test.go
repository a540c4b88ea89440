//go:build linux && (amd64 || arm64)

package process

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestArenaLayout(t *testing.T) {
	const workers = 3
	a, err := NewArena(workers, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, v := range []struct{ at, want uint64 }{
		{CtlMagic, ControlMagic}, {CtlVersion, ControlVersion | workers<<32}, {CtlLength, a.Len()}, {CtlCells, a.Cell(0)},
		{CtlCellSize, CellSize}, {CtlPorts, a.PortOffset(0)}, {CtlPortSize, PortSize}, {CtlPortCount, PortCount},
		{CtlSetup, 0}, {CtlMaxTasks, 0},
	} {
		if got := a.Load(v.at); got != v.want {
			t.Errorf("control word at %d: %d, want %d", v.at, got, v.want)
		}
	}
	// Control page, cells, ports, slots and heaps follow each other without overlap.
	end := uint64(controlPageSize)
	for i := range workers {
		if a.Cell(i) < end {
			t.Errorf("cell %d at %d", i, a.Cell(i))
		}
		end = a.Cell(i) + CellSize
	}
	for i := range PortCount {
		if a.PortOffset(i) < end || a.PortOffset(i)%PageSize != 0 || len(a.Port(i)) != PortSize/8 {
			t.Fatalf("port %d at %d", i, a.PortOffset(i))
		}
		end = a.PortOffset(i) + PortSize
	}
	off, _, err := a.Alloc(1)
	if err != nil || off < end || off == 0 || off%PageSize != 0 {
		t.Fatalf("first slot at %d, ports end at %d: %v", off, end, err)
	}
	end = a.Load(CtlHeaps)
	for i := range workers {
		from, to := a.Heap(i)
		if from < end || to > a.Len() || to-from != a.Load(CtlHeapSize) || to-from < 1<<20 {
			t.Errorf("heap %d: %d to %d", i, from, to)
		}
		end = to
	}
	if !a.Free(off) || a.Free(off) {
		t.Error("free once, not twice")
	}
}

func TestArenaHolesAreGivenBack(t *testing.T) {
	a, err := NewArena(1, 2<<30)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	blocks := func() int64 {
		var st syscall.Stat_t
		if err := syscall.Fstat(a.Fd(), &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	const size = 16 << 20
	off, _, err := a.Alloc(size)
	if err != nil {
		t.Fatal(err)
	}
	for at := off; at < off+size; at += PageSize {
		a.Mem()[at] = 1
	}
	full := blocks()
	a.alloc.warm = warmLimit // as if as much lay idle as may
	a.Free(off)
	if left := blocks(); left > full-size {
		t.Fatalf("%d bytes of %d are still there", left, full)
	}
	if a.Mem()[off] != 0 {
		t.Fatal("a hole reads as zero")
	}
}

func TestArenaSizes(t *testing.T) {
	for _, v := range []struct {
		workers int
		want    uint64
		ok      bool
	}{
		{1, 1, false}, {1, 8 << 20, false}, {1, 10 << 20, true}, {100, 64 << 20, false}, {100, 128 << 20, true}, {1, 100<<20 + 123, true},
	} {
		a, err := NewArena(v.workers, v.want)
		if (err == nil) != v.ok {
			t.Errorf("%d workers, %d bytes: %v", v.workers, v.want, err)
		}
		if err != nil {
			continue
		}
		if a.Len() > v.want || a.Len()%PageSize != 0 {
			t.Errorf("%d bytes asked, %d got", v.want, a.Len())
		}
		if _, _, err := a.Alloc(v.want); err == nil || !strings.Contains(err.Error(), "SCHWIMMBAD_GO_ARENA") {
			t.Errorf("too much: %v", err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if err := a.Close(); err != nil {
			t.Error("closed twice:", err)
		}
	}
}

func TestArenaEnvironment(t *testing.T) {
	t.Setenv("SCHWIMMBAD_GO_ARENA", "50000000")
	a, err := NewArena(1, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n := a.Len(); n > 50_000_000 || n < 49_000_000 {
		t.Error(n)
	}
	_ = a.Close()
	for _, bad := range []string{"much", "-1", "1e9"} {
		t.Setenv("SCHWIMMBAD_GO_ARENA", bad)
		if _, err := NewArena(1, 0); err == nil || !strings.Contains(err.Error(), "want a number of bytes") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Batch systems limit address space and file size; the arena must become smaller, or the error must say why.
func TestArenaUnderLimits(t *testing.T) {
	if v := os.Getenv("SWG_TEST_LIMIT"); v != "" {
		what, cur := syscall.RLIMIT_FSIZE, uint64(64<<20)
		if v == "space" {
			what, cur = syscall.RLIMIT_AS, 8<<30
		} else if v == "tiny" {
			cur = 1 << 20
		}
		if err := syscall.Setrlimit(what, &syscall.Rlimit{Cur: cur, Max: cur}); err != nil {
			t.Fatal(err)
		}
		a, err := NewArena(2, 0)
		if v == "tiny" {
			if err == nil || !strings.Contains(err.Error(), "limit") {
				t.Fatal(err)
			}
			return
		}
		if err != nil || a.Len() > cur {
			t.Fatal(err)
		}
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []string{"space", "file", "tiny"} {
		if raceEnabled && v == "space" { // the race detector itself maps terabytes
			continue
		}
		cmd := exec.Command(exe, "-test.run=^TestArenaUnderLimits$")
		cmd.Env = append(os.Environ(), "SWG_TEST_LIMIT="+v)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", v, err, out)
		}
	}
}
