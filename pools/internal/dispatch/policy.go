package dispatch

import "time"

const (
	// A worker that looks at the clock after each task of this length loses less than 1 % (a look costs 0.1us in Python).
	blockAlone = float64(20 * time.Microsecond)
	// For shorter tasks it looks this many times per chunk.
	blocksPerChunk = 8
	// But never so often that a block is shorter than this, in ns: half the time between two writings of results.
	blockTime = float64(50 * time.Microsecond)
	// A chunk that takes this many times longer than planned comes back unfinished, to be spread over other workers.
	budgetFactor = 4
	// Most tasks in a chunk when nobody knows how long they take: a million 30ns tasks still become few chunks.
	unknownMost = 4096
	// From so many tasks per worker on, a first round of two chunks per worker costs little and halves the first wait.
	largePerWorker = 16
	// From so many on, the first round is of single tasks. Its cost, some 10us, is then small beside the job, and no task
	// waits behind one that takes an hour. (Heavy tasks first, simulated: 1.00 times the ideal instead of 1.56.)
	probePerWorker = 32
	// "Much work left": so many long chunks per worker. Short chunks are for the end alone: a caller that shares its cores
	// with the workers is woken after each and becomes the narrow place, with one of two cores idle. A million ints
	// (100 ms of work) spent 40 ms so with 8, and take 0.94 of the time with 2; the budget bounds what waits behind a
	// long task.
	longPerWorker = 2
	// A chunk runs so many times as long as the worker needs for what is rebuilt in each chunk again. The caller needs about as
	// long to write it, and what is written and read again per chunk of results as long once more: a tenth in all.
	readFactor = 32
	// No chunk takes more than this part of a worker's share of what is left, so that the end is even.
	shareParts = 2
)

// plan is the size of the next chunk before it is cut to what the queue holds.
type plan struct {
	count  int64
	target time.Duration // planned run time, 0: no budget
}

// startShort decides once per job whether it is so little work that waking a second worker would cost more.
func (s *Scheduler) startShort(j *job) {
	t := j.time
	if t.short.ban > 0 {
		t.short.ban--
		return
	}
	if !t.known || j.spec.Chunk > 0 || j.tasks <= 0 {
		return
	}
	if whole := t.mean * float64(j.tasks); whole < float64(s.cfg.FanOut) {
		j.short, j.predicted = true, whole
	}
}

// checkShort learns from the answer of a job that went to one worker.
func (s *Scheduler) checkShort(j *job, elapsed int64) {
	j.short = false
	if float64(elapsed) > shortWrong*j.predicted && elapsed > int64(s.cfg.FanOut) {
		j.time.short.wrong()
	} else {
		j.time.short.fine()
	}
}

// held reports that more chunks in flight would only be guesses: better wait for the first answer.
func (s *Scheduler) held(j *job) bool {
	return !j.time.known && j.spec.Chunk == 0 && int(j.holding+j.flying) >= 2*s.workers
}

// Soon reports that all of a job is in flight, no worker has more than one chunk of it, and it is expected back within d.
func (s *Scheduler) Soon(id JobID, d time.Duration) bool {
	j := s.job(id)
	if j == nil || !j.time.known || j.tasks == Unknown || j.fresh < j.tasks || len(j.queue) > 0 {
		return false
	}
	n := int(j.flying)
	return n > 0 && n <= s.workers && j.time.mean*float64(j.tasks) <= float64(d)*float64(n)
}

// plan says how many tasks the next chunk should hold.
func (s *Scheduler) plan(j *job) plan {
	if j.spec.Chunk > 0 {
		return plan{count: int64(j.spec.Chunk)}
	}
	var p plan
	switch {
	case !j.time.known:
		p = plan{s.guess(j), s.cfg.Target}
	case j.short:
		p = plan{maxCount, s.cfg.FanOut}
	case j.tasks == Unknown:
		target := s.target(j)
		p = s.planned(j, fit(float64(target)/j.time.mean, s.seen(j)), target)
	default:
		p = s.share(j)
	}
	limit := s.cfg.ChunkBytes
	if !j.time.known {
		limit = s.cfg.FirstBytes
	}
	if j.encodedBytes > 0 {
		p.count = fit(float64(limit)*float64(j.encoded)/float64(j.encodedBytes), p.count)
	}
	return p
}

// guess sizes chunks of tasks of unknown duration. The budget brings chunks back that turn out too large, so small jobs
// need not try single tasks first, which would cost them a second round of wake-ups.
func (s *Scheduler) guess(j *job) int64 {
	w := int64(s.workers)
	if j.tasks == Unknown {
		return min(s.seen(j), unknownMost)
	}
	switch {
	case j.tasks >= probePerWorker*w:
		return 1
	case j.tasks >= largePerWorker*w:
		w *= 2
	}
	return min(ceilDiv(j.tasks, w), unknownMost)
}

// seen bounds chunks from a source of unknown length, which may end at any moment: no more than a part of one
// worker's share of what came so far. So the first go out one by one, and sizes grow steadily from there.
func (s *Scheduler) seen(j *job) int64 { return max(j.sent/int64(shareParts*s.workers), 1) }

// share sizes chunks of tasks of known number and duration.
func (s *Scheduler) share(j *job) plan {
	w := int64(s.workers)
	t, target := j.time.mean, s.target(j)
	if t*float64(j.tasks) < 2*float64(w)*float64(target) {
		return s.planned(j, ceilDiv(j.tasks, w), target)
	}
	left := j.waiting + j.tasks - j.fresh
	if t*float64(left) > float64(longPerWorker*w)*float64(s.cfg.LongTarget) {
		target = max(target, s.cfg.LongTarget)
	}
	return s.planned(j, fit(float64(target)/t, ceilDiv(left, shareParts*w)), target)
}

// target is the shortest run time that pays for a chunk of this job.
func (s *Scheduler) target(j *job) time.Duration {
	return max(s.cfg.Target, time.Duration(readFactor*j.time.reading.fixed()))
}

// planned gives a chunk that is made long because of what is rebuilt in it no more time than its tasks are expected to need: the
// target may be a hundred times as much.
func (s *Scheduler) planned(j *job, count int64, target time.Duration) plan {
	return plan{count, min(target, max(s.cfg.LongTarget, time.Duration(j.time.mean*float64(count))))}
}

// block says how many tasks the worker runs between two looks at the clock.
func (s *Scheduler) block(j *job, count int32) int {
	if !j.time.known || j.spec.Timed || j.time.mean >= blockAlone {
		return 1
	}
	// A block shorter than the time between two writings of results would only cost looks at the clock.
	return max(1, int(count)/blocksPerChunk, int(fit(blockTime/j.time.mean, int64(count))))
}

// fit rounds x down to a number of tasks between 1 and most.
func fit(x float64, most int64) int64 {
	if x >= float64(most) {
		return max(most, 1)
	}
	return max(int64(x), 1)
}

func ceilDiv(a, b int64) int64 { return (a + b - 1) / b }
