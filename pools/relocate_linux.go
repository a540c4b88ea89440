//go:build linux && (amd64 || arm64)

package pools

import (
	"encoding/binary"
	"fmt"

	"github.com/schwimmbad-go/schwimmbad-go/pools/internal/wire"
)

// relocate gives each entry of a frame's buffer table the offset that find says for it.
func relocate(frame []byte, find func(off uint64) (uint64, bool)) error {
	h, err := wire.ParseHeader(frame, wire.Limits{Arena: 1 << 62})
	if err != nil {
		return err
	}
	if uint64(len(frame)-wire.HeaderSize) < 16*uint64(h.NBuf) {
		return fmt.Errorf("%w: a table of %d buffers in %d bytes", wire.ErrShort, h.NBuf, len(frame))
	}
	for i := range int(h.NBuf) {
		entry := frame[wire.HeaderSize+16*i:]
		off := binary.LittleEndian.Uint64(entry)
		moved, ok := find(off)
		if !ok {
			return fmt.Errorf("%w: a buffer at %#x, which was not sent", wire.ErrBadTable, off)
		}
		binary.LittleEndian.PutUint64(entry, moved)
	}
	return nil
}

// frameEnd decodes the frame at an offset of the arena and says where its in-band part ends.
func frameEnd(f *wire.Frame, mem []byte, at uint64) (end uint64, err error) {
	arena := uint64(len(mem))
	if at > arena-wire.HeaderSize {
		return 0, fmt.Errorf("%w: a frame at %d", wire.ErrBadTable, at)
	}
	if err := f.Decode(mem[at:], wire.Limits{Arena: arena, External: true}); err != nil {
		return 0, err
	}
	return at + wire.HeaderSize + 16*uint64(f.NBuf) + f.NBytes, nil
}
