//go:build linux && (amd64 || arm64)

package process

import (
	"syscall"
	"unsafe"
)

const (
	futexWait = 0
	futexWake = 1
)

// FutexWait sleeps until *word differs from seen and somebody wakes it, ns nanoseconds at most. It says whether a signal
// ended it.
func FutexWait(word *int32, seen int32, ns int64) bool {
	ts := syscall.NsecToTimespec(ns)
	_, _, e := syscall.Syscall6(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWait, uintptr(uint32(seen)),
		uintptr(unsafe.Pointer(&ts)), 0, 0)
	return e == syscall.EINTR
}

// FutexWake wakes the thread in FutexWait.
func FutexWake(word *int32) {
	// It fails only for a bad address.
	_, _, _ = syscall.Syscall(syscall.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWake, 1)
}

// Nap sleeps without Go's timers, which would open descriptors for good.
func Nap(ns int64) {
	ts := syscall.NsecToTimespec(ns)
	_ = syscall.Nanosleep(&ts, nil) // a signal may end it early
}
