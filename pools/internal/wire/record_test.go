package wire

import (
	"bytes"
	"testing"
)

func TestChunkRecord(t *testing.T) {
	r := ChunkRecord(3, 0xfedcba98)
	if r.Control() || r.Page() != 3 || r.Offset() != 3*4096 || r.Generation() != 0xfedcba98 {
		t.Errorf("got %#x", uint64(r))
	}
	b := make([]byte, RecordSize)
	r.Put(b)
	if want := []byte{3, 0, 0, 0, 0x98, 0xba, 0xdc, 0xfe}; !bytes.Equal(b, want) {
		t.Errorf("bytes % x, want % x", b, want)
	}
	if got := ParseRecord(b); got != r {
		t.Errorf("read back %#x", uint64(got))
	}
	if last := ChunkRecord(1<<32-1, 1); last.Offset() != (1<<32-1)*4096 {
		t.Errorf("last page at %d", last.Offset())
	}
}

func TestControlRecord(t *testing.T) {
	for _, code := range []Code{Hello, Retired, InitFailed, Left} {
		for _, worker := range []uint32{0, 1, MaxWorker} {
			r := ControlRecord(code, worker)
			if !r.Control() || r.Code() != code || r.Worker() != worker {
				t.Errorf("%v of worker %d became %#x", code, worker, uint64(r))
			}
		}
	}
	if got, want := uint64(ControlRecord(Retired, 5)), uint64(2<<56|5<<32); got != want {
		t.Errorf("got %#x, want %#x", got, want)
	}
	defer func() {
		if recover() == nil {
			t.Error("worker index of 25 bits accepted")
		}
	}()
	ControlRecord(Hello, MaxWorker+1)
}

func TestNames(t *testing.T) {
	for _, k := range []struct{ got, want string }{
		{Tasks.String(), "TASKS"}, {Results.String(), "RESULTS"}, {Blob.String(), "BLOB"}, {Type(9).String(), "Type(9)"},
		{PickleList.String(), "pickle list"}, {Raw.String(), "raw"}, {Ints.String(), "ints"}, {Local.String(), "local objects"}, {Kind(11).String(), "Kind(11)"},
		{Hello.String(), "HELLO"}, {Retired.String(), "RETIRED"}, {InitFailed.String(), "INIT_FAILED"}, {Left.String(), "LEFT"},
		{Code(9).String(), "Code(9)"},
	} {
		if k.got != k.want {
			t.Errorf("got %q, want %q", k.got, k.want)
		}
	}
}
