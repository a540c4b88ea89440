package wire

import (
	"bytes"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
)

// MaxControl is the default size limit of control messages in bytes: enough for the largest environment Linux takes.
const MaxControl = 4 << 20

// PoolSpec describes the pool a process is asked to run. Encoded as a msgpack map with these names, so that either
// side may know fields that the other does not.
type PoolSpec struct {
	Workers int      `msgpack:"workers"`       // how many
	Arena   uint64   `msgpack:"arena"`         // extent of the shared memory in bytes, 0: the default
	Start   []string `msgpack:"start"`         // argument vector that starts a worker
	Env     []string `msgpack:"env,omitempty"` // its environment as "name=value"; none: inherited
}

// Stats are the totals of a pool.
type Stats struct {
	Tasks       uint64 `msgpack:"tasks"`
	Chunks      uint64 `msgpack:"chunks"`
	Retries     uint64 `msgpack:"retries"`
	LostWorkers uint64 `msgpack:"lost_workers"`
	BytesIn     uint64 `msgpack:"bytes_in"`
	BytesOut    uint64 `msgpack:"bytes_out"`
	BusyNS      uint64 `msgpack:"busy_ns"`
	Workers     int    `msgpack:"workers"` // at present
}

// Control is any of the control messages.
type Control interface{ PoolSpec | Stats | RankInfo }

// Marshal encodes a control message. It fails with ErrTooBig above limit bytes, 0 meaning MaxControl.
func Marshal[M Control](m M, limit int) ([]byte, error) {
	b, err := msgpack.Marshal(&m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrControl, err)
	}
	if n := controlLimit(limit); len(b) > n {
		return nil, fmt.Errorf("%w: control message of %d bytes, at most %d", ErrTooBig, len(b), n)
	}
	return b, nil
}

// Unmarshal decodes a control message that fills b. Fields it does not know are ignored, missing ones stay zero. It
// allocates at most some 30 bytes per byte of b. Errors wrap ErrTooBig above limit bytes (0: MaxControl), ErrShort or
// ErrControl.
func Unmarshal[M Control](b []byte, limit int) (M, error) {
	var m, zero M
	if n := controlLimit(limit); len(b) > n {
		return zero, fmt.Errorf("%w: control message of %d bytes, at most %d", ErrTooBig, len(b), n)
	}
	if err := checkMsgpack(b); err != nil {
		return zero, err
	}
	if err := msgpack.NewDecoder(bytes.NewReader(b)).Decode(&m); err != nil {
		return zero, fmt.Errorf("%w: %w", ErrControl, err)
	}
	return m, nil
}

func controlLimit(limit int) int {
	if limit <= 0 {
		return MaxControl
	}
	return limit
}
