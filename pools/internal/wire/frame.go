package wire

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Buffer is one out-of-band buffer of a frame.
type Buffer struct {
	Offset uint64 // where it lies in the arena; 0: it follows the frame
	Length uint64
	Data   []byte // its bytes, when it follows the frame; nil when it lies in the arena
}

// Frame is a decoded frame. Inband and the Data of its buffers are parts of the bytes it was decoded from.
type Frame struct {
	Header
	Buffers []Buffer
	Inband  []byte
}

// Size is the number of bytes of the encoded frame, with the buffers that follow it.
func (f *Frame) Size() int {
	n := HeaderSize + EntrySize*len(f.Buffers) + len(f.Inband)
	for i := range f.Buffers {
		n += len(f.Buffers[i].Data)
	}
	return n
}

// Decode reads the frame at the start of b, which may go on behind it. Nothing is copied. The only allocation is
// Buffers, with one entry for each 16 bytes of table that b holds. Errors as for ParseHeader.
func Decode(b []byte, lim Limits) (Frame, error) {
	var f Frame
	err := f.Decode(b, lim)
	return f, err
}

// Decode is like the function Decode, but reuses the memory of f.Buffers. After an error f is empty.
func (f *Frame) Decode(b []byte, lim Limits) error {
	table := f.Buffers[:0]
	*f = Frame{}
	h, err := ParseHeader(b, lim)
	if err != nil {
		return err
	}
	rest := b[HeaderSize:]
	n := uint64(h.NBuf) * EntrySize
	if n > uint64(len(rest)) {
		return fmt.Errorf("%w: a table of %d buffers in %d bytes", ErrShort, h.NBuf, len(rest))
	}
	entries, rest := rest[:n], rest[n:]
	if h.NBytes > uint64(len(rest)) {
		return fmt.Errorf("%w: %d bytes in band, %d there", ErrShort, h.NBytes, len(rest))
	}
	inband, rest := rest[:h.NBytes:h.NBytes], rest[h.NBytes:]
	table, err = decodeTable(table, entries, rest, lim, h.NBytes)
	if err != nil {
		return err
	}
	*f = Frame{Header: h, Buffers: table, Inband: inband}
	return nil
}

// decodeTable reads the entries; rest is what follows the frame, total the payload bytes already counted.
func decodeTable(table []Buffer, entries, rest []byte, lim Limits, total uint64) ([]Buffer, error) {
	table = slices.Grow(table, len(entries)/EntrySize)
	for i := 0; len(entries) > 0; i++ {
		e := Buffer{Offset: binary.LittleEndian.Uint64(entries), Length: binary.LittleEndian.Uint64(entries[8:])}
		entries = entries[EntrySize:]
		switch {
		case e.Offset&External != 0 && lim.External:
		case e.Offset != 0:
			if !lim.inside(e.Offset, e.Length) {
				return nil, fmt.Errorf("%w: buffer %d has %d bytes at %d, arena of %d", ErrBadTable, i, e.Length, e.Offset, lim.Arena)
			}
		case e.Length > lim.bytes()-total:
			return nil, fmt.Errorf("%w: buffer %d of %d bytes after %d, at most %d", ErrTooBig, i, e.Length, total, lim.bytes())
		case e.Length > uint64(len(rest)):
			return nil, fmt.Errorf("%w: buffer %d of %d bytes, %d there", ErrShort, i, e.Length, len(rest))
		default:
			e.Data, rest = rest[:e.Length:e.Length], rest[e.Length:]
			total += e.Length
		}
		table = append(table, e)
	}
	return table, nil
}

// Append encodes f behind dst and returns the longer slice. NBuf, NBytes and the lengths of following buffers are taken
// from Buffers and Inband, whatever the header says.
func Append(dst []byte, f Frame) []byte {
	f.NBuf, f.NBytes = uint32(len(f.Buffers)), uint64(len(f.Inband))
	dst = slices.Grow(dst, f.Size())
	at := len(dst)
	dst = dst[:at+HeaderSize]
	f.Put(dst[at:])
	for _, e := range f.Buffers {
		if e.Offset == 0 {
			e.Length = uint64(len(e.Data))
		}
		dst = binary.LittleEndian.AppendUint64(dst, e.Offset)
		dst = binary.LittleEndian.AppendUint64(dst, e.Length)
	}
	dst = append(dst, f.Inband...)
	for _, e := range f.Buffers {
		if e.Offset == 0 {
			dst = append(dst, e.Data...)
		}
	}
	return dst
}
