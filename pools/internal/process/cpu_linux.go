//go:build linux && (amd64 || arm64)

package process

import (
	"math/bits"
	"runtime"
	"syscall"
	"unsafe"
)

// CPUs is a set of them, as the kernel takes it. On machines with more than 1024 the calls fail, and nobody is helped.
type CPUs [16]uint64

// OtherCPUs are those that the calling thread may use, without the one it runs on; false if there are none.
func OtherCPUs() (CPUs, bool) {
	var set CPUs
	var here uint32
	_, _, e := syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 0, unsafe.Sizeof(set), uintptr(unsafe.Pointer(&set)))
	_, _, e2 := syscall.RawSyscall(sysGetcpu, uintptr(unsafe.Pointer(&here)), 0, 0)
	if e != 0 || e2 != 0 || here >= uint32(len(set)*64) {
		return CPUs{}, false
	}
	set[here/64] &^= 1 << (here % 64)
	return set, set != CPUs{}
}

// Restrict a thread of this process to a set of CPUs. It says whether that worked.
func Restrict(tid int, set *CPUs) bool {
	_, _, e := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, uintptr(tid), unsafe.Sizeof(*set), uintptr(unsafe.Pointer(set)))
	return e == 0
}

// MachineCPUs is how many this machine has, of which this process may have leave to use only some.
func MachineCPUs() int {
	const all = 1 << 14
	var mask [all / 64]uint64
	// Of the first process: a launcher may have tied this one to a CPU, though others are there for its neighbours.
	n, _, e := syscall.RawSyscall(syscall.SYS_SCHED_GETAFFINITY, 1, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask[0])))
	if e != 0 {
		return runtime.NumCPU()
	}
	count := 0
	for _, word := range mask[:n/8] {
		count += bits.OnesCount64(word)
	}
	return count
}
