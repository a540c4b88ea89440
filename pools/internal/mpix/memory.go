//go:build mpi && cgo

package mpix

/*
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

// Large blocks ask for huge pages, as NumPy's do: the first touch of 8 MB then takes a twentieth of the time.
static void *x_memory(size_t n) {
    void *p = NULL;
    if (posix_memalign(&p, 64, n ? n : 1)) return NULL;
#ifdef MADV_HUGEPAGE
    if (n >= (size_t)1 << 22) {
        size_t skip = -(size_t)p & 4095;
        madvise((char *)p + skip, (n - skip) & ~(size_t)4095, MADV_HUGEPAGE);
    }
#endif
    return p;
}

static int x_unmap(void *p, size_t n) { return munmap(p, n) ? errno : 0; }
#ifdef MADV_REMOVE
static int x_discard(void *p, size_t n) { return madvise(p, n, MADV_REMOVE) ? errno : 0; }
#else
static int x_discard(void *p, size_t n) { return ENOTSUP; }
#endif
*/
import "C"

import (
	"syscall"
	"unsafe"
)

// Buffers that MPI reads or writes lie in C memory: Go unmaps its own by raw system calls, which the memory hooks of UCX and Open MPI
// do not see, so that a registration of pages for RDMA could go stale.

func cRealloc(p unsafe.Pointer, n int) unsafe.Pointer {
	q := C.realloc(p, C.size_t(n))
	if q == nil {
		panic("mpix: out of memory")
	}
	return q
}

func cFree(p unsafe.Pointer) { C.free(p) }

// Memory is a block from C, aligned as arrays like it, to be given back by Release or, by whoever it was handed to, by free().
func Memory(n int) []byte {
	p := C.x_memory(C.size_t(n))
	if p == nil {
		panic("mpix: out of memory")
	}
	return unsafe.Slice((*byte)(p), n)
}

// Release gives a block from Memory back.
func Release(b []byte) { release(b) }

// buffer is memory from C.
func buffer(n int) []byte { return unsafe.Slice((*byte)(cRealloc(nil, n)), n) }

func release(b []byte) {
	if cap(b) > 0 {
		cFree(unsafe.Pointer(unsafe.SliceData(b)))
	}
}

// Unmap ends a mapping.
func Unmap(b []byte) error { return errno(C.x_unmap(pointer(b), C.size_t(len(b)))) }

// Discard gives the pages of a shared mapping back to the system.
func Discard(b []byte) error { return errno(C.x_discard(pointer(b), C.size_t(len(b)))) }

func errno(code C.int) error {
	if code == 0 {
		return nil
	}
	return syscall.Errno(code)
}
