package dispatch

const (
	// Share of the newest chunk in the mean. A quarter forgets a hiccup within a few chunks and follows a drift as fast.
	timeWeight = 0.25
	// Of so many chunks the moving average has forgotten the first, with which the next job starts again.
	longMemory = 8
	// Beyond this error, waking one worker only was a mistake that cost real time.
	shortWrong = 5
	// After such a mistake the function gets all workers: for one job, and for so many times as many, up to the most, with each further
	// one, until the plan has been right so often in a row. A map after a pause takes five times as long as others, since no cache has
	// what it needs; with a ban of 100 jobs for that, a sampler that does something else after every 80 maps got the dearer plan in
	// nearly all of them.
	banGrowth = 4
	banMost   = 100
	banForget = 16
	// A program that makes functions as it goes would fill the table without end.
	timesMost = 4096
)

// taskTime is what is known of the run time of one function's tasks.
type taskTime struct {
	mean  float64 // ns per task, moving average over chunks
	known bool
	short shortcut

	reading readTime
}

// shortcut is how well the plan to send all of a short job to one worker has done.
type shortcut struct {
	ban   int32 // jobs for which it is not to be made
	next  int32 // length of the next ban; 0: of the first one
	right int32 // how often in a row it was right, since the last ban
}

func (s *shortcut) wrong() {
	s.ban = max(s.next, 1)
	s.next = min(s.ban*banGrowth, banMost)
	s.right = 0
}

func (s *shortcut) fine() {
	if s.right++; s.right >= banForget {
		s.next, s.right = 0, 0
	}
}

func (t *taskTime) observe(elapsed int64, tasks int) {
	if elapsed <= 0 || tasks <= 0 { // not measured
		return
	}
	sample := float64(elapsed) / float64(tasks)
	if !t.known {
		t.mean, t.known = sample, true
		return
	}
	t.mean += timeWeight * (sample - t.mean)
}

// readTime is how long workers take to rebuild the tasks of a chunk. It tells what a chunk costs whatever its length: objects that are
// part of every task are written and rebuilt once per chunk.
type readTime struct {
	single  float64 // ns, moving average over chunks of one task; 0: none seen, or not worth telling
	several float64 // the same over longer ones
	tasks   float64 // and how many tasks those have
}

func (r *readTime) observe(elapsed int64, tasks int) {
	x := float64(max(elapsed, 0))
	switch {
	case tasks == 1 && r.single == 0:
		r.single = x
	case tasks == 1:
		r.single += timeWeight * (x - r.single)
	case r.tasks == 0:
		r.several, r.tasks = x, float64(tasks)
	default:
		r.several += timeWeight * (x - r.several)
		r.tasks += timeWeight * (float64(tasks) - r.tasks)
	}
}

// fixed is the part that does not grow with the number of tasks, in ns: where a line through both averages meets no task at all.
// With chunks of one task alone it is all of it, an error that the longer chunks it leads to put right; without any it is not known.
func (r *readTime) fixed() float64 {
	if r.tasks == 0 {
		return r.single
	}
	slope := max(r.several-r.single, 0) / (r.tasks - 1)
	return min(max(r.single-slope, 0), r.several)
}

// jobTime is what one job's tasks took, for a mean that no order of heavy and light ones can bend.
type jobTime struct {
	busy   int64 // ns
	tasks  int64
	chunks int
}

func (t *jobTime) observe(elapsed int64, tasks int) {
	if elapsed > 0 && tasks > 0 {
		t.busy += elapsed
		t.tasks += int64(tasks)
		t.chunks++
	}
}

// remember leaves the next job the mean of this one: the moving average would expect all tasks to be like its last.
func (t *taskTime) remember(j jobTime) {
	if j.chunks >= longMemory {
		t.mean = float64(j.busy) / float64(j.tasks)
	}
}

// timeTable remembers task times by function key.
type timeTable struct {
	byFunc map[uint32]*taskTime
}

func (t *timeTable) get(key uint32) *taskTime {
	if e := t.byFunc[key]; e != nil {
		return e
	}
	if t.byFunc == nil || len(t.byFunc) >= timesMost {
		// All are hints, and those in use are learnt again at once: no need to choose a victim. Running jobs keep theirs.
		t.byFunc = make(map[uint32]*taskTime)
	}
	e := new(taskTime)
	t.byFunc[key] = e
	return e
}

// TaskTime is how long one task of a job is expected to run, in ns; 0: nobody knows, or the job has ended.
func (s *Scheduler) TaskTime(id JobID) float64 {
	if j := s.job(id); j != nil && j.time.known {
		return j.time.mean
	}
	return 0
}
