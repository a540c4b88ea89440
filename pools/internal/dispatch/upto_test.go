package dispatch

import "testing"

// A job whose source is drawn by somebody else: offers never go beyond what there is, and the end is told when it is known.

func TestOfferUpTo(t *testing.T) {
	s := New(Config{Workers: 2})
	id := s.Begin(JobSpec{Tasks: Unknown, Chunk: 10})
	if _, ok := s.OfferUpTo(id, 0); ok {
		t.Fatal("an offer of nothing")
	}
	o, ok := s.OfferUpTo(id, 3)
	if !ok || o.First != 0 || o.Count != 3 || !o.Fresh {
		t.Fatalf("%+v", o)
	}
	s.Submit(o.Chunk, 3, 0, false)
	next, ok := s.OfferUpTo(id, 50)
	if !ok || next.First != 3 || next.Count != 10 || !next.Fresh {
		t.Fatalf("%+v", next)
	}
	s.Submit(next.Chunk, 10, 0, false)
	s.Done(o.Chunk, Outcome{Done: 1}) // two come back
	if n := s.Left(id); n != 2 {
		t.Errorf("%d left", n)
	}
	back, ok := s.OfferUpTo(id, 0) // what came back is not limited
	if !ok || back.First != 1 || back.Count != 2 || back.Fresh {
		t.Fatalf("%+v", back)
	}
	s.Submit(back.Chunk, 2, 0, false)
	s.Done(back.Chunk, Outcome{Done: 2})
	s.Done(next.Chunk, Outcome{Done: 10})
	for d, ok := s.Deliver(id); ok; d, ok = s.Deliver(id) {
		s.Release(d.Chunk)
	}
	if s.Finished(id) {
		t.Error("finished before the end is known")
	}
	if s.Drain(id, 12) {
		t.Error("fewer than were submitted")
	}
	if !s.Drain(id, 13) || !s.Finished(id) {
		t.Error("not finished at the end")
	}
	if s.Drain(id, 14) {
		t.Error("drained twice")
	}
}

func TestDrainBeforeTheRest(t *testing.T) {
	s := New(Config{Workers: 2})
	id := s.Begin(JobSpec{Tasks: Unknown, Chunk: 4, Ordered: true})
	o, _ := s.OfferUpTo(id, 4)
	s.Submit(o.Chunk, 4, 0, false)
	if !s.Drain(id, 9) || s.Left(id) != 5 {
		t.Fatalf("%d left", s.Left(id))
	}
	s.Done(o.Chunk, Outcome{Done: 4})
	total := 0
	for !s.Finished(id) {
		if o, ok := s.Offer(id); ok {
			s.Submit(o.Chunk, o.Count, 0, false)
			s.Done(o.Chunk, Outcome{Done: o.Count})
		}
		d, ok := s.Deliver(id)
		if !ok || d.First != int64(total) {
			t.Fatalf("%+v after %d", d, total)
		}
		total += d.Count
		s.Release(d.Chunk)
	}
	if total != 9 {
		t.Errorf("%d tasks", total)
	}
	s.Cancel(id)
	if s.Left(id) != 0 || s.Drain(id, 20) {
		t.Error("a cancelled job has nothing left")
	}
}

func TestDrainOfReserved(t *testing.T) {
	s := New(Config{Workers: 2})
	id := s.Begin(JobSpec{Tasks: Unknown, Chunk: 4})
	o, _ := s.Offer(id)
	if !s.Drain(id, 0) || !s.Finished(id) {
		t.Error("not finished")
	}
	if s.Submit(o.Chunk, 4, 0, false) {
		t.Error("tasks behind the end were taken")
	}
}
