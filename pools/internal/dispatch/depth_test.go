package dispatch

import (
	"testing"
	"time"
)

func TestDepthOfShortChunks(t *testing.T) {
	for _, k := range []struct {
		name  string
		known time.Duration
		chunk int
		want  int
	}{
		{"adaptive chunks are long enough", time.Microsecond, 0, 6},
		{"unknown time", 0, 1, 6},
		{"one tiny task per chunk", 500 * time.Nanosecond, 1, 128},
		{"chunks of 10us", 10 * time.Microsecond, 1, 50},
		{"chunks of 100us", 100 * time.Microsecond, 1, 6},
	} {
		t.Run(k.name, func(t *testing.T) {
			s := New(Config{Workers: 2})
			if k.known > 0 {
				s = learned(2, k.known)
			}
			id := s.Begin(JobSpec{Tasks: 1000, Func: 1, Chunk: k.chunk})
			if got := s.Depth(id); got != k.want {
				t.Errorf("depth %d, want %d", got, k.want)
			}
			n := 0
			for o, ok := s.Offer(id); ok && k.known > 0; o, ok = s.Offer(id) {
				s.Submit(o.Chunk, o.Count, 0, false)
				n++
			}
			if k.known > 0 && k.chunk > 0 && n != k.want {
				t.Errorf("%d chunks in flight, want %d", n, k.want)
			}
		})
	}
	s := learned(2, 500*time.Nanosecond)
	for bound, want := range map[int]int{1: 1, 3: 3, 1000: 128} { // a bound of the user's lowers the depth and never raises it
		if got := s.Depth(s.Begin(JobSpec{Tasks: 1000, Func: 1, Chunk: 1, Depth: bound})); got != want {
			t.Errorf("depth %d under a bound of %d, want %d", got, bound, want)
		}
	}
	if New(Config{Workers: 2}).Depth(99) != 0 {
		t.Error("a job that does not exist has a depth")
	}
}
