//go:build cgo && linux && (amd64 || arm64)

package main

/*
#define SWG_NO_PROTOTYPES
#include "schwimmbad.h"
*/
import "C"

import (
	"errors"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
)

//export swg_port_open
func swg_port_open(h int64, offset *C.uint64_t) int64 {
	return onPool(h, func(e *pools.Engine) (int64, error) {
		if offset == nil {
			return 0, &pools.Error{Code: pools.CodeArgument, Err: errors.New("no place for the port's offset")}
		}
		i, off, err := e.OpenPort()
		if err != nil {
			return 0, err
		}
		*offset = C.uint64_t(off)
		return handles.put(entry{engine: e, port: i}), nil
	})
}

// onPort runs f on a port. The two calls of the hot path do not use it: a closure costs them an allocation.
func onPort(h int64, f func(*pools.Engine, int) (int64, error)) (rc int64) {
	defer guard(&rc)
	e, ok := handles.get(h)
	if !ok || e.engine == nil || e.port < 0 {
		return badHandle(h)
	}
	v, err := f(e.engine, e.port)
	if err != nil {
		return failed(err)
	}
	return v
}

//export swg_port_close
func swg_port_close(h int64) int32 {
	rc := onPort(h, func(e *pools.Engine, p int) (int64, error) { e.ClosePort(p); return 0, nil })
	if rc == 0 {
		handles.drop(func(x int64, _ entry) bool { return x == h })
	}
	return int32(rc)
}

//export swg_begin
func swg_begin(h int64) (rc int64) {
	defer guard(&rc)
	e, ok := handles.get(h)
	if !ok || e.engine == nil || e.port < 0 {
		return badHandle(h)
	}
	id, err := e.engine.Begin(e.port)
	if err != nil {
		return failed(err)
	}
	return id
}

//export swg_step
func swg_step(h int64, submitted, wait int32) (rc int32) {
	defer guard(&rc)
	e, ok := handles.get(h)
	if !ok || e.engine == nil || e.port < 0 {
		return int32(badHandle(h))
	}
	flags, err := e.engine.Step(e.port, int(submitted), int(wait))
	if err != nil {
		return int32(failed(err))
	}
	return int32(flags)
}

//export swg_grow
func swg_grow(h int64, offer int32, n uint64) int64 {
	return onPort(h, func(e *pools.Engine, p int) (int64, error) {
		off, err := e.Grow(p, int(offer), n)
		return int64(off), err
	})
}

//export swg_cancel
func swg_cancel(h, job int64, kill int32) int32 {
	return int32(onPort(h, func(e *pools.Engine, _ int) (int64, error) { e.Cancel(job, kill != 0); return 0, nil }))
}

//export swg_requeue
func swg_requeue(h, chunk int64, split int32, serial, off uint64) int32 {
	return int32(onPort(h, func(e *pools.Engine, p int) (int64, error) {
		return 0, e.Requeue(p, chunk, split != 0, serial, off)
	}))
}

//export swg_reject
func swg_reject(h, chunk int64) int32 {
	return int32(onPort(h, func(e *pools.Engine, p int) (int64, error) { return 0, e.Reject(p, chunk) }))
}

//export swg_kick
func swg_kick(h int64) int32 {
	return int32(onPort(h, func(e *pools.Engine, p int) (int64, error) { e.Kick(p); return 0, nil }))
}
