package dispatch

import (
	"testing"
	"time"
)

// learned returns a Scheduler that knows that tasks of function 1 take this long.
func learned(workers int, perTask time.Duration) *Scheduler {
	s := New(Config{Workers: workers})
	id := s.Begin(JobSpec{Tasks: 1, Func: 1})
	o, _ := s.Offer(id)
	s.Submit(o.Chunk, 1, 0, false)
	s.Done(o.Chunk, Outcome{Done: 1, Elapsed: int64(perTask)})
	s.End(id)
	return s
}

// submitAll posts all that the job offers and returns the offers.
func submitAll(s *Scheduler, id JobID, bytesPerTask int64) (all []Offer) {
	for o, ok := s.Offer(id); ok; o, ok = s.Offer(id) {
		s.Submit(o.Chunk, o.Count, bytesPerTask*int64(o.Count), false)
		all = append(all, o)
	}
	return all
}

func TestChunkSizes(t *testing.T) {
	const budget = int64(1200 * time.Microsecond)
	tests := []struct {
		name    string
		workers int
		known   time.Duration // 0: unknown
		spec    JobSpec
		counts  []int // of the first offers
		more    bool  // there are others behind
		block   int   // of the first offer
		budget  int64
	}{
		{"unknown time, few tasks: one chunk per worker", 2, 0, JobSpec{Tasks: 16}, []int{8, 8}, false, 1, budget},
		{"unknown time, uneven split", 4, 0, JobSpec{Tasks: 10}, []int{3, 3, 3, 1}, false, 1, budget},
		{"unknown time, fewer tasks than workers", 8, 0, JobSpec{Tasks: 3}, []int{1, 1, 1}, false, 1, 0},
		{"unknown time, more tasks: two chunks per worker", 2, 0, JobSpec{Tasks: 40}, []int{10, 10, 10, 10}, false, 1, budget},
		{"unknown time, many tasks: single ones until one is back", 2, 0, JobSpec{Tasks: 1000}, []int{1, 1, 1, 1}, false, 1, 0},
		{"unknown time and length: single ones", 2, 0, JobSpec{Tasks: Unknown}, []int{1, 1, 1, 1}, false, 1, 0},
		{"96us in all: one worker", 4, 6 * time.Microsecond, JobSpec{Tasks: 16}, []int{16}, false, 8, 400_000},
		{"just above: one chunk per worker", 4, 6250 * time.Nanosecond, JobSpec{Tasks: 16}, []int{4, 4, 4, 4}, false, 4, budget},
		{"small and known: one chunk per worker", 2, 50 * time.Microsecond, JobSpec{Tasks: 20}, []int{10, 10}, false, 1, budget},
		{"300us chunks, less towards the end", 2, 100 * time.Microsecond, JobSpec{Tasks: 20}, []int{3, 3, 3, 3, 2, 2}, false, 1, budget},
		{"long tasks go alone", 2, time.Second, JobSpec{Tasks: 5}, []int{1, 1, 1, 1, 1}, false, 1, 0},
		{"much work left: 2.4 ms chunks", 2, time.Microsecond, JobSpec{Tasks: 1e6}, []int{2400, 2400}, true, 300, 9_600_000},
		{"less work left: 300us chunks", 2, time.Microsecond, JobSpec{Tasks: 5e3}, []int{300, 300}, true, 50, budget},
		{"explicit", 2, 0, JobSpec{Tasks: 10, Chunk: 4}, []int{4, 4, 2}, false, 1, 0},
		{"explicit, known time", 2, time.Microsecond, JobSpec{Tasks: 32, Chunk: 16}, []int{16, 16}, false, 16, 0},
		{"explicit, unknown length", 2, 0, JobSpec{Tasks: Unknown, Chunk: 4}, []int{4, 4, 4, 4, 4, 4}, false, 1, 0},
		{"at most 3 tasks", 2, time.Microsecond, JobSpec{Tasks: 8, MaxTasks: 3}, []int{3, 3, 2}, false, 3, 400_000},
		{"at most 3 tasks beats explicit", 2, 0, JobSpec{Tasks: 8, Chunk: 5, MaxTasks: 3}, []int{3, 3, 2}, false, 1, 0},
		{"timed: a look at the clock after each task", 2, time.Microsecond, JobSpec{Tasks: 5e3, Timed: true}, []int{300}, true, 1, budget},
	}
	for _, k := range tests {
		t.Run(k.name, func(t *testing.T) {
			s := New(Config{Workers: k.workers})
			if k.known > 0 {
				s = learned(k.workers, k.known)
			}
			k.spec.Func = 1
			id := s.Begin(k.spec)
			first := int64(0)
			for i, want := range k.counts {
				o, ok := s.Offer(id)
				if !ok || o.Count != want || o.First != first {
					t.Fatalf("offer %d is %+v, %v; want %d tasks from %d", i, o, ok, want, first)
				}
				if i == 0 && (o.Block != k.block || o.Budget != k.budget) {
					t.Errorf("block %d and budget %d, want %d and %d", o.Block, o.Budget, k.block, k.budget)
				}
				s.Submit(o.Chunk, o.Count, 0, false)
				first += int64(want)
			}
			if o, ok := s.Offer(id); ok != k.more {
				t.Errorf("then %+v, %v", o, ok)
			}
		})
	}
}

// TestUnknownLengthGrows: chunks of a stream grow with what has come, up to the target.
func TestUnknownLengthGrows(t *testing.T) {
	s := learned(1, time.Microsecond)
	id := s.Begin(JobSpec{Tasks: Unknown, Func: 1})
	sent, last := 0, 0
	for i := 0; last < 300; i++ {
		o, ok := s.Offer(id)
		if !ok || o.Count < last || o.Count > max(1, sent/2) || i > 100 {
			t.Fatalf("offer %d is %+v, %v after %d tasks, %d in the chunk before", i, o, ok, sent, last)
		}
		s.Submit(o.Chunk, o.Count, 0, false)
		s.Done(o.Chunk, Outcome{Done: o.Count, Elapsed: int64(o.Count) * 1000})
		sent, last = sent+o.Count, o.Count
	}
	if last != 300 {
		t.Errorf("grew to %d tasks, want 300", last)
	}
}

func TestByteLimits(t *testing.T) {
	s := New(Config{Workers: 1})
	id := s.Begin(JobSpec{Tasks: 30, Func: 1})
	o, _ := s.Offer(id)
	s.Submit(o.Chunk, 2, 200<<10, false) // 100 KiB each: short, and the limit is known from now on
	o, ok := s.Offer(id)
	if !ok || o.Count != 2 {
		t.Errorf("%d tasks of 100 KiB, want 2 while the time is unknown", o.Count)
	}
	s.Submit(o.Chunk, 2, 200<<10, false)
	s.Done(o.Chunk, Outcome{Done: 2, Elapsed: 2000})
	if o, ok = s.Offer(id); !ok || o.Count != 11 {
		t.Errorf("%d tasks of 100 KiB, want the 11 that are left of the first offer", o.Count)
	}
	s.End(id)

	s = learned(1, time.Microsecond)
	id = s.Begin(JobSpec{Tasks: 1000, Func: 1})
	o, _ = s.Offer(id)
	s.Submit(o.Chunk, 1, 1<<20, false)
	if o, ok = s.Offer(id); !ok || o.Count != 4 {
		t.Errorf("%d tasks of 1 MiB, want 4", o.Count)
	}
	id = s.Begin(JobSpec{Tasks: 1000, Func: 1, Chunk: 20})
	s.Submit(firstOffer(s, id).Chunk, 1, 1<<20, false)
	firstOffer(s, id) // the rest
	if o, ok = s.Offer(id); !ok || o.Count != 20 {
		t.Errorf("%d tasks, want the explicit 20", o.Count)
	}
}

func firstOffer(s *Scheduler, id JobID) Offer {
	o, _ := s.Offer(id)
	return o
}

// TestShortcutWithdrawn: a job that was sent to one worker and took far longer than expected.
func TestShortcutWithdrawn(t *testing.T) {
	for _, k := range []struct {
		name   string
		took   time.Duration
		banned bool
	}{
		{"as expected", 10 * time.Microsecond, false},
		{"five times, but still short", 99 * time.Microsecond, false},
		{"far too long", 200 * time.Microsecond, true},
	} {
		t.Run(k.name, func(t *testing.T) {
			s := learned(2, 100*time.Nanosecond)
			run := func(took time.Duration) int {
				id := s.Begin(JobSpec{Tasks: 16, Func: 1})
				defer s.End(id)
				all := submitAll(s, id, 0)
				for _, o := range all {
					s.Done(o.Chunk, Outcome{Done: o.Count, Elapsed: int64(took) / int64(len(all))})
				}
				return len(all)
			}
			if n := run(k.took); n != 1 {
				t.Fatalf("%d chunks at first", n)
			}
			if !k.banned {
				return
			}
			quick := func(want, times int) {
				t.Helper()
				for i := range times {
					if n := run(time.Microsecond); n != want {
						t.Fatalf("%d chunks in job %d after, want %d", n, i, want)
					}
				}
			}
			for _, ban := range []int{1, 4, 16, 64, banMost, banMost} {
				quick(2, ban)
				quick(1, banForget-1) // not forgotten yet
				run(k.took)
			}
			quick(2, banMost)
			quick(1, banForget)
			run(k.took)
			quick(2, 1)
			quick(1, 1)
		})
	}
}

// TestOrderDoesNotBend: after a job whose last tasks were light, the next does not expect light ones first.
func TestOrderDoesNotBend(t *testing.T) {
	s := New(Config{Workers: 1})
	id := s.Begin(JobSpec{Tasks: 20, Chunk: 1, Func: 1})
	took := int64(10 * time.Millisecond)
	for o, ok := s.Offer(id); ok; o, ok = s.Offer(id) {
		s.Submit(o.Chunk, 1, 0, false)
		s.Done(o.Chunk, Outcome{Done: 1, Elapsed: took})
		took /= 2
	}
	s.End(id)
	mean := time.Duration(s.times.get(1).mean) // 10 ms * (1 + 1/2 + 1/4 + ...) / 20
	if mean < 990*time.Microsecond || mean > 1010*time.Microsecond {
		t.Errorf("remembered %v, want 1ms", mean)
	}
}

// TestWrongGuess: chunks that come back at the end of their budget are cut to the true size.
func TestWrongGuess(t *testing.T) {
	s := New(Config{Workers: 2})
	id := s.Begin(JobSpec{Tasks: 16, Func: 1})
	for _, o := range submitAll(s, id, 0) {
		s.Done(o.Chunk, Outcome{Done: 1, Elapsed: int64(time.Second)})
	}
	all := submitAll(s, id, 0)
	if len(all) != 6 { // the depth for two workers
		t.Errorf("%d offers in the second round", len(all))
	}
	want := int64(1)
	for _, o := range all {
		if o.Count != 1 || o.Fresh || o.First != want || o.Attempt != 0 {
			t.Errorf("%+v, want task %d", o, want)
		}
		want++
	}
}

func TestTimesAreNotRemembered(t *testing.T) {
	s := New(Config{Workers: 2})
	for range 2 {
		id := s.Begin(JobSpec{Tasks: 16})
		all := submitAll(s, id, 0)
		if len(all) != 2 {
			t.Errorf("%d chunks for a function without a key", len(all))
		}
		for _, o := range all {
			s.Done(o.Chunk, Outcome{Done: o.Count, Elapsed: 100})
		}
		s.End(id)
	}
	for key := range uint32(3 * timesMost) {
		s.End(s.Begin(JobSpec{Tasks: 1, Func: key + 1}))
		if n := len(s.times.byFunc); n > timesMost {
			t.Fatalf("%d functions remembered", n)
		}
	}
}

func TestDepth(t *testing.T) {
	for _, k := range []struct{ workers, depth, want int }{
		{0, 0, 3}, {1, 0, 3}, {2, 0, 6}, {16, 0, 48}, {100, 0, 132}, {100_000, 0, 100_032}, {16, 4, 4},
	} {
		s := New(Config{Workers: k.workers, Depth: k.depth})
		id := s.Begin(JobSpec{Tasks: 1 << 40, Chunk: 1})
		if n := len(submitAll(s, id, 0)); n != k.want || s.InFlight(id) != k.want || s.Depth(id) != k.want {
			t.Errorf("%d workers, depth %d: %d chunks in flight, want %d", k.workers, k.depth, n, k.want)
		}
	}
	s := New(Config{Workers: 1})
	s.SetWorkers(3)
	id := s.Begin(JobSpec{Tasks: 1 << 40, Chunk: 1})
	if n := len(submitAll(s, id, 0)); n != 9 {
		t.Errorf("%d chunks in flight after workers joined", n)
	}
}

// TestSoon: only a small map that is wholly on its way is worth waiting for awake.
func TestSoon(t *testing.T) {
	const within = 100 * time.Microsecond
	for _, k := range []struct {
		name  string
		tasks int64
		chunk int
		each  int64 // ns per task, as remembered; 0: not known
		send  int   // chunks
		want  bool
	}{
		{"one short chunk", 16, 0, 100, 1, true},
		{"one per worker", 16, 8, 10_000, 2, true},
		{"too long", 16, 8, 20_000, 2, false},
		{"not known", 16, 8, 0, 2, false},
		{"a chunk to come", 16, 8, 100, 1, false},
		{"a chunk queued behind another", 16, 4, 100, 4, false},
		{"length not known", Unknown, 1, 100, 1, false},
	} {
		s := New(Config{Workers: 2})
		if k.each > 0 {
			s.times.get(1).observe(k.each, 1)
		}
		id := s.Begin(JobSpec{Tasks: k.tasks, Func: 1, Chunk: k.chunk})
		if s.Soon(id, within) {
			t.Errorf("%s: soon before anything was sent", k.name)
		}
		for range k.send {
			o := firstOffer(s, id)
			s.Submit(o.Chunk, o.Count, 0, false)
		}
		if s.Soon(id, within) != k.want {
			t.Errorf("%s: want %v", k.name, k.want)
		}
		s.End(id)
		if s.Soon(id, within) {
			t.Errorf("%s: soon after the end", k.name)
		}
	}
}

// TestLazyWindow: intake stops when the consumer does not follow, and tasks that came back still go out.
func TestLazyWindow(t *testing.T) {
	for _, k := range []struct {
		name  string
		c     Config
		bytes int64
		want  int
	}{
		{"by chunks", Config{Workers: 2, WindowChunks: 5}, 1, 10},
		{"by bytes", Config{Workers: 2, WindowBytes: 1000, Depth: 1}, 100, 10},
	} {
		t.Run(k.name, func(t *testing.T) {
			s := New(k.c)
			id := s.Begin(JobSpec{Tasks: 1000, Chunk: 1, Lazy: true, Ordered: true})
			first := firstOffer(s, id)
			s.Submit(first.Chunk, 1, 0, false)
			if k.c.Depth == 1 {
				s.Done(first.Chunk, Outcome{Done: 1, Bytes: k.bytes})
			}
			n := 1
			for o, ok := s.Offer(id); ok; o, ok = s.Offer(id) {
				s.Submit(o.Chunk, 1, 0, false)
				s.Done(o.Chunk, Outcome{Done: 1, Bytes: k.bytes})
				n++
			}
			if n != k.want {
				t.Fatalf("%d chunks went out, want %d", n, k.want)
			}
			if k.c.Depth != 1 {
				s.Lost(first.Chunk, Loss{Running: -1})
				again := firstOffer(s, id)
				if again.First != 0 || again.Fresh {
					t.Fatalf("the lost chunk is not offered: %+v", again)
				}
				s.Submit(again.Chunk, 1, 0, false)
				s.Done(again.Chunk, Outcome{Done: 1, Bytes: k.bytes})
			}
			if _, ok := s.Deliver(id); !ok {
				t.Fatal("nothing to deliver")
			}
			if _, ok := s.Offer(id); !ok {
				t.Error("no offer after a delivery")
			}
		})
	}
}
