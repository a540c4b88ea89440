package dispatch

// Loss is what is known of a chunk whose worker died. Safe results lie in it. Running is the position in the chunk of
// the block that was running, -1 when none was started, and Block that block's length. Tag goes through to the Delivery
// of a task that is given up, for the owner to say who died of what.
type Loss struct {
	Safe, Running, Block int
	Tag                  uint64
}

// A chunk that again and again takes its worker along before any task is known to run (its tasks crash the
// reader, say) must not be offered for ever. Killed by others, so often in a row, it hardly is. Both guessed.
const (
	strikesSplit  = 2 // from then on its tasks are offered one by one
	strikesCharge = 4 // from then on the one task is charged
)

// Lost takes in the death of a worker that held the chunk. Results that are safe will be delivered (keep) and the other
// tasks go back: the one that was running is charged with the death, and given up when it has no retries left; where a
// block of several was running, its tasks are offered again one by one, uncharged, so that the next death tells which
// it was. Tasks that ran but whose results were not safe run again. Figures beyond the chunk are cut to it: they come
// from memory that a dying process wrote.
//
// A chunk that dies time and again with no task to blame is taken apart into single tasks after the second death; one
// that does so even alone is charged from the fourth on. So no job is offered for ever.
func (s *Scheduler) Lost(id ChunkID, l Loss) (keep, ok bool) {
	i, c := s.chunks.find(id)
	if c == nil || (c.state != flying && c.state != orphan) {
		s.counters.Stale++
		return false, false
	}
	s.counters.Deaths++
	if c.state == orphan {
		s.forget(i, c)
		return false, true
	}
	j := s.land(c)
	safe := int32(min(max(l.Safe, 0), int(c.count)))
	from, to := suspects(l, safe, c.count)
	if from == to && safe == 0 {
		return s.strike(j, i, c, l.Tag), true
	}
	first, count, attempt := c.first, c.count, c.attempt
	c.count = safe
	at := s.back(j, i, first+int64(safe), from-safe, attempt, c.alone)
	if to-from == 1 {
		at = s.charge(j, i, at, first+int64(from), attempt, l.Tag)
	} else {
		at = s.back(j, at, first+int64(from), to-from, attempt, true)
	}
	s.back(j, at, first+int64(to), count-to, attempt, c.alone)
	if c.count == 0 && !c.lost {
		s.unlink(j, c)
		s.chunks.put(i, c)
		return false, true
	}
	s.answer(j, i, c, 0)
	return safe > 0, true
}

// suspects returns the range of tasks in the chunk one of which was running, empty when none was.
func suspects(l Loss, safe, count int32) (from, to int32) {
	if l.Running < 0 || l.Running >= int(count) {
		return safe, safe // before the first, or after the last
	}
	to = count
	if b := max(l.Block, 1); b < int(count)-l.Running {
		to = int32(l.Running + b)
	}
	from = max(int32(l.Running), safe)
	return from, max(from, to)
}

// back requeues tasks without a charge.
func (s *Scheduler) back(j *job, at int32, first int64, count, attempt int32, alone bool) int32 {
	if count > 0 {
		s.counters.Requeued += uint64(count)
	}
	return s.requeueAfter(j, at, first, count, attempt, alone)
}

// charge tries a task again that killed its worker, or gives it up: as part of chunk i when it directly follows the
// results there, else as a piece of its own behind chunk at.
func (s *Scheduler) charge(j *job, i, at int32, task int64, attempt int32, tag uint64) int32 {
	if attempt < int32(j.spec.Retries) {
		s.counters.Retries++
		return s.requeueAfter(j, at, task, 1, attempt+1, true)
	}
	if at == i {
		c := s.chunks.at(i)
		c.lost, c.tag = true, tag
		return at
	}
	n, v := s.chunks.take()
	*v = chunk{first: task, attempt: attempt, lost: true, tag: tag, gen: v.gen, job: j.at}
	s.insertAfter(j, at, n, v)
	s.answer(j, n, v, 0)
	return n
}

// strike requeues a chunk that died without any task to blame.
func (s *Scheduler) strike(j *job, i int32, c *chunk, tag uint64) (keep bool) {
	c.strikes++
	if c.strikes >= strikesSplit {
		c.alone = true
	}
	if c.strikes < strikesCharge || c.count > 1 {
		c.strikes = min(c.strikes, strikesCharge)
		s.counters.Requeued += uint64(c.count)
		s.enqueue(j, i, c)
		return false
	}
	first, attempt := c.first, c.attempt
	c.count = 0
	s.charge(j, i, i, first, attempt, tag)
	if c.lost {
		s.answer(j, i, c, 0)
	} else {
		s.unlink(j, c)
		s.chunks.put(i, c)
	}
	return false
}

// Requeue offers the tasks of a chunk in flight again, without a charge: its worker could not read them. With split,
// one by one, to find out which. It returns false when the id is stale or the chunk is not in flight.
func (s *Scheduler) Requeue(id ChunkID, split bool) bool {
	i, c := s.chunks.find(id)
	if c == nil || (c.state != flying && c.state != orphan) {
		s.counters.Stale++
		return false
	}
	if c.state == orphan {
		s.forget(i, c)
		return true
	}
	j := s.land(c)
	c.alone = c.alone || split
	s.counters.Requeued += uint64(c.count)
	s.enqueue(j, i, c)
	return true
}
