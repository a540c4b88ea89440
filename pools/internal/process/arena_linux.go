//go:build linux && (amd64 || arm64)

package process

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"unsafe"
)

const (
	sysPidfdOpen       = 434 // the same number on every architecture since Linux 5.3
	sysPidfdSendSignal = 424
	mfdCloexec         = 1
	mapNoReserve       = 0x4000
	madvDontDump       = 16
	falPunchHole       = 0x2 | 0x1 // PUNCH_HOLE | KEEP_SIZE

	// Free pages kept resident for reuse. 256 MiB holds the slots of eight workers that move 8 MB arrays
	// (a guess between reuse and the memory limit of a batch job, to which the pages count).
	warmLimit = 256 << 20
)

// Arena is one sparse memfd, mapped once in full: an offset is an address, nothing is ever remapped or resized,
// and pages exist only where somebody wrote. memfd has no name (nothing is left behind) and is not bounded by
// the size of /dev/shm.
type Arena struct {
	fd      int
	mem     []byte
	alloc   *allocator
	workers int
	heaps   uint64
	heapLen uint64

	// Discard and Unmap, where they are set, do what their names say through libc. A network adapter may have pages registered
	// under their addresses, and the libraries that see to that notice only what goes through libc.
	Discard, Unmap func(mem []byte) error
}

// arenaSize picks the reserved range: four times the memory of the machine, within the process's own limits. It
// costs address space, not memory; a limit on address space (ulimit -v, batch systems) makes it smaller.
func arenaSize(want uint64) uint64 {
	size := want
	if size == 0 {
		var si syscall.Sysinfo_t
		size = 64 << 30
		if syscall.Sysinfo(&si) == nil {
			size = max(size, 4*uint64(si.Totalram)*uint64(si.Unit))
		}
		size = min(size, 4<<40)
	}
	var lim syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_AS, &lim) == nil && lim.Cur != ^uint64(0) {
		size = min(size, lim.Cur/4)
	}
	if syscall.Getrlimit(syscall.RLIMIT_FSIZE, &lim) == nil && lim.Cur != ^uint64(0) {
		size = min(size, lim.Cur) // ftruncate beyond it raises SIGXFSZ
	}
	return size &^ (PageSize - 1)
}

// NewArena reserves and maps an arena for the given number of workers. want is the size in bytes, 0 for the default.
func NewArena(workers int, want uint64) (*Arena, error) {
	if want == 0 {
		if s := os.Getenv("SCHWIMMBAD_GO_ARENA"); s != "" {
			v, err := strconv.ParseUint(s, 10, 63)
			if err != nil {
				return nil, fmt.Errorf("SCHWIMMBAD_GO_ARENA=%q: want a number of bytes", s)
			}
			want = v
		}
	}
	fd, err := anonymous()
	if err != nil {
		return nil, err
	}
	a := &Arena{fd: fd, workers: workers}
	fixed := uint64(controlPageSize + roundPage(workers*CellSize) + PortCount*PortSize)
	floor := fixed + uint64(workers+4)*(1<<20)
	size := arenaSize(want)
	for {
		if size < floor {
			_ = syscall.Close(a.fd)
			return nil, fmt.Errorf("shared memory: no room for an arena of %d bytes (address space or file size limit?): %w", floor, err)
		}
		if err = syscall.Ftruncate(a.fd, int64(size)); err == nil {
			a.mem, err = syscall.Mmap(a.fd, 0, int(size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED|mapNoReserve)
			if err == nil {
				break
			}
		}
		size = size / 2 &^ (PageSize - 1)
	}
	_ = syscall.Madvise(a.mem, madvDontDump) // a worker's core dump must not hold the arena; failing is harmless
	a.heaps = size / 2 &^ (PageSize - 1)
	a.heapLen = (size - a.heaps) / uint64(max(workers, 1)) &^ (PageSize - 1)
	a.alloc = newAllocator((fixed+MinSlot-1)&^(MinSlot-1), a.heaps)
	a.writeControl()
	return a, nil
}

// anonymous is a file in memory that goes with its last descriptor and mapping.
func anonymous() (int, error) {
	name := [...]byte{'s', 'c', 'h', 'w', 'i', 'm', 'm', 'b', 'a', 'd', 0}
	fd, _, e := syscall.Syscall(sysMemfdCreate, uintptr(unsafe.Pointer(&name[0])), mfdCloexec, 0)
	if e != 0 {
		return -1, fmt.Errorf("shared memory: memfd_create: %w", e)
	}
	return int(fd), nil
}

func roundPage(n int) int { return (n + PageSize - 1) &^ (PageSize - 1) }

func (a *Arena) writeControl() {
	le := binary.LittleEndian
	le.PutUint64(a.mem[CtlMagic:], ControlMagic)
	le.PutUint32(a.mem[CtlVersion:], ControlVersion)
	le.PutUint32(a.mem[CtlWorkers:], uint32(a.workers))
	le.PutUint64(a.mem[CtlLength:], uint64(len(a.mem)))
	le.PutUint64(a.mem[CtlCells:], controlPageSize)
	le.PutUint64(a.mem[CtlCellSize:], CellSize)
	le.PutUint64(a.mem[CtlHeaps:], a.heaps)
	le.PutUint64(a.mem[CtlHeapSize:], a.heapLen)
	le.PutUint64(a.mem[CtlPorts:], a.portsAt())
	le.PutUint64(a.mem[CtlPortSize:], PortSize)
	le.PutUint64(a.mem[CtlPortCount:], PortCount)
}

func (a *Arena) portsAt() uint64 { return uint64(controlPageSize + roundPage(a.workers*CellSize)) }

// Fd is the memfd, for workers that map it themselves.
func (a *Arena) Fd() int { return a.fd }

// Len is the size of the reserved range in bytes.
func (a *Arena) Len() uint64 { return uint64(len(a.mem)) }

// Addr is where the arena is mapped in this process.
func (a *Arena) Addr() uintptr { return uintptr(unsafe.Pointer(&a.mem[0])) }

// Mem is the whole range; the caller keeps to what it was given.
func (a *Arena) Mem() []byte { return a.mem }

// Offset is where a part of the range lies.
func (a *Arena) Offset(b []byte) uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b))) - a.Addr())
}

// Port returns the words of exchange area i.
func (a *Arena) Port(i int) []int64 {
	off := a.portsAt() + uint64(i)*PortSize
	return unsafe.Slice((*int64)(unsafe.Pointer(&a.mem[off])), PortSize/8)
}

// PortOffset is where exchange area i starts.
func (a *Arena) PortOffset(i int) uint64 { return a.portsAt() + uint64(i)*PortSize }

// Load reads a word that another process may be writing.
func (a *Arena) Load(off uint64) uint64 {
	return atomic.LoadUint64((*uint64)(unsafe.Pointer(&a.mem[off])))
}

// Store writes a word that another process may be reading.
func (a *Arena) Store(off, v uint64) {
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&a.mem[off])), v)
}

// Load32 and Store32 are the 4-byte versions.
func (a *Arena) Load32(off uint64) uint32 {
	return atomic.LoadUint32((*uint32)(unsafe.Pointer(&a.mem[off])))
}

// Store32 writes a 4-byte word that another process may be reading.
func (a *Arena) Store32(off uint64, v uint32) {
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&a.mem[off])), v)
}

// Cell is the offset of worker i's cell.
func (a *Arena) Cell(i int) uint64 { return controlPageSize + uint64(i)*CellSize }

// Heap is the range that worker i writes large results into.
func (a *Arena) Heap(i int) (start, end uint64) {
	start = a.heaps + uint64(i)*a.heapLen
	return start, start + a.heapLen
}

// Alloc reserves a range for a slot or a blob.
func (a *Arena) Alloc(size uint64) (off, capacity uint64, err error) {
	off, capacity, err = a.alloc.alloc(size)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %d bytes asked, %d of %d in use (SCHWIMMBAD_GO_ARENA sets the size in bytes)",
			err, size, a.alloc.used, a.heaps)
	}
	return off, capacity, nil
}

// Free takes a range back; pages beyond the warm limit go back to the system.
func (a *Arena) Free(off uint64) bool {
	n, ok := a.alloc.release(off, warmLimit)
	if n > 0 {
		a.punch(off, n)
	}
	return ok
}

func (a *Arena) punch(off, n uint64) {
	if a.Discard != nil {
		_ = a.Discard(a.mem[off : off+n]) // a refusal: as below
		return
	}
	// A refusal (old kernel) only means that the pages stay resident until the arena goes.
	_ = syscall.Fallocate(a.fd, falPunchHole, int64(off), int64(n))
}

// Abandon leaves the mapping to the end of the process: somebody may still use it.
func (a *Arena) Abandon() {
	if a.mem != nil {
		a.mem = nil
		_ = syscall.Close(a.fd) // the mapping does not need it
	}
}

// Close unmaps the arena here. It lives on while a worker maps it.
func (a *Arena) Close() error {
	if a.mem == nil {
		return nil
	}
	unmap := syscall.Munmap
	if a.Unmap != nil {
		unmap = a.Unmap
	}
	err := unmap(a.mem)
	a.mem = nil
	if e := syscall.Close(a.fd); err == nil {
		err = e
	}
	return err
}
