package wire

import (
	"bytes"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

var (
	sampleSpec = PoolSpec{Workers: 8, Arena: 1 << 30, Start: []string{"python3", "-m", "worker"}, Env: []string{"A=b", "C="}}
	sampleStat = Stats{Tasks: 1, Chunks: 2, Retries: 3, LostWorkers: 4, BytesIn: 5, BytesOut: 6, BusyNS: 7, Workers: 8}
)

func TestControlRoundTrip(t *testing.T) {
	b, err := Marshal(sampleSpec, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Unmarshal[PoolSpec](b, 0); err != nil || !reflect.DeepEqual(got, sampleSpec) {
		t.Errorf("got %+v, %v", got, err)
	}
	b, err = Marshal(sampleStat, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Unmarshal[Stats](b, 0); err != nil || got != sampleStat {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestControlNames holds the messages to the names that other languages use.
func TestControlNames(t *testing.T) {
	b, err := Marshal(sampleStat, 0)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]int
	if err := msgpack.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"tasks": 1, "chunks": 2, "retries": 3, "lost_workers": 4, "bytes_in": 5, "bytes_out": 6, "busy_ns": 7, "workers": 8}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("got %v", m)
	}
}

// TestControlOtherVersion: fields of a later version are ignored, missing ones are zero.
func TestControlOtherVersion(t *testing.T) {
	b, err := msgpack.Marshal(map[string]any{"workers": 3, "color": []any{1.5, map[string]any{"x": nil, "y": []byte{1}}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Unmarshal[PoolSpec](b, 0); err != nil || !reflect.DeepEqual(got, PoolSpec{Workers: 3}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestControlRefuses(t *testing.T) {
	good, err := Marshal(sampleSpec, 0)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		b    string
		lim  int
		want error
	}{
		{"nothing", "", 0, ErrShort},
		{"above the limit", string(good), len(good) - 1, ErrTooBig},
		{"no map", "\x93\x01\x02\x03", 0, ErrControl},
		{"bytes behind", string(good) + "\xc0", 0, ErrControl},
		{"unused type byte", "\x81\xa1a\xc1", 0, ErrControl},
		{"extension type", "\x81\xa1a\xd4\x01\x01", 0, ErrControl},
		{"wrong type of a field", "\x81\xa7workers\xa1x", 0, ErrControl},
		{"2^32-1 strings claimed", "\x81\xa5start\xdd\xff\xff\xff\xff", 0, ErrShort},
		{"2^32-1 pairs claimed", "\xdf\xff\xff\xff\xff", 0, ErrShort},
		{"2^32-1 bytes claimed", "\x81\xa5start\x91\xdb\xff\xff\xff\xff", 0, ErrShort},
		{"half a length", "\x81\xa5start\xdc\x00", 0, ErrShort},
		{"nested deep", "\x81\xa1a" + strings.Repeat("\x91", 1000) + "\xc0", 0, ErrControl},
	}
	for _, k := range tests {
		t.Run(k.name, func(t *testing.T) {
			if got, err := Unmarshal[PoolSpec]([]byte(k.b), k.lim); !errors.Is(err, k.want) || !reflect.DeepEqual(got, PoolSpec{}) {
				t.Errorf("got %+v, %v; want %v", got, err, k.want)
			}
		})
	}
	for n := range good {
		if _, err := Unmarshal[PoolSpec](good[:n], 0); !errors.Is(err, ErrShort) {
			t.Errorf("first %d bytes: %v", n, err)
		}
	}
	if _, err := Marshal(sampleSpec, 10); !errors.Is(err, ErrTooBig) {
		t.Errorf("marshal above the limit: %v", err)
	}
}

// TestControlMemory: the worst message per byte is an array of empty strings.
func TestControlMemory(t *testing.T) {
	const n = 60_000
	b := append([]byte("\x81\xa5start\xdc\xea\x60"), bytes.Repeat([]byte{0xa0}, n)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := Unmarshal[PoolSpec](b, 0)
	runtime.ReadMemStats(&after)
	if err != nil || len(got.Start) != n {
		t.Fatalf("%d strings, %v", len(got.Start), err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 30*n {
		t.Errorf("%d bytes of message took %d of memory", len(b), used)
	}
}

func FuzzControl(f *testing.F) {
	spec, err := Marshal(sampleSpec, 0)
	if err != nil {
		f.Fatal(err)
	}
	stat, err := Marshal(sampleStat, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(spec)
	f.Add(stat)
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzControl[PoolSpec](t, b)
		fuzzControl[Stats](t, b)
	})
}

// fuzzControl: what is accepted survives another round.
func fuzzControl[M Control](t *testing.T, b []byte) {
	m, err := Unmarshal[M](b, 1<<16)
	if err != nil {
		if !errors.Is(err, ErrShort) && !errors.Is(err, ErrControl) && !errors.Is(err, ErrTooBig) {
			t.Fatalf("unknown error %v", err)
		}
		return
	}
	again, err := Marshal(m, 0)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Unmarshal[M](again, 0)
	if err != nil {
		t.Fatal(err)
	}
	if twice, err := Marshal(back, 0); err != nil || !bytes.Equal(again, twice) {
		t.Fatalf("%+v became %+v, %v", m, back, err)
	}
}
