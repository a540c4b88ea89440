package dispatch

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// The simulation runs a job on P workers under a virtual clock: workers take chunks from one queue, spend chunkCost on
// each beside the tasks, look at the clock between blocks, and answer. The owner costs nothing.

const (
	chunkCost = int64(10 * time.Microsecond) // taking a chunk, unpacking it, and packing results, measured on one machine
	us        = int64(time.Microsecond)
)

type simEvent struct {
	at int64
	id ChunkID // answered; 0: a worker became free
	o  Outcome
}

type simEvents []simEvent

func (e simEvents) Len() int           { return len(e) }
func (e simEvents) Less(i, j int) bool { return e[i].at < e[j].at }
func (e simEvents) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *simEvents) Push(x any)        { *e = append(*e, x.(simEvent)) }
func (e *simEvents) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

// reading is how long a worker needs to rebuild the tasks of a chunk, in ns.
type reading struct{ fixed, perTask int64 }

// simulate returns the time until the last result and the number of chunks.
func simulate(s *Scheduler, workers int, spec JobSpec, tasks []int64) (makespan int64, chunks int) {
	return simulateReading(s, workers, spec, tasks, reading{})
}

func simulateReading(s *Scheduler, workers int, spec JobSpec, tasks []int64, read reading) (makespan int64, chunks int) {
	id := s.Begin(spec)
	defer s.End(id)
	var events simEvents
	var queue []Offer
	now, idle := int64(0), workers
	for !s.Finished(id) {
		for {
			o, ok := s.Offer(id)
			if !ok {
				break
			}
			n := min(o.Count, len(tasks)-int(o.First))
			if s.Submit(o.Chunk, n, int64(8*n), n < o.Count) {
				o.Count = n
				queue = append(queue, o)
				chunks++
			}
		}
		for ; idle > 0 && len(queue) > 0; idle-- {
			o := queue[0]
			queue = queue[1:]
			out := simWorker(o, tasks, read)
			heap.Push(&events, simEvent{now + chunkCost + out.Elapsed, o.Chunk, out})
		}
		if len(events) == 0 {
			continue
		}
		e := heap.Pop(&events).(simEvent)
		now = e.at
		idle++
		s.Done(e.id, e.o)
		for d, ok := s.Deliver(id); ok; d, ok = s.Deliver(id) {
			s.Release(d.Chunk)
		}
	}
	return now, chunks
}

func simWorker(o Offer, tasks []int64, read reading) Outcome {
	out := Outcome{Reading: read.fixed + read.perTask*int64(o.Count)}
	out.Elapsed = out.Reading
	for out.Done < o.Count {
		for range min(o.Block, o.Count-out.Done) {
			out.Elapsed += tasks[int(o.First)+out.Done]
			out.Done++
		}
		if o.Budget > 0 && out.Elapsed >= o.Budget {
			break
		}
	}
	return out
}

// ideal is what no scheduler can beat; greedy what one gets that hands out single tasks in order at no cost, so that
// what lies between the two is the order's fault, not the scheduler's.
func ideal(tasks []int64, workers int) float64 {
	sum := int64(0)
	for _, t := range tasks {
		sum += t
	}
	return max(float64(sum)/float64(workers), float64(slices.Max(tasks)))
}

func greedy(tasks []int64, workers int) float64 {
	free := make([]int64, workers)
	for _, t := range tasks {
		i := 0
		for k := range free {
			if free[k] < free[i] {
				i = k
			}
		}
		free[i] += t
	}
	return float64(slices.Max(free))
}

func same(n int, t int64) []int64 { return slices.Repeat([]int64{t}, n) }

// pareto returns n task times from 1 ms up with a heavy tail: the longest is some hundred times the shortest.
func pareto(n int) []int64 {
	r := rand.New(rand.NewPCG(1, 2))
	tasks := make([]int64, n)
	for i := range tasks {
		tasks[i] = min(int64(float64(1000*us)*math.Pow(1-r.Float64(), -1/1.3)), 200_000*us)
	}
	return tasks
}

func sorted(tasks []int64, descending bool) []int64 {
	slices.Sort(tasks)
	if descending {
		slices.Reverse(tasks)
	}
	return tasks
}

// bimodal has many tasks of 50us and now and then one of 20 ms.
func bimodal(n int) []int64 {
	r := rand.New(rand.NewPCG(3, 4))
	tasks := same(n, 50*us)
	for i := range tasks {
		if r.IntN(50) == 0 {
			tasks[i] = 20_000 * us
		}
	}
	return tasks
}

// TestMakespan bounds the makespan relative to the ideal, for the first job of a function and for the next, whose task
// time is known. The bounds lie just above what the policy reaches; a change that breaks one has made it worse.
func TestMakespan(t *testing.T) {
	tests := []struct {
		name          string
		workers       int
		tasks         []int64
		first, second float64
	}{
		{"1e6 tiny", 16, same(1_000_000, us), 1.05, 1.05},
		{"pareto shuffled", 16, pareto(1000), 1.31, 1.31},
		{"heavy first", 16, sorted(pareto(1000), true), 1.02, 1.02},
		{"heavy last", 16, sorted(pareto(1000), false), 1.65, 1.65},
		{"bimodal", 16, bimodal(2000), 1.25, 1.25},
		{"1e5 x 20us", 16, same(100_000, 20*us), 1.04, 1.04},
		{"16 x 200us, 2 workers", 2, same(16, 200*us), 1.04, 1.06},
		{"100 x 10ms", 16, same(100, 10_000*us), 1.13, 1.13},
		{"17 x 10ms", 16, same(17, 10_000*us), 1.9, 1.9},
		{"1000 x 100us", 16, same(1000, 100*us), 1.07, 1.07},
		{"64 x 50us", 16, same(64, 50*us), 1.06, 1.06},
		{"1000 x 1us", 16, same(1000, us), 1.6, 1.2},
	}
	for _, k := range tests {
		t.Run(k.name, func(t *testing.T) {
			s := New(Config{Workers: k.workers})
			floor := ideal(k.tasks, k.workers)
			spec := JobSpec{Tasks: int64(len(k.tasks)), Func: 1}
			first, chunks := simulate(s, k.workers, spec, k.tasks)
			second, chunks2 := simulate(s, k.workers, spec, k.tasks)
			spec.Tasks, spec.Func = Unknown, 0
			stream, chunks3 := simulate(s, k.workers, spec, k.tasks)
			t.Logf("ideal %.3f ms, greedy %.3f; first %.3f in %d chunks, second %.3f in %d, unknown length %.3f in %d", floor/1e6,
				greedy(k.tasks, k.workers)/floor, float64(first)/floor, chunks, float64(second)/floor, chunks2, float64(stream)/floor, chunks3)
			if r := float64(first) / floor; r > k.first {
				t.Errorf("first job takes %.3f times the ideal, at most %.3f", r, k.first)
			}
			if r := float64(second) / floor; r > k.second {
				t.Errorf("second job takes %.3f times the ideal, at most %.3f", r, k.second)
			}
		})
	}
}

// TestMakespanSmall bounds whole small jobs in time: here the hand-overs are all there is.
func TestMakespanSmall(t *testing.T) {
	s := New(Config{Workers: 2})
	spec := JobSpec{Tasks: 16, Func: 1}
	for i, most := range []int64{20 * us, 26 * us, 26 * us} {
		span, chunks := simulate(s, 2, spec, same(16, us))
		t.Logf("map %d: %d us in %d chunks", i, span/us, chunks)
		if span > most {
			t.Errorf("map %d of 16 x 1us takes %d us, at most %d", i, span/us, most/us)
		}
	}
}

// TestMakespanReading: what a worker rebuilds in each chunk again makes chunks longer, what it rebuilds for each task does not.
func TestMakespanReading(t *testing.T) {
	tests := []struct {
		name        string
		workers     int
		tasks       []int64
		read        reading
		floor       int64 // of the makespan: one chunk per worker, or perfect balance
		last        float64
		least, most int // chunks of the last job
	}{
		{"dynesty: 16 x 130us, 50us", 2, same(16, 130*us), reading{50 * us, 0}, 1090 * us, 1.02, 2, 2},
		{"a long list in each of 16", 2, same(16, 10*us), reading{2000 * us, 0}, 2080 * us, 1.01, 2, 2},
		{"a long list in each of 1000", 8, same(1000, 100*us), reading{2000 * us, 0}, 14_500 * us, 1.01, 8, 8},
		{"much work, 50us", 4, same(10_000, 100*us), reading{50 * us, 0}, 250_000 * us, 1.04, 100, 500},
		{"payloads in proportion", 4, same(1000, 100*us), reading{0, 60 * us}, 40_000 * us, 1.08, 80, 1000},
		{"payloads longer than their tasks", 4, same(1000, 20*us), reading{0, 60 * us}, 20_000 * us, 1.1, 40, 1000},
		{"both", 4, same(1000, 100*us), reading{20 * us, 20 * us}, 30_000 * us, 1.1, 20, 300},
		{"heavy tasks that differ, 50us", 4, bimodal(2000), reading{50 * us, 0}, int64(ideal(bimodal(2000), 4)), 1.15, 20, 2000},
		{"nothing to read", 2, same(16, 200*us), reading{}, 1600 * us, 1.06, 10, 16},
	}
	for _, k := range tests {
		t.Run(k.name, func(t *testing.T) {
			s := New(Config{Workers: k.workers})
			spec := JobSpec{Tasks: int64(len(k.tasks)), Func: 1}
			for job := range 8 {
				span, chunks := simulateReading(s, k.workers, spec, k.tasks, k.read)
				r := float64(span) / float64(k.floor)
				t.Logf("job %d: %.3f times the floor in %d chunks; reading %+v", job, r, chunks, s.times.get(1).reading)
				if job >= 3 && (r > k.last || chunks < k.least || chunks > k.most) {
					t.Errorf("job %d takes %.3f times the floor in %d chunks; at most %.3f, in %d to %d", job, r, chunks, k.last, k.least, k.most)
				}
			}
		})
	}
}
