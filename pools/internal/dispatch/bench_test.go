package dispatch

import (
	"fmt"
	"testing"
)

// BenchmarkChunk is the cost of one chunk from Offer to Release, with as many in flight as the workers take and answers
// in the order of posting.
func BenchmarkChunk(b *testing.B) {
	for _, ordered := range []bool{false, true} {
		for _, workers := range []int{1, 10, 1000, 100_000} {
			b.Run(fmt.Sprintf("ordered=%v/workers=%d", ordered, workers), func(b *testing.B) {
				benchmarkChunk(b, JobSpec{Tasks: 1 << 60, Chunk: 10, Ordered: ordered}, workers)
			})
		}
	}
	b.Run("adaptive/workers=10", func(b *testing.B) { benchmarkChunk(b, JobSpec{Tasks: 1 << 60, Func: 1}, 10) })
}

func benchmarkChunk(b *testing.B, spec JobSpec, workers int) {
	s := New(Config{Workers: workers})
	id := s.Begin(spec)
	air := make([]Offer, 0, 4*workers)
	for {
		o, ok := s.Offer(id)
		if !ok {
			break
		}
		s.Submit(o.Chunk, o.Count, 100, false)
		air = append(air, o)
	}
	b.ReportAllocs()
	at := 0
	for b.Loop() {
		s.Done(air[at].Chunk, Outcome{Done: air[at].Count, Elapsed: 300_000, Bytes: 100})
		if d, ok := s.Deliver(id); ok {
			s.Release(d.Chunk)
		}
		if o, ok := s.Offer(id); ok {
			s.Submit(o.Chunk, o.Count, 100, false)
			air[at] = o
		}
		if at++; at == len(air) {
			at = 0
		}
	}
}

// BenchmarkPartial is the same when every chunk comes back half done, so that half of all offers come from the queue.
func BenchmarkPartial(b *testing.B) {
	for _, workers := range []int{10, 100_000} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			s := New(Config{Workers: workers})
			id := s.Begin(JobSpec{Tasks: 1 << 60, Chunk: 10})
			var air []Offer
			for o, ok := s.Offer(id); ok; o, ok = s.Offer(id) {
				s.Submit(o.Chunk, o.Count, 100, false)
				air = append(air, o)
			}
			b.ReportAllocs()
			at := 0
			for b.Loop() {
				s.Done(air[at].Chunk, Outcome{Done: (air[at].Count + 1) / 2, Elapsed: 300_000, Bytes: 100})
				d, _ := s.Deliver(id)
				s.Release(d.Chunk)
				o, _ := s.Offer(id)
				s.Submit(o.Chunk, o.Count, 100, false)
				air[at] = o
				if at++; at == len(air) {
					at = 0
				}
			}
		})
	}
}

// BenchmarkSmallMap is a whole job of 16 tasks in one chunk, as an emcee step makes it, and in two.
func BenchmarkSmallMap(b *testing.B) {
	for chunks, elapsed := range map[int]int64{1: 1000, 2: 800_000} {
		b.Run(fmt.Sprintf("chunks=%d", chunks), func(b *testing.B) {
			s := New(Config{Workers: 2})
			smallMap(s, elapsed)
			if n := smallMap(s, elapsed); n != chunks {
				b.Fatalf("%d chunks, want %d", n, chunks)
			}
			b.ReportAllocs()
			for b.Loop() {
				smallMap(s, elapsed)
			}
		})
	}
}

// smallMap runs a job of 16 tasks that take elapsed ns together and returns the number of chunks.
func smallMap(s *Scheduler, elapsed int64) (chunks int) {
	var air [16]Offer
	id := s.Begin(JobSpec{Tasks: 16, Func: 7})
	for o, ok := s.Offer(id); ok; o, ok = s.Offer(id) {
		s.Submit(o.Chunk, o.Count, 128, false)
		air[chunks] = o
		chunks++
	}
	for _, o := range air[:chunks] {
		s.Done(o.Chunk, Outcome{Done: o.Count, Elapsed: elapsed / 16 * int64(o.Count), Bytes: 128})
	}
	for d, ok := s.Deliver(id); ok; d, ok = s.Deliver(id) {
		s.Release(d.Chunk)
	}
	if !s.Finished(id) {
		panic("not finished")
	}
	s.End(id)
	return chunks
}

// TestNoAllocations guards what the benchmarks only report.
func TestNoAllocations(t *testing.T) {
	s := New(Config{Workers: 2})
	for range 10 {
		smallMap(s, 800_000)
	}
	if n := testing.AllocsPerRun(1000, func() { smallMap(s, 800_000) }); n != 0 {
		t.Errorf("%v allocations per small map", n)
	}
}
