package dispatch

// Outcome is what a worker that lived to answer says about a chunk. Done results lie in the chunk. With Failed, task
// number Done raised, and its error record follows the results. The tasks behind were not started and go back in the
// queue. Elapsed is the time spent on them in ns, 0 when not measured, Reading the part of it
// before the first task began; Bytes is the size of the results.
type Outcome struct {
	Done    int
	Failed  bool
	Elapsed int64
	Reading int64
	Bytes   int64
}

// Done takes in an answer. With keep, the payload will be delivered: leave it alone until Release. Without, the owner
// frees it now. ok is false for a stale id, or a chunk that is not in flight: ignore the answer. A Done beyond the
// chunk's tasks counts as all of them.
func (s *Scheduler) Done(id ChunkID, o Outcome) (keep, ok bool) {
	i, c := s.chunks.find(id)
	if c == nil || (c.state != flying && c.state != orphan) {
		s.counters.Stale++
		return false, false
	}
	s.counters.Busy += max(o.Elapsed, 0)
	s.counters.BytesOut += uint64(max(o.Bytes, 0))
	if c.state == orphan {
		s.forget(i, c)
		return false, true
	}
	j := s.land(c)
	n := int32(min(max(o.Done, 0), int(c.count)))
	failed := o.Failed && n < c.count
	ran := n
	if failed {
		ran++
	}
	if c.short {
		s.checkShort(j, o.Elapsed)
	}
	j.time.observe(o.Elapsed, int(ran))
	j.own.observe(o.Elapsed, int(ran))
	if o.Elapsed > 0 {
		j.time.reading.observe(o.Reading, int(c.count))
	}

	first, rest, attempt := c.first, c.count-ran, c.attempt
	final := failed && attempt >= int32(j.spec.Retries)
	at := i
	if failed && !final {
		s.counters.Retries++
		at = s.requeueAfter(j, at, first+int64(n), 1, attempt+1, true)
	}
	if rest > 0 {
		s.counters.Requeued += uint64(rest)
		s.requeueAfter(j, at, first+int64(ran), rest, attempt, c.alone)
	}
	if n == 0 && !final {
		s.unlink(j, c)
		s.chunks.put(i, c)
		return false, true
	}
	c.count = n
	c.failed = final
	s.answer(j, i, c, o.Bytes)
	return true, true
}

// land takes a chunk out of the air.
func (s *Scheduler) land(c *chunk) *job {
	j := s.jobs[c.job]
	j.flying--
	s.counters.InFlight--
	return j
}

// forget drops a chunk whose job was cancelled while it flew.
func (s *Scheduler) forget(i int32, c *chunk) {
	s.counters.InFlight--
	if c.job != none {
		j := s.jobs[c.job]
		j.flying--
		s.unlink(j, c)
	}
	s.chunks.put(i, c)
}
