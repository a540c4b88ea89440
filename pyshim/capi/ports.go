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
	if offset == nil {
		return failed(&pools.Error{Code: pools.CodeArgument, Err: errors.New("no place for the port's offset")})
	}
	port, off, err := handles.PortOpen(h)
	if err != nil {
		return failed(err)
	}
	*offset = C.uint64_t(off)
	return port
}

//export swg_port_close
func swg_port_close(h int64) int32 { return int32(result(handles.PortClose(h))) }

//export swg_begin
func swg_begin(h int64) int64 { return result(handles.Begin(h)) }

//export swg_step
func swg_step(h int64, submitted, wait int32) int32 {
	return int32(result(handles.Step(h, submitted, wait)))
}

//export swg_grow
func swg_grow(h int64, offer int32, n uint64) int64 { return result(handles.Grow(h, offer, n)) }

//export swg_cancel
func swg_cancel(h, job int64, kill int32) int32 { return int32(result(handles.Cancel(h, job, kill))) }

//export swg_requeue
func swg_requeue(h, chunk int64, split int32, serial, off uint64) int32 {
	return int32(result(handles.Requeue(h, chunk, split, serial, off)))
}

//export swg_reject
func swg_reject(h, chunk int64) int32 { return int32(result(handles.Reject(h, chunk))) }

//export swg_kick
func swg_kick(h int64) int32 { return int32(result(handles.Kick(h))) }
