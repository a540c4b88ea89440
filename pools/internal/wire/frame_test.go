package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"slices"
	"testing"
)

// sample has another value in each field, so that two swapped ones would show.
func sample() Frame {
	return Frame{
		Header: Header{
			Type: Results, Kind: Slab, Flags: 0xf1a65, NBuf: 3, Job: 0x1122334455667788, Chunk: 5<<32 | 7, First: 1 << 40,
			Count: 1000, Block: 125, NBytes: 5, Func: 8192, Nanos: 300_000, Next: 12288, BlockOff: 16384, Extra: 99,
		},
		Buffers: []Buffer{
			{Length: 3, Data: []byte("abc")},
			{Offset: 4096, Length: 4096},
			{Length: 2, Data: []byte("de")},
		},
		Inband: []byte("hello"),
	}
}

var arena = Limits{Arena: 1 << 20}

// TestLayout holds the header to the offsets that workers in other languages use.
func TestLayout(t *testing.T) {
	f := sample()
	b := Append(nil, f)
	le := binary.LittleEndian
	if string(b[:3]) != "SWG" || b[3] != 1 {
		t.Errorf("magic and version % x", b[:4])
	}
	for _, k := range []struct {
		name      string
		got, want uint64
	}{
		{"type", uint64(le.Uint16(b[4:])), 2},
		{"kind", uint64(le.Uint16(b[6:])), 3},
		{"flags", uint64(le.Uint32(b[8:])), 0xf1a65},
		{"nbuf", uint64(le.Uint32(b[12:])), 3},
		{"job", le.Uint64(b[16:]), f.Job},
		{"chunk", le.Uint64(b[24:]), f.Chunk},
		{"first", le.Uint64(b[32:]), f.First},
		{"count", uint64(le.Uint32(b[40:])), 1000},
		{"block", uint64(le.Uint32(b[44:])), 125},
		{"nbytes", le.Uint64(b[48:]), 5},
		{"func", le.Uint64(b[56:]), 8192},
		{"nanos", le.Uint64(b[64:]), 300_000},
		{"next", le.Uint64(b[72:]), 12288},
		{"block_off", le.Uint64(b[80:]), 16384},
		{"extra", le.Uint64(b[88:]), 99},
		{"offset of buffer 1", le.Uint64(b[96+16:]), 4096},
		{"length of buffer 1", le.Uint64(b[96+24:]), 4096},
	} {
		if k.got != k.want {
			t.Errorf("%s is %d, want %d", k.name, k.got, k.want)
		}
	}
	if tail := string(b[96+48:]); tail != "helloabcde" {
		t.Errorf("after the table: %q", tail)
	}
}

func TestRoundTrip(t *testing.T) {
	empty := Frame{Header: Header{Type: Tasks}, Buffers: []Buffer{}, Inband: []byte{}}
	for name, f := range map[string]Frame{"full": sample(), "empty": empty} {
		t.Run(name, func(t *testing.T) {
			b := Append([]byte("before"), f)[6:]
			if len(b) != f.Size() {
				t.Errorf("%d bytes, Size says %d", len(b), f.Size())
			}
			got, err := Decode(append(b, "behind"...), arena)
			if err != nil {
				t.Fatal(err)
			}
			if len(f.Buffers) == 0 {
				got.Buffers = f.Buffers
			}
			if !reflect.DeepEqual(got, f) {
				t.Errorf("got  %+v\nwant %+v", got, f)
			}
		})
	}
}

// TestDecodeCopiesNothing: the parts are views, cut so that an append cannot reach the bytes behind.
func TestDecodeCopiesNothing(t *testing.T) {
	b := Append(nil, sample())
	f, err := Decode(b, arena)
	if err != nil {
		t.Fatal(err)
	}
	b[96+48] = 'H'
	if string(f.Inband) != "Hello" || cap(f.Inband) != 5 || cap(f.Buffers[0].Data) != 3 {
		t.Errorf("in band %q of %d, first buffer of %d", f.Inband, cap(f.Inband), cap(f.Buffers[0].Data))
	}
	if n := testing.AllocsPerRun(100, func() { _ = f.Decode(b, arena) }); n != 0 {
		t.Errorf("%v allocations with memory to reuse", n)
	}
}

func TestDecodeRefuses(t *testing.T) {
	put16 := func(at int, v uint16) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint16(b[at:], v); return b }
	}
	put32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[at:], v); return b }
	}
	put64 := func(at int, v uint64) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint64(b[at:], v); return b }
	}
	const table = HeaderSize
	tests := []struct {
		name   string
		change func([]byte) []byte
		lim    Limits
		want   error
	}{
		{"nothing", func([]byte) []byte { return nil }, arena, ErrShort},
		{"half a header", func(b []byte) []byte { return b[:HeaderSize-1] }, arena, ErrShort},
		{"half a table", func(b []byte) []byte { return b[:table+40] }, arena, ErrShort},
		{"half the payload", func(b []byte) []byte { return b[:table+48+3] }, arena, ErrShort},
		{"a following buffer missing", func(b []byte) []byte { return b[:len(b)-1] }, arena, ErrShort},
		{"another program's bytes", func(b []byte) []byte { b[1] = 'x'; return b }, arena, ErrMagic},
		{"a newer version", func(b []byte) []byte { b[3] = 2; return b }, arena, ErrVersion},
		{"type 0", put16(4, 0), arena, ErrBadField},
		{"type 4", put16(4, 4), arena, ErrBadField},
		{"kind 11", put16(6, 11), arena, ErrBadField},
		{"first beyond int64", put64(32, math.MaxUint64), arena, ErrBadField},
		{"negative time", put64(64, 1<<63), arena, ErrBadField},
		{"2^32-1 buffers", put32(12, math.MaxUint32), arena, ErrTooBig},
		{"more buffers than bytes", put32(12, MaxBuffers), arena, ErrShort},
		{"more buffers than allowed", nil, Limits{Arena: 1 << 20, Buffers: 2}, ErrTooBig},
		{"2^64-1 bytes in band", put64(48, math.MaxUint64), arena, ErrTooBig},
		{"more bytes in band than there", put64(48, 1<<20), arena, ErrShort},
		{"more bytes in band than allowed", nil, Limits{Arena: 1 << 20, Bytes: 4}, ErrTooBig},
		{"more bytes with buffers than allowed", nil, Limits{Arena: 1 << 20, Bytes: 9}, ErrTooBig},
		{"following buffer of 2^64-1", put64(table+8, math.MaxUint64), arena, ErrTooBig},
		{"buffer behind the arena", put64(table+16, 1<<20), arena, ErrBadTable},
		{"buffer across the end", put64(table+24, 1<<20-4096+1), arena, ErrBadTable},
		{"offset and length overflow", put64(table+24, math.MaxUint64-100), arena, ErrBadTable},
		{"offsets without an arena", func(b []byte) []byte { return put64(72, 0)(put64(80, 0)(b)) }, Limits{}, ErrBadTable},
		{"next frame across the end", put64(72, 1<<20-HeaderSize+1), arena, ErrBadTable},
		{"heap block behind the arena", put64(80, 1<<20), arena, ErrBadTable},
	}
	for _, k := range tests {
		t.Run(k.name, func(t *testing.T) {
			b := Append(nil, sample())
			if k.change != nil {
				b = k.change(b)
			}
			f, err := Decode(b, k.lim)
			if !errors.Is(err, k.want) {
				t.Errorf("got %v, want %v", err, k.want)
			}
			if !reflect.DeepEqual(f, Frame{}) {
				t.Errorf("a frame beside the error: %+v", f)
			}
		})
	}
}

func TestAtTheLimit(t *testing.T) {
	b := Append(nil, sample())
	binary.LittleEndian.PutUint64(b[HeaderSize+24:], 1<<20-4096) // exactly up to the end of the arena
	if _, err := Decode(b, Limits{Arena: 1 << 20, Bytes: 10, Buffers: 3}); err != nil {
		t.Error(err)
	}
}

// TestEveryPrefix: no cut of a valid frame is a valid frame, and none is read beyond its end.
func TestEveryPrefix(t *testing.T) {
	b := Append(nil, sample())
	for n := range b {
		if _, err := Decode(slices.Clone(b[:n]), arena); !errors.Is(err, ErrShort) {
			t.Errorf("first %d of %d bytes: %v", n, len(b), err)
		}
	}
}

// FuzzDecode: what is accepted encodes to the same bytes again, and lies inside its bounds.
func FuzzDecode(f *testing.F) {
	f.Add(Append(nil, sample()))
	f.Add(Append(nil, Frame{Header: Header{Type: Tasks}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		lim := Limits{Arena: 1 << 20, Bytes: 1 << 16, Buffers: 64}
		fr, err := Decode(b, lim)
		if err != nil {
			known := false
			for _, e := range []error{ErrShort, ErrMagic, ErrVersion, ErrTooBig, ErrBadField, ErrBadTable} {
				known = known || errors.Is(err, e)
			}
			if !known {
				t.Fatalf("unknown error %v", err)
			}
			return
		}
		if n := fr.Size(); n > len(b) || !bytes.Equal(Append(nil, fr), b[:n]) {
			t.Fatalf("% x\nencodes to\n% x", b[:min(n, len(b))], Append(nil, fr))
		}
		for _, e := range fr.Buffers {
			if e.Offset != 0 && (e.Offset >= lim.Arena || e.Length > lim.Arena-e.Offset) {
				t.Fatalf("buffer outside the arena: %+v", e)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	f := sample()
	raw := Append(nil, f)
	b.ReportAllocs()
	for b.Loop() {
		if err := f.Decode(raw, arena); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	f := sample()
	raw := Append(nil, f)
	b.ReportAllocs()
	for b.Loop() {
		raw = Append(raw[:0], f)
	}
}
