//go:build cgo && linux && (amd64 || arm64)

package main

/*
#include <string.h>
#define SWG_NO_PROTOTYPES
#include "schwimmbad.h"
*/
import "C"

import (
	"unsafe"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
	"github.com/schwimmbad-go/schwimmbad-go/pyshim/internal/calls"
)

// call runs f and turns its error into a code.
func call(f func() (int64, error)) int64 { return result(guarded(f)) }

func guarded(f func() (int64, error)) (v int64, err error) {
	defer calls.Guard(&err)
	return f()
}

// put writes a string into a C array, cut to fit.
func put(to []C.char, s string) {
	n := min(len(s), len(to)-1)
	for i := range n {
		to[i] = C.char(s[i])
	}
	to[n] = 0
}

//export swg_mpi_look
func swg_mpi_look(out *C.swg_mpi_info) int32 {
	return int32(call(func() (int64, error) {
		i, err := pools.LookAtMPI()
		if err != nil {
			return 0, err
		}
		*out = C.swg_mpi_info{
			initialized: truth(i.Initialized), finalized: truth(i.Finalized), level: C.int32_t(i.Level),
			main_thread: truth(i.MainThread), rank: C.int32_t(i.Rank), size: C.int32_t(i.Size),
		}
		put(out.version[:], i.Version)
		return 0, nil
	}))
}

func truth(b bool) C.int32_t {
	if b {
		return 1
	}
	return 0
}

//export swg_mpi_start
func swg_mpi_start() int32 {
	return int32(call(func() (int64, error) {
		level, err := pools.StartMPI()
		return int64(level), err
	}))
}

//export swg_mpi_stop
func swg_mpi_stop() int32 { return int32(call(func() (int64, error) { return 0, pools.StopMPI() })) }

//export swg_mpi_abort
func swg_mpi_abort(code int32) int32 {
	return int32(call(func() (int64, error) { pools.AbortMPI(int(code)); return 0, nil }))
}

//export swg_comm_open
func swg_comm_open(fortran, watch int32) int64 {
	return call(func() (int64, error) {
		c, err := pools.OpenComm(int(fortran), watch != 0)
		if err != nil {
			return 0, err
		}
		return handles.AddComm(c), nil
	})
}

// onComm runs f on the communicator of a handle.
func onComm(h int64, f func(*pools.Comm) (int64, error)) int64 {
	return call(func() (int64, error) {
		c, err := handles.Comm(h)
		if err != nil {
			return 0, err
		}
		return f(c)
	})
}

//export swg_comm_ready
func swg_comm_ready(h int64, ms int32) int32 {
	return int32(onComm(h, func(c *pools.Comm) (int64, error) {
		ok, err := c.Ready(int(ms))
		return int64(truth(ok)), err
	}))
}

//export swg_comm_rank
func swg_comm_rank(h int64) int32 {
	return int32(onComm(h, func(c *pools.Comm) (int64, error) { return int64(c.Rank()), nil }))
}

//export swg_comm_size
func swg_comm_size(h int64) int32 {
	return int32(onComm(h, func(c *pools.Comm) (int64, error) { return int64(c.Size()), nil }))
}

//export swg_comm_broken
func swg_comm_broken(h int64) int32 {
	return int32(onComm(h, func(c *pools.Comm) (int64, error) { return int64(truth(c.Broken())), nil }))
}

//export swg_comm_peer
func swg_comm_peer(h int64, rank int32, out *C.swg_peer) int32 {
	return int32(onComm(h, func(c *pools.Comm) (int64, error) {
		host, pid, workers := c.Peer(int(rank))
		out.pid, out.workers = C.int32_t(pid), C.int32_t(workers)
		put(out.host[:], host)
		return 0, nil
	}))
}

//export swg_comm_exit
func swg_comm_exit(h int64, ms int32) int32 {
	return int32(onComm(h, func(c *pools.Comm) (int64, error) {
		n, err := c.Exit(int(ms))
		return int64(n), err
	}))
}

//export swg_open_ranks
func swg_open_ranks(c *C.swg_config, comm int64, perRank int32, setup unsafe.Pointer, n uint64) int64 {
	return onComm(comm, func(x *pools.Comm) (int64, error) {
		cfg, err := config(c)
		if err != nil {
			return 0, err
		}
		cfg.Comm, cfg.PerRank = x, int(perRank)
		if setup != nil {
			cfg.Setup = append([]byte{}, unsafe.Slice((*byte)(setup), n)...)
		}
		e, err := pools.OpenEngine(cfg)
		if err != nil {
			return 0, err
		}
		return handles.AddEngine(e), nil
	})
}

//export swg_unsent
func swg_unsent(h int64) int32 {
	return int32(result(handles.Unsent(h)))
}

//export swg_rank_open
func swg_rank_open(comm int64, c *C.swg_config) int64 {
	return onComm(comm, func(x *pools.Comm) (int64, error) {
		cfg, err := config(c)
		if err != nil {
			return 0, err
		}
		r, err := pools.OpenRank(x, pools.RankConfig{Workers: cfg.Workers, ArenaBytes: cfg.ArenaBytes, MaxTasks: cfg.MaxTasks})
		if err != nil {
			return 0, err
		}
		return handles.AddRank(r), nil
	})
}

// onRank runs f on the serving rank of a handle.
func onRank(h int64, f func(*pools.Rank) (int64, error)) int64 {
	return call(func() (int64, error) {
		r, err := handles.Rank(h)
		if err != nil {
			return 0, err
		}
		return f(r)
	})
}

//export swg_rank_get_info
func swg_rank_get_info(h int64, out *C.swg_info) int32 {
	return int32(onRank(h, func(r *pools.Rank) (int64, error) { fillInfo(out, r); return 0, nil }))
}

//export swg_rank_attach
func swg_rank_attach(h int64, index, pid, child int32) int32 {
	return int32(onRank(h, func(r *pools.Rank) (int64, error) { return 0, r.Attach(int(index), int(pid), child != 0) }))
}

//export swg_rank_server
func swg_rank_server(h int64, socket int32) int32 {
	return int32(onRank(h, func(r *pools.Rank) (int64, error) { r.Serves(int(socket)); return 0, nil }))
}

//export swg_rank_desk
func swg_rank_desk(h int64, out *C.swg_desk) int32 {
	return int32(onRank(h, func(r *pools.Rank) (int64, error) {
		d, err := r.Desk()
		if d == nil {
			return 0, err
		}
		out.index, out.work, out.answer, out.memory = C.int32_t(d.Index), C.int32_t(d.Work), C.int32_t(d.Answer), C.int32_t(d.Memory)
		return 1, nil
	}))
}

//export swg_rank_hello
func swg_rank_hello(h int64) int32 {
	return int32(onRank(h, func(r *pools.Rank) (int64, error) { return 0, r.Hello() }))
}

//export swg_rank_refuse
func swg_rank_refuse(h int64, code int32, text *C.char, off uint64) int32 {
	return int32(onRank(h, func(r *pools.Rank) (int64, error) {
		return 0, r.Refuse(pools.Code(code), C.GoString(text), off)
	}))
}

//export swg_rank_next
func swg_rank_next(h int64, answered uint64) int64 { return result(rankNext(h, answered)) }

// rankNext is on a hot path: no closure.
func rankNext(h int64, answered uint64) (found int64, err error) {
	defer calls.Guard(&err)
	r, err := handles.Rank(h)
	if err != nil {
		return 0, err
	}
	if answered != 0 {
		if err := r.Answer(answered); err != nil {
			return 0, err
		}
	}
	what, at, err := r.Next()
	return int64(at)<<4 | int64(what), err
}

//export swg_rank_look
func swg_rank_look(h int64) int32 {
	return int32(onRank(h, func(r *pools.Rank) (int64, error) { return 0, r.Look() }))
}

//export swg_rank_close
func swg_rank_close(h int64) int32 {
	return int32(onRank(h, func(r *pools.Rank) (int64, error) {
		if err := r.Close(); err != nil {
			return 0, err
		}
		handles.DropRank(r)
		return 0, nil
	}))
}
