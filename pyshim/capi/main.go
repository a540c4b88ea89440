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
	"unsafe"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
	"github.com/schwimmbad-go/schwimmbad-go/pyshim/internal/calls"
)

func main() {}

var handles calls.Table

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

// result is a call's value, or the code of its error.
func result(v int64, err error) int64 {
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
func swg_open(c *C.swg_config) int64 {
	cfg, err := config(c)
	if err != nil {
		return failed(err)
	}
	return result(handles.Open(cfg))
}

// config reads the caller's configuration.
func config(c *C.swg_config) (pools.EngineConfig, error) {
	var abi uint32 // a caller without a configuration is of no version
	if c != nil {
		abi = uint32(c.abi)
	}
	if err := calls.CheckABI(abi); err != nil {
		return pools.EngineConfig{}, err
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
func swg_start(h int64) int32 { return int32(result(handles.Start(h))) }

//export swg_get_info
func swg_get_info(h int64, out *C.swg_info) int32 {
	return int32(result(handles.OnEngine(h, func(e *pools.Engine) (int64, error) {
		fillInfo(out, e)
		return 0, nil
	})))
}

// fillInfo tells what the workers of an engine, or of a serving rank, share with it.
func fillInfo(out *C.swg_info, x interface {
	Arena() (uintptr, uint64, int)
	WorkerFds() [4]int
	MasterFds() [6]int
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
	return int32(call(func() (int64, error) {
		s, err := handles.Stats(h)
		if err == nil {
			*out = *(*C.swg_stats)(unsafe.Pointer(&s)) // eleven integers, in the same order
		}
		return 0, err
	}))
}

//export swg_attach
func swg_attach(h int64, index, pid, child int32) int32 {
	return int32(result(handles.Attach(h, index, pid, child)))
}

//export swg_worker_pid
func swg_worker_pid(h int64, index int32) int32 { return int32(result(handles.WorkerPid(h, index))) }

//export swg_kill
func swg_kill(h int64, index, sig int32) int32 { return int32(result(handles.Kill(h, index, sig))) }

//export swg_set_setup
func swg_set_setup(h int64, off uint64) int32 { return int32(result(handles.SetSetup(h, off))) }

//export swg_close
func swg_close(h int64) int32 { return int32(result(handles.Close(h))) }

//export swg_terminate
func swg_terminate(h int64) int32 { return int32(result(handles.Terminate(h))) }

//export swg_join
func swg_join(h int64, timeoutMs int32) int32 { return int32(result(handles.Join(h, timeoutMs))) }

//export swg_free
func swg_free(h int64) int32 { return int32(result(handles.Free(h))) }

//export swg_alloc
func swg_alloc(h int64, n uint64) int64 { return result(handles.Alloc(h, n)) }

//export swg_release
func swg_release(h int64, off uint64) int32 { return int32(result(handles.Release(h, off))) }

//export swg_same
func swg_same(h int64, off uint64, p unsafe.Pointer, n uint64) int32 {
	return int32(result(handles.Same(h, off, p, n)))
}

//export swg_copy
func swg_copy(h int64, off uint64, p unsafe.Pointer, n uint64) int32 {
	return int32(result(handles.Copy(h, off, p, n)))
}
