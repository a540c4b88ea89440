//go:build cgo && linux && (amd64 || arm64)

// Command capi is the C shared library: handles, batched calls, codes. It holds no policy; schwimmbad.h documents each
// function.
package main

/*
#include <stdlib.h>
#define SWG_NO_PROTOTYPES
#include "schwimmbad.h"
#include "error.h"

extern char **environ;
*/
import "C"

import (
	"fmt"
	"syscall"
	"unsafe"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

func main() {}

var version = C.CString(pools.Version()) // lives as long as the process

var codeNames = func() map[int]*C.char {
	m := make(map[int]*C.char)
	for _, c := range pools.Codes() {
		m[int(c)] = C.CString(c.String())
	}
	return m
}()

// failed records the message for this thread and returns the code.
func failed(err error) int64 {
	s := C.CString(err.Error())
	C.swg_set_error(s)
	C.free(unsafe.Pointer(s))
	return int64(pools.CodeOf(err))
}

// guard turns a panic into a code: nothing may unwind through C.
func guard[T ~int32 | ~int64](rc *T) {
	if r := recover(); r != nil {
		*rc = T(failed(&pools.Error{Code: pools.CodeInternal, Err: fmt.Errorf("engine fault: %v", r)}))
	}
}

func badHandle(h int64) int64 {
	return failed(&pools.Error{Code: pools.CodeHandle, Err: fmt.Errorf("handle %d is unknown or closed", h)})
}

// onPool runs f on the engine of a handle.
func onPool(h int64, f func(*pools.Engine) (int64, error)) (rc int64) {
	defer guard(&rc)
	e, ok := handles.get(h)
	if !ok || e.engine == nil || e.port >= 0 {
		return badHandle(h)
	}
	v, err := f(e.engine)
	if err != nil {
		return failed(err)
	}
	return v
}

//export swg_abi
func swg_abi() int32 { return pools.ABI }

//export swg_version
func swg_version() *C.char { return version }

//export swg_code_name
func swg_code_name(code int32) *C.char { return codeNames[int(code)] }

//export swg_open
func swg_open(c *C.swg_config) (rc int64) {
	defer guard(&rc)
	cfg, err := config(c)
	if err != nil {
		return failed(err)
	}
	e, err := pools.OpenEngine(cfg)
	if err != nil {
		return failed(err)
	}
	return handles.put(entry{engine: e, port: -1})
}

// config reads the caller's configuration.
func config(c *C.swg_config) (pools.EngineConfig, error) {
	if c == nil || c.abi != C.SWG_ABI {
		return pools.EngineConfig{}, &pools.Error{Code: pools.CodeArgument, Err: fmt.Errorf("the caller was made for another version of the engine (this one: %d)", pools.ABI)}
	}
	cfg := pools.EngineConfig{
		Workers: int(c.workers), ArenaBytes: uint64(c.arena_bytes), MaxTasks: int(c.max_tasks), Command: stringList(c.command),
	}
	if cfg.Command != nil {
		cfg.Env = environment()
	}
	return cfg, nil
}

// environment is the process's own, as it is now: Go's copy was made when the library was loaded.
func environment() []string {
	var list []string
	for p := C.environ; p != nil && *p != nil; p = (**C.char)(unsafe.Add(unsafe.Pointer(p), unsafe.Sizeof(*p))) {
		list = append(list, C.GoString(*p))
	}
	return list
}

// stringList reads NUL-ended strings up to an empty one.
func stringList(p *C.char) []string {
	if p == nil {
		return nil
	}
	var list []string
	for {
		s := C.GoString(p)
		if s == "" {
			return list
		}
		list = append(list, s)
		p = (*C.char)(unsafe.Add(unsafe.Pointer(p), len(s)+1))
	}
}

//export swg_start
func swg_start(h int64) int32 {
	return int32(onPool(h, func(e *pools.Engine) (int64, error) { return 0, e.Start() }))
}

//export swg_get_info
func swg_get_info(h int64, out *C.swg_info) int32 {
	return int32(onPool(h, func(e *pools.Engine) (int64, error) {
		fillInfo(out, e)
		return 0, nil
	}))
}

// fillInfo tells what the workers of an engine, or of a serving rank, share with it.
func fillInfo(out *C.swg_info, x interface {
	Arena() (uintptr, uint64, int)
	WorkerFds() [4]int
	MasterFds() [5]int
}) {
	addr, n, _ := x.Arena()
	out.address, out.length = C.uint64_t(addr), C.uint64_t(n)
	for i, fd := range x.WorkerFds() {
		out.worker_fds[i] = C.int32_t(fd)
	}
	for i, fd := range x.MasterFds() {
		out.master_fds[i] = C.int32_t(fd)
	}
}

//export swg_get_stats
func swg_get_stats(h int64, out *C.swg_stats) int32 {
	return int32(onPool(h, func(e *pools.Engine) (int64, error) {
		s := e.Stats()
		*out = C.swg_stats{
			tasks: C.int64_t(s.Tasks), chunks: C.int64_t(s.Chunks), retries: C.int64_t(s.Retries), lost: C.int64_t(s.Lost),
			retired: C.int64_t(s.Retired), bytes_in: C.int64_t(s.BytesIn), bytes_out: C.int64_t(s.BytesOut),
			busy_nanos: C.int64_t(s.BusyNanos), workers: C.int64_t(s.Workers), in_flight: C.int64_t(s.InFlight), jobs: C.int64_t(s.JobsNow),
		}
		return 0, nil
	}))
}

//export swg_attach
func swg_attach(h int64, index, pid, child int32) int32 {
	return int32(onPool(h, func(e *pools.Engine) (int64, error) {
		return 0, e.Attach(int(index), int(pid), child != 0)
	}))
}

//export swg_worker_pid
func swg_worker_pid(h int64, index int32) int32 {
	return int32(onPool(h, func(e *pools.Engine) (int64, error) { return int64(e.WorkerPid(int(index))), nil }))
}

//export swg_kill
func swg_kill(h int64, index, sig int32) int32 {
	return int32(onPool(h, func(e *pools.Engine) (int64, error) { return 0, e.Kill(int(index), syscall.Signal(sig)) }))
}

//export swg_set_setup
func swg_set_setup(h int64, off uint64) int32 {
	return int32(onPool(h, func(e *pools.Engine) (int64, error) { e.SetSetup(off); return 0, nil }))
}

//export swg_close
func swg_close(h int64) int32 {
	return int32(onPool(h, func(e *pools.Engine) (int64, error) { e.Close(); return 0, nil }))
}

//export swg_terminate
func swg_terminate(h int64) int32 {
	return int32(onPool(h, func(e *pools.Engine) (int64, error) { e.Terminate(); return 0, nil }))
}

//export swg_join
func swg_join(h int64, timeoutMs int32) int32 {
	return int32(onPool(h, func(e *pools.Engine) (int64, error) {
		n, err := e.Join(int(timeoutMs))
		return int64(n), err
	}))
}

//export swg_free
func swg_free(h int64) int32 {
	return int32(onPool(h, func(e *pools.Engine) (int64, error) {
		if err := e.Free(); err != nil {
			return 0, err
		}
		handles.drop(func(_ int64, x entry) bool { return x.engine == e }) // its ports go with it
		return 0, nil
	}))
}

//export swg_alloc
func swg_alloc(h int64, n uint64) int64 {
	return onPool(h, func(e *pools.Engine) (int64, error) {
		off, _, err := e.Alloc(n)
		return int64(off), err
	})
}

//export swg_release
func swg_release(h int64, off uint64) int32 {
	return int32(onPool(h, func(e *pools.Engine) (int64, error) { return 0, e.FreeRange(off) }))
}

//export swg_same
func swg_same(h int64, off uint64, p unsafe.Pointer, n uint64) int32 {
	return int32(onPool(h, func(e *pools.Engine) (int64, error) {
		if e.Same(off, p, n) {
			return 1, nil
		}
		return 0, nil
	}))
}

//export swg_copy
func swg_copy(h int64, off uint64, p unsafe.Pointer, n uint64) int32 {
	return int32(onPool(h, func(e *pools.Engine) (int64, error) { return 0, e.Copy(off, p, n) }))
}
