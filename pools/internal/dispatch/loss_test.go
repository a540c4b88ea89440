package dispatch

import (
	"reflect"
	"testing"
)

// fly puts one chunk of n tasks in the air.
func fly(spec JobSpec, n int) (*Scheduler, JobID, ChunkID) {
	s := New(Config{Workers: 2})
	spec.Tasks, spec.Chunk = int64(n), n
	id := s.Begin(spec)
	o := firstOffer(s, id)
	s.Submit(o.Chunk, n, 0, false)
	return s, id, o.Chunk
}

// again is what matters of an offer of tasks that came back.
type again struct {
	First   int64
	Count   int
	Attempt int
}

func offered(s *Scheduler, id JobID) (all []again) {
	for o, ok := s.Offer(id); ok; o, ok = s.Offer(id) {
		all = append(all, again{o.First, o.Count, o.Attempt})
	}
	return all
}

func deliverAll(s *Scheduler, id JobID) (all []Delivery) {
	for d, ok := s.Deliver(id); ok; d, ok = s.Deliver(id) {
		all = append(all, d)
	}
	return all
}

func TestLoss(t *testing.T) {
	tests := []struct {
		name    string
		retries int
		loss    Loss
		keep    bool
		again   []again
		pieces  []Delivery // without Job, and Chunk only as 0 or 1
	}{
		{"never started", 0, Loss{Running: -1}, false, []again{{0, 5, 0}}, nil},
		{"known killer, nothing safe", 0, Loss{Running: 0, Block: 1, Tag: 9}, false, []again{{1, 4, 0}},
			[]Delivery{{First: 0, Lost: true, Tag: 9, Attempts: 1}}},
		{"known killer behind safe results", 0, Loss{Safe: 2, Running: 2, Block: 1, Tag: 9}, true, []again{{3, 2, 0}},
			[]Delivery{{Chunk: 1, Count: 2, Lost: true, Tag: 9, Attempts: 1}}},
		{"results between not safe", 0, Loss{Safe: 1, Running: 3, Block: 1, Tag: 9}, true, []again{{1, 2, 0}, {4, 1, 0}},
			[]Delivery{{Chunk: 1, Count: 1, Attempts: 1}, {First: 3, Lost: true, Tag: 9, Attempts: 1}}},
		{"known killer with retries", 1, Loss{Safe: 2, Running: 2, Block: 1}, true, []again{{2, 1, 1}, {3, 2, 0}},
			[]Delivery{{Chunk: 1, Count: 2, Attempts: 1}}},
		{"block: unknown which", 0, Loss{Safe: 1, Running: 1, Block: 3}, true,
			[]again{{1, 1, 0}, {2, 1, 0}, {3, 1, 0}, {4, 1, 0}}, []Delivery{{Chunk: 1, Count: 1, Attempts: 1}}},
		{"last block is short", 0, Loss{Running: 4, Block: 3, Tag: 9}, false, []again{{0, 4, 0}},
			[]Delivery{{First: 4, Lost: true, Tag: 9, Attempts: 1}}},
		{"part of the block is safe", 0, Loss{Safe: 3, Running: 2, Block: 2, Tag: 9}, true, []again{{4, 1, 0}},
			[]Delivery{{Chunk: 1, Count: 3, Lost: true, Tag: 9, Attempts: 1}}},
		{"all ran, none safe", 0, Loss{Running: 5}, false, []again{{0, 5, 0}}, nil},
		{"all safe", 0, Loss{Safe: 5, Running: 4, Block: 1}, true, nil, []Delivery{{Chunk: 1, Count: 5, Attempts: 1}}},
		{"figures beyond the chunk", 0, Loss{Safe: 1 << 40, Running: 1 << 40, Block: 1 << 40}, true, nil,
			[]Delivery{{Chunk: 1, Count: 5, Attempts: 1}}},
		{"negative figures", 0, Loss{Safe: -3, Running: -7, Block: -1}, false, []again{{0, 5, 0}}, nil},
	}
	for _, k := range tests {
		t.Run(k.name, func(t *testing.T) {
			s, id, c := fly(JobSpec{Retries: k.retries}, 5)
			keep, ok := s.Lost(c, k.loss)
			if keep != k.keep || !ok {
				t.Errorf("keep %v, ok %v", keep, ok)
			}
			if got := offered(s, id); !reflect.DeepEqual(got, k.again) {
				t.Errorf("offered again %v, want %v", got, k.again)
			}
			got := deliverAll(s, id)
			for i := range got {
				got[i].Job = 0
				if got[i].Chunk != 0 {
					got[i].Chunk = 1
				}
			}
			for _, d := range k.pieces { // unordered: pieces come as they were made
				found := false
				for _, g := range got {
					found = found || g == d
				}
				if !found || len(got) != len(k.pieces) {
					t.Errorf("delivered %+v, want %+v", got, k.pieces)
					break
				}
			}
			if keep, ok := s.Lost(c, k.loss); keep || ok {
				t.Error("the same loss counted twice")
			}
		})
	}
}

// TestKillerIsFound: a block of suspects, one of which kills again and is charged then.
func TestKillerIsFound(t *testing.T) {
	s, id, c := fly(JobSpec{Ordered: true}, 4)
	s.Lost(c, Loss{Running: 0, Block: 4})
	for i := range 4 {
		o := firstOffer(s, id)
		if o.First != int64(i) || o.Count != 1 || o.Block != 1 || o.Attempt != 0 {
			t.Fatalf("suspect %d is offered as %+v", i, o)
		}
		s.Submit(o.Chunk, 1, 0, false)
		if i == 2 {
			s.Lost(o.Chunk, Loss{Running: 0, Block: 1, Tag: 5})
		} else {
			s.Done(o.Chunk, Outcome{Done: 1})
		}
	}
	for i, d := range deliverAll(s, id) {
		if d.First != int64(i) || d.Lost != (i == 2) || (d.Lost && d.Tag != 5) {
			t.Errorf("delivery %d is %+v", i, d)
		}
	}
	if !s.Finished(id) {
		t.Error("not finished")
	}
}

// TestNobodyToBlame: a chunk that kills its readers is not offered for ever.
func TestNobodyToBlame(t *testing.T) {
	s, id, c := fly(JobSpec{Ordered: true}, 2)
	s.Lost(c, Loss{Running: -1})
	deaths := 1
	for o, ok := s.Offer(id); ok; o, ok = s.Offer(id) {
		s.Submit(o.Chunk, o.Count, 0, false)
		if o.First == 0 {
			s.Lost(o.Chunk, Loss{Running: -1, Tag: 3})
			deaths++
		} else {
			s.Done(o.Chunk, Outcome{Done: o.Count})
		}
		if deaths > 10 {
			t.Fatal("offered for ever")
		}
	}
	got := deliverAll(s, id)
	if len(got) != 2 || !got[0].Lost || got[0].Tag != 3 || got[1].Count != 1 || deaths != strikesCharge || !s.Finished(id) {
		t.Errorf("delivered %+v after %d deaths", got, deaths)
	}
}

func TestRetries(t *testing.T) {
	for retries := range 4 {
		s, id, c := fly(JobSpec{Retries: retries}, 1)
		for try := 0; ; try++ {
			keep, ok := s.Done(c, Outcome{Failed: true})
			if !ok || keep != (try == retries) {
				t.Fatalf("%d retries, try %d: keep %v, ok %v", retries, try, keep, ok)
			}
			if keep {
				break
			}
			o := firstOffer(s, id)
			if o.Attempt != try+1 || o.Count != 1 || o.Block != 1 {
				t.Fatalf("offered again as %+v", o)
			}
			s.Submit(o.Chunk, 1, 0, false)
			c = o.Chunk
		}
		got := deliverAll(s, id)
		if len(got) != 1 || !got[0].Failed || got[0].Attempts != retries+1 || got[0].Count != 0 {
			t.Errorf("%d retries: delivered %+v", retries, got)
		}
		if n := s.Counters(); n.Retries != uint64(retries) || n.Failed != 1 {
			t.Errorf("%d retries: counted %+v", retries, n)
		}
	}
}

func TestPartialAnswer(t *testing.T) {
	for _, k := range []struct {
		name    string
		retries int
		o       Outcome
		keep    bool
		again   []again
		pieces  []Delivery
	}{
		{"budget used up", 0, Outcome{Done: 2}, true, []again{{2, 3, 0}}, []Delivery{{Count: 2, Attempts: 1}}},
		{"nothing done", 0, Outcome{}, false, []again{{0, 5, 0}}, nil},
		{"failed", 0, Outcome{Done: 2, Failed: true}, true, []again{{3, 2, 0}}, []Delivery{{Count: 2, Failed: true, Attempts: 1}}},
		{"failed with retries", 1, Outcome{Done: 2, Failed: true}, true, []again{{2, 1, 1}, {3, 2, 0}},
			[]Delivery{{Count: 2, Attempts: 1}}},
		{"first failed with retries", 1, Outcome{Failed: true}, false, []again{{0, 1, 1}, {1, 4, 0}}, nil},
		{"more than all", 0, Outcome{Done: 99, Failed: true}, true, nil, []Delivery{{Count: 5, Attempts: 1}}},
		{"less than none", 0, Outcome{Done: -1}, false, []again{{0, 5, 0}}, nil},
	} {
		t.Run(k.name, func(t *testing.T) {
			s, id, c := fly(JobSpec{Retries: k.retries}, 5)
			if keep, ok := s.Done(c, k.o); keep != k.keep || !ok {
				t.Errorf("keep %v, ok %v", keep, ok)
			}
			if got := offered(s, id); !reflect.DeepEqual(got, k.again) {
				t.Errorf("offered again %v, want %v", got, k.again)
			}
			got := deliverAll(s, id)
			for i := range got {
				got[i].Job, got[i].Chunk = 0, 0
			}
			if !reflect.DeepEqual(got, k.pieces) {
				t.Errorf("delivered %+v, want %+v", got, k.pieces)
			}
		})
	}
}
