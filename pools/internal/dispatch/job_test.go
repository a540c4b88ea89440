package dispatch

import "testing"

func TestEmptyJobs(t *testing.T) {
	s := New(Config{Workers: 2})
	id := s.Begin(JobSpec{Tasks: 0})
	if _, ok := s.Offer(id); ok || !s.Finished(id) {
		t.Error("a job without tasks is not finished at once")
	}
	s.End(id)
	id = s.Begin(JobSpec{Tasks: Unknown})
	if s.Finished(id) {
		t.Error("a stream is finished before it was read")
	}
	if s.Submit(firstOffer(s, id).Chunk, 0, 0, true) || !s.Finished(id) {
		t.Error("an empty stream is not finished")
	}
}

func TestOrder(t *testing.T) {
	for _, ordered := range []bool{true, false} {
		s := New(Config{Workers: 2})
		id := s.Begin(JobSpec{Tasks: 4, Chunk: 1, Ordered: ordered})
		all := submitAll(s, id, 0)
		want := []int64{3, 1, 0, 2}
		for _, i := range want {
			s.Done(all[i].Chunk, Outcome{Done: 1})
		}
		for i, d := range deliverAll(s, id) {
			if ordered && d.First != int64(i) || !ordered && d.First != want[i] {
				t.Errorf("ordered %v: delivery %d is of task %d", ordered, i, d.First)
			}
		}
	}
}

// TestSourceEnds: a source of unknown length gives one offer at a time and may end in, before or after a chunk.
func TestSourceEnds(t *testing.T) {
	for _, k := range []struct {
		name  string
		given []int
		last  []bool
	}{
		{"in a chunk", []int{4, 2}, []bool{false, true}},
		{"with a chunk", []int{4, 4}, []bool{false, true}},
		{"after a chunk", []int{4, 4, 0}, []bool{false, false, true}},
		{"after a pause", []int{4, 2, 0, 2, 1}, []bool{false, false, false, false, true}},
	} {
		t.Run(k.name, func(t *testing.T) {
			s := New(Config{Workers: 2})
			id := s.Begin(JobSpec{Tasks: Unknown, Chunk: 4})
			total := 0
			for i, n := range k.given {
				o, ok := s.Offer(id)
				if !ok || o.First != int64(total) {
					t.Fatalf("offer %d is %+v, %v", i, o, ok)
				}
				if _, ok := s.Offer(id); ok {
					t.Fatal("two offers at a time")
				}
				if s.Submit(o.Chunk, n, 0, k.last[i]) {
					s.Done(o.Chunk, Outcome{Done: n})
				}
				total += n
			}
			if o, ok := s.Offer(id); ok {
				t.Fatalf("offer behind the end: %+v", o)
			}
			got := 0
			for _, d := range deliverAll(s, id) {
				got += d.Count
			}
			if got != total || !s.Finished(id) {
				t.Errorf("%d of %d delivered, finished %v", got, total, s.Finished(id))
			}
		})
	}
}

// TestLateEnd: the end is told with a chunk that is not the last one.
func TestLateEnd(t *testing.T) {
	s := New(Config{Workers: 2})
	id := s.Begin(JobSpec{Tasks: 100, Chunk: 10})
	a, b, c := firstOffer(s, id), firstOffer(s, id), firstOffer(s, id)
	s.Submit(b.Chunk, 10, 0, false)
	s.Submit(a.Chunk, 4, 0, true) // so there are 20 tasks, of which 4 to 9 were not encoded yet
	if s.Submit(c.Chunk, 10, 0, false) {
		t.Error("a chunk behind the end was accepted")
	}
	o := firstOffer(s, id)
	if o.First != 4 || o.Count != 6 || o.Fresh {
		t.Errorf("then %+v", o)
	}
	if o, ok := s.Offer(id); ok {
		t.Errorf("behind the end: %+v", o)
	}
}

func TestCancel(t *testing.T) {
	s := New(Config{Workers: 2})
	id := s.Begin(JobSpec{Tasks: 60, Chunk: 10, Retries: 1})
	all := submitAll(s, id, 0)[:4]
	s.Done(all[0].Chunk, Outcome{Done: 10})
	d, _ := s.Deliver(id)
	s.Done(all[1].Chunk, Outcome{Done: 5})
	held := firstOffer(s, id)
	seen := map[ChunkID]bool{}
	s.Outstanding(id, func(c ChunkID, posted bool) { seen[c] = posted })
	if posted, there := seen[all[1].Chunk]; !there || posted {
		t.Error("the answered chunk is not listed as such")
	}
	if len(seen) != 5 || !seen[all[2].Chunk] || !seen[all[3].Chunk] {
		t.Errorf("outstanding %v", seen)
	}
	s.Cancel(id)
	s.Cancel(id)
	if _, ok := s.Offer(id); ok {
		t.Error("offer after cancel")
	}
	if _, ok := s.Deliver(id); ok {
		t.Error("delivery after cancel")
	}
	if !s.Finished(id) || s.InFlight(id) != 4 {
		t.Errorf("finished %v, %d in flight", s.Finished(id), s.InFlight(id))
	}
	if keep, ok := s.Done(all[2].Chunk, Outcome{Done: 10}); keep || !ok {
		t.Errorf("answer after cancel: keep %v, ok %v", keep, ok)
	}
	s.End(id)
	if keep, ok := s.Lost(all[3].Chunk, Loss{Safe: 3}); keep || !ok {
		t.Errorf("loss after end: keep %v, ok %v", keep, ok)
	}
	for range 2 {
		if s.Submit(held.Chunk, held.Count, 0, false) {
			t.Error("submit after end accepted")
		}
	}
	if !s.Release(d.Chunk) || s.Release(d.Chunk) {
		t.Error("a delivered chunk is released once, after the end of its job, too")
	}
	if n := s.Counters(); n.InFlight != 2 || n.Stale != 0 {
		t.Errorf("counted %+v", n)
	}
}

// TestUnknownIDs: ids that name nothing are refused by every call.
func TestUnknownIDs(t *testing.T) {
	s := New(Config{Workers: 2})
	for _, id := range []JobID{0, 1, 1 << 60} {
		s.Outstanding(id, func(ChunkID, bool) { t.Error("a chunk of no job") })
		s.Cancel(id)
		s.End(id)
		if _, ok := s.Offer(id); ok || !s.Finished(id) || s.InFlight(id) != 0 || s.Depth(id) != 0 {
			t.Errorf("job %d exists", id)
		}
	}
	if s.Begin(JobSpec{}) != 1 || s.Begin(JobSpec{}) != 2 {
		t.Error("job ids do not count from 1")
	}
}

// TestGenerationWraps: the id of a much used slab entry never becomes 0.
func TestGenerationWraps(t *testing.T) {
	s := New(Config{Workers: 1})
	id := s.Begin(JobSpec{Tasks: 10, Chunk: 1})
	o := firstOffer(s, id)
	s.chunks.at(int32(o.Chunk.Index())).gen = 1<<32 - 1
	s.Return(makeChunkID(0, 1<<32-1))
	if o = firstOffer(s, id); o.Chunk.Generation() != 1 {
		t.Errorf("generation %d after the last", o.Chunk.Generation())
	}
}

func TestMisusePanics(t *testing.T) {
	s := New(Config{Workers: 1})
	id := s.Begin(JobSpec{Tasks: 10, Chunk: 5})
	o := firstOffer(s, id)
	for name, f := range map[string]func(){
		"tasks":    func() { s.Begin(JobSpec{Tasks: -2}) },
		"chunk":    func() { s.Begin(JobSpec{Chunk: -1}) },
		"retries":  func() { s.Begin(JobSpec{Retries: -1}) },
		"at most":  func() { s.Begin(JobSpec{MaxTasks: -1}) },
		"too many": func() { s.Submit(o.Chunk, 6, 0, false) },
		"negative": func() { s.Submit(o.Chunk, -1, 0, false) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
	if !s.Submit(o.Chunk, 5, 0, false) {
		t.Error("the offer did not survive a refused submit")
	}
}

func TestShrink(t *testing.T) {
	s, id, c := fly(JobSpec{}, 5)
	if s.Shrink(c, 0) || s.Shrink(c, 5) || s.Shrink(c+1, 2) || !s.Shrink(c, 2) {
		t.Fatal("shrink")
	}
	o := firstOffer(s, id)
	if o.First != 2 || o.Count != 3 || o.Attempt != 0 {
		t.Errorf("offered again as %+v", o)
	}
	if keep, ok := s.Done(c, Outcome{Done: 2}); !keep || !ok {
		t.Error("the rest is not delivered")
	}
	if d := deliverAll(s, id); len(d) != 1 || d[0].Count != 2 {
		t.Errorf("delivered %+v", d)
	}
}

// Ids of a scheduler that follows another are none that the first one gave out.
func TestMarks(t *testing.T) {
	first := New(Config{Workers: 2})
	seen := make(map[ChunkID]bool)
	for range 3 {
		id := first.Begin(JobSpec{Tasks: 4, Chunk: 1})
		for range 4 {
			o, ok := first.Offer(id)
			if !ok {
				break
			}
			seen[o.Chunk] = true
			first.Submit(o.Chunk, 1, 1, false)
			first.Done(o.Chunk, Outcome{Done: 1})
		}
		first.End(id)
	}
	job, generation := first.Marks()
	second := New(Config{Workers: 2, FirstJob: job, FirstGeneration: generation})
	id := second.Begin(JobSpec{Tasks: 4, Chunk: 1})
	if id <= job {
		t.Fatalf("job %d after %d", id, job)
	}
	for range 4 {
		if o, ok := second.Offer(id); ok && seen[o.Chunk] {
			t.Fatalf("chunk id %#x again", o.Chunk)
		}
	}
}
