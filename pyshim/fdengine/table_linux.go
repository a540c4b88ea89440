//go:build linux && (amd64 || arm64)

package fdengine

import (
	"encoding/binary"
	"errors"
	"os"

	"github.com/schwimmbad-go/schwimmbad-go/pools"
	"github.com/schwimmbad-go/schwimmbad-go/pyshim/internal/calls"
)

// row is one function that can be called over the socket.
type row struct {
	kinds string // of its arguments, see fits
	run   func(t *calls.Table, a []int64, out *reply) (int64, error)
}

// The functions of schwimmbad.h that need the engine, but for those of MPI, and those that take memory of the caller: it has
// the arena mapped itself. A test compares the names and kinds with the C header's.
var table = map[string]row{
	"swg_abi":        {"", abi},
	"swg_version":    {"", version},
	"swg_code_name":  {"i", codeName},
	"swg_open":       {"IILL", open},
	"swg_get_info":   {"l", info},
	"swg_get_stats":  {"l", stats},
	"swg_attach":     {"liii", attach},
	"swg_worker_pid": {"li", func(t *calls.Table, a []int64, _ *reply) (int64, error) { return t.WorkerPid(a[0], int32(a[1])) }},
	"swg_kill": {"lii", func(t *calls.Table, a []int64, _ *reply) (int64, error) {
		return t.Kill(a[0], int32(a[1]), int32(a[2]))
	}},
	"swg_set_setup": {"lL", func(t *calls.Table, a []int64, _ *reply) (int64, error) { return t.SetSetup(a[0], uint64(a[1])) }},
	"swg_close":     {"l", func(t *calls.Table, a []int64, _ *reply) (int64, error) { return t.Close(a[0]) }},
	"swg_terminate": {"l", func(t *calls.Table, a []int64, _ *reply) (int64, error) { return t.Terminate(a[0]) }},
	"swg_join":      {"li", func(t *calls.Table, a []int64, _ *reply) (int64, error) { return t.Join(a[0], int32(a[1])) }},
	"swg_free":      {"l", func(t *calls.Table, a []int64, _ *reply) (int64, error) { return t.Free(a[0]) }},
	"swg_alloc":     {"lL", func(t *calls.Table, a []int64, _ *reply) (int64, error) { return t.Alloc(a[0], uint64(a[1])) }},
	"swg_release":   {"lL", func(t *calls.Table, a []int64, _ *reply) (int64, error) { return t.Release(a[0], uint64(a[1])) }},
	"swg_unsent":    {"l", func(t *calls.Table, a []int64, _ *reply) (int64, error) { return t.Unsent(a[0]) }},

	"swg_port_open":  {"l", portOpen},
	"swg_port_close": {"l", func(t *calls.Table, a []int64, _ *reply) (int64, error) { return t.PortClose(a[0]) }},
	"swg_begin":      {"l", func(t *calls.Table, a []int64, _ *reply) (int64, error) { return t.Begin(a[0]) }},
	"swg_step": {"lii", func(t *calls.Table, a []int64, _ *reply) (int64, error) {
		return t.Step(a[0], int32(a[1]), int32(a[2]))
	}},
	"swg_grow": {"liL", func(t *calls.Table, a []int64, _ *reply) (int64, error) {
		return t.Grow(a[0], int32(a[1]), uint64(a[2]))
	}},
	"swg_cancel": {"lli", func(t *calls.Table, a []int64, _ *reply) (int64, error) { return t.Cancel(a[0], a[1], int32(a[2])) }},
	"swg_requeue": {"lliLL", func(t *calls.Table, a []int64, _ *reply) (int64, error) {
		return t.Requeue(a[0], a[1], int32(a[2]), uint64(a[3]), uint64(a[4]))
	}},
	"swg_reject": {"ll", func(t *calls.Table, a []int64, _ *reply) (int64, error) { return t.Reject(a[0], a[1]) }},
	"swg_kick":   {"l", func(t *calls.Table, a []int64, _ *reply) (int64, error) { return t.Kick(a[0]) }},
}

// abi also says which process this is: of whom Python talks when it has died.
func abi(_ *calls.Table, _ []int64, out *reply) (int64, error) {
	out.data = binary.LittleEndian.AppendUint64(nil, uint64(os.Getpid()))
	return pools.ABI, nil
}

func version(_ *calls.Table, _ []int64, out *reply) (int64, error) {
	out.data = []byte(pools.Version())
	return 0, nil
}

func codeName(_ *calls.Table, a []int64, out *reply) (int64, error) {
	for _, c := range pools.Codes() {
		if int64(c) == a[0] {
			out.data = []byte(c.String())
		}
	}
	return 0, nil
}

// open makes an engine whose workers Python starts: they are its children, with its environment, directory and streams.
func open(t *calls.Table, a []int64, _ *reply) (int64, error) {
	if err := calls.CheckABI(uint32(a[0])); err != nil {
		return 0, err
	}
	if a[3] < 0 {
		return 0, &pools.Error{Code: pools.CodeArgument, Err: errors.New("tasks per worker: too many")}
	}
	return t.Open(pools.EngineConfig{Workers: int(a[1]), ArenaBytes: uint64(a[2]), MaxTasks: int(a[3])})
}

// info passes on what workers inherit. Addresses mean nothing there, and the master's descriptors stay here.
func info(t *calls.Table, a []int64, out *reply) (int64, error) {
	return t.OnEngine(a[0], func(e *pools.Engine) (int64, error) {
		_, length, _ := e.Arena()
		fds := e.WorkerFds()
		out.data, out.fds = binary.LittleEndian.AppendUint64(nil, length), fds[:]
		return 0, nil
	})
}

func stats(t *calls.Table, a []int64, out *reply) (int64, error) {
	counters, err := t.Stats(a[0])
	for _, c := range counters {
		out.data = binary.LittleEndian.AppendUint64(out.data, uint64(c))
	}
	return 0, err
}

func attach(t *calls.Table, a []int64, _ *reply) (int64, error) {
	return t.Attach(a[0], int32(a[1]), int32(a[2]), 0) // whoever made it, it is no child of this process
}

func portOpen(t *calls.Table, a []int64, out *reply) (int64, error) {
	port, at, err := t.PortOpen(a[0])
	out.data = binary.LittleEndian.AppendUint64(nil, at)
	return port, err
}
