//go:build mpi && cgo

package mpix

/*
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

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
