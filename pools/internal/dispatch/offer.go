package dispatch

import "fmt"

// Offer is a range of tasks to encode.
type Offer struct {
	Chunk   ChunkID
	Job     JobID
	First   int64
	Count   int
	Block   int   // tasks the worker runs between two looks at the clock
	Budget  int64 // ns after which the worker should stop between two blocks and return the rest; 0: none
	Attempt int   // times this task was tried, failed and charged: 0 at first; above 0 only with Count 1
	Fresh   bool  // false: these tasks were part of an earlier offer. An offer never mixes the two
}

// Offer reserves the next chunk of a job for its owner to encode, who must then call Submit or Return. Tasks that came
// back go first, lowest first; then fresh ones. It returns false when there is nothing to encode now: everything is out,
// enough is in flight, a Lazy job is too far ahead of its consumer, or the job is cancelled. A job of Unknown length has
// one offer at a time: how many tasks the source gave decides where the next chunk starts.
func (s *Scheduler) Offer(id JobID) (Offer, bool) { return s.OfferUpTo(id, maxCount) }

// OfferUpTo is Offer with at most so many tasks that were never offered, for an owner who knows how many its source has given
// so far; with 0 only tasks that came back are offered.
func (s *Scheduler) OfferUpTo(id JobID, most int64) (Offer, bool) {
	j := s.job(id)
	if j == nil || j.cancelled || j.holding+j.flying >= s.depthOf(j) {
		return Offer{}, false
	}
	if j.tasks == Unknown && j.holding > 0 {
		return Offer{}, false
	}
	again := len(j.queue) > 0
	if (!again && (most <= 0 || !s.mayTakeFresh(j))) || s.held(j) {
		return Offer{}, false
	}
	p := s.plan(j)
	if !again {
		p.count = min(p.count, most)
	}
	if m := int64(j.spec.MaxTasks); m > 0 {
		p.count = min(p.count, m)
	}
	i, c, fresh := s.cut(j, min(p.count, maxCount))
	c.state = reserved
	c.short = j.short
	j.holding++
	o := Offer{
		Chunk: s.chunks.rename(i, c), Job: id, First: c.first, Count: int(c.count),
		Block: s.block(j, c.count), Attempt: int(c.attempt), Fresh: fresh,
	}
	if c.count > 1 {
		o.Budget = budgetFactor * int64(p.target)
	}
	return o, true
}

// mayTakeFresh reports that there are tasks never offered, and room for their results.
func (s *Scheduler) mayTakeFresh(j *job) bool {
	if j.tasks != Unknown && j.fresh >= j.tasks {
		return false
	}
	if !j.spec.Lazy {
		return true
	}
	// Only fresh tasks are held back: ordered delivery may be waiting for one that came back.
	return int(j.holding+j.flying+j.pending) < s.cfg.WindowChunks*s.workers && j.bytes < s.cfg.WindowBytes
}

// cut takes up to most tasks from the queue, or else from the fresh ones, as a chunk in the job's list.
func (s *Scheduler) cut(j *job, most int64) (i int32, c *chunk, fresh bool) {
	if len(j.queue) == 0 {
		i, c = s.chunks.take()
		if j.tasks != Unknown {
			most = min(most, j.tasks-j.fresh)
		}
		*c = chunk{first: j.fresh, count: int32(most), gen: c.gen, job: j.at}
		s.append(j, i, c)
		j.fresh += most
		return i, c, true
	}
	at := j.queue[0]
	q := s.chunks.at(at)
	n := q.count
	if q.alone {
		n = 1
	} else if int64(n) > most {
		n = int32(most)
	}
	j.waiting -= int64(n)
	if n == q.count {
		s.dequeue(j)
		return at, q, false
	}
	i, c = s.chunks.take()
	*c = chunk{first: q.first, count: n, attempt: q.attempt, strikes: q.strikes, alone: q.alone, gen: c.gen, job: j.at}
	s.insertBefore(j, at, i, c)
	q.first += int64(n)
	q.count -= n
	return i, c, false
}

// Submit tells that the first count tasks of an offer were encoded in so many bytes and are about to be posted; the
// others go back. With last the source is drained: tasks behind the highest one submitted do not exist.
//
// It returns false when there is nothing to post: count is 0, the job was cancelled, or the id is stale. It panics when
// count is negative or more than was offered.
func (s *Scheduler) Submit(id ChunkID, count int, bytes int64, last bool) bool {
	i, c := s.chunks.find(id)
	if c == nil {
		return false
	}
	if c.state == void {
		s.chunks.put(i, c)
		return false
	}
	if c.state != reserved {
		return false
	}
	if count < 0 || count > int(c.count) {
		panic(fmt.Sprintf("dispatch: %d tasks submitted of %d offered", count, c.count))
	}
	j := s.jobs[c.job]
	n := int32(count)
	rest := c.count - n
	end := c.first + int64(n)
	if last && end >= j.sent {
		rest = 0
	}
	if rest > 0 {
		// strikes stay with the tasks: they are why the range is being taken apart.
		r := s.requeueAfter(j, i, end, rest, c.attempt, c.alone)
		s.chunks.at(r).strikes = c.strikes
	}
	j.holding--
	if n == 0 {
		s.unlink(j, c)
		s.chunks.put(i, c)
	} else {
		j.sent = max(j.sent, end)
		c.count = n
		c.state = flying
		j.flying++
		j.encoded += int64(n)
		j.encodedBytes += max(bytes, 0)
		s.counters.Chunks++
		s.counters.InFlight++
		s.counters.BytesIn += uint64(max(bytes, 0))
	}
	if last {
		s.drained(j, max(end, j.sent))
	}
	return n > 0
}

// Drain tells how many tasks the source of a job of Unknown length had, once it has given its last: at least as many as were
// submitted. It returns false, and changes nothing, when the number is known already or the job has ended.
func (s *Scheduler) Drain(id JobID, tasks int64) bool {
	j := s.job(id)
	if j == nil || j.cancelled || j.tasks != Unknown || tasks < j.sent {
		return false
	}
	if tasks < j.fresh {
		s.drained(j, tasks)
	}
	j.tasks = tasks
	return true
}

// drained fixes the number of tasks and takes back what was planned behind the end.
func (s *Scheduler) drained(j *job, tasks int64) {
	j.tasks, j.fresh = tasks, tasks
	s.dropFrom(j, tasks)
	for i := j.tail; i != none; {
		c := s.chunks.at(i)
		if c.first < tasks {
			break
		}
		i = c.prev
		s.unlink(j, c) // reserved: what flies lies before the end
		c.state, c.job = void, none
		j.holding--
	}
}

// Return gives an offer back unused. It returns false when the id is stale.
func (s *Scheduler) Return(id ChunkID) bool {
	i, c := s.chunks.find(id)
	switch {
	case c == nil:
		return false
	case c.state == void:
		s.chunks.put(i, c)
	case c.state == reserved:
		j := s.jobs[c.job]
		j.holding--
		s.enqueue(j, i, c)
	default:
		return false
	}
	return true
}

// Left is the number of tasks that wait to be offered, those that a source of Unknown length has not given yet apart.
func (s *Scheduler) Left(id JobID) int64 {
	j := s.job(id)
	switch {
	case j == nil || j.cancelled:
		return 0
	case j.tasks == Unknown:
		return j.waiting
	}
	return j.waiting + j.tasks - j.fresh
}
