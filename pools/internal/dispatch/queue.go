package dispatch

// The tasks of a job that must be offered again wait in a heap of queued chunks, lowest first task on top. Taking tasks
// from the front of the top one keeps it on top, as ranges never overlap.

// enqueue makes a chunk, already in the list and counted nowhere, a queued range.
func (s *Scheduler) enqueue(j *job, i int32, c *chunk) {
	c.state = queued
	j.waiting += int64(c.count)
	j.queue = append(j.queue, i)
	q, at := j.queue, len(j.queue)-1
	for at > 0 {
		up := (at - 1) / 2
		if s.chunks.at(q[up]).first < c.first {
			break
		}
		q[at] = q[up]
		at = up
	}
	q[at] = i
}

// dequeue removes the top of the heap.
func (s *Scheduler) dequeue(j *job) {
	n := len(j.queue) - 1
	moved := j.queue[n]
	j.queue = j.queue[:n]
	if n > 0 {
		s.siftDown(j.queue, 0, moved)
	}
}

func (s *Scheduler) siftDown(q []int32, at int, moved int32) {
	first := s.chunks.at(moved).first
	for {
		down := 2*at + 1
		if down >= len(q) {
			break
		}
		low := s.chunks.at(q[down]).first
		if down+1 < len(q) {
			if f := s.chunks.at(q[down+1]).first; f < low {
				down, low = down+1, f
			}
		}
		if low > first {
			break
		}
		q[at] = q[down]
		at = down
	}
	q[at] = moved
}

// requeueAfter puts count tasks from first on back in the queue, as a range of its own behind chunk at in the list.
// It returns the new range's index, or at when there is nothing to put back.
func (s *Scheduler) requeueAfter(j *job, at int32, first int64, count int32, attempt int32, alone bool) int32 {
	if count <= 0 {
		return at
	}
	i, c := s.chunks.take()
	*c = chunk{first: first, count: count, attempt: attempt, alone: alone, gen: c.gen, job: j.at}
	s.insertAfter(j, at, i, c)
	s.enqueue(j, i, c)
	return i
}

// dropFrom removes the queued ranges at or after task first, which the drained source turned out not to have.
func (s *Scheduler) dropFrom(j *job, first int64) {
	keep := j.queue[:0]
	for _, i := range j.queue {
		c := s.chunks.at(i)
		if c.first < first {
			keep = append(keep, i)
			continue
		}
		j.waiting -= int64(c.count)
		s.unlink(j, c)
		s.chunks.put(i, c)
	}
	j.queue = keep
	for at := len(keep)/2 - 1; at >= 0; at-- {
		s.siftDown(keep, at, keep[at])
	}
}
