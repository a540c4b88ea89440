package dispatch

// Delivery is a piece of a job's results.
type Delivery struct {
	Job      JobID
	Chunk    ChunkID // where the payload lies, for Release; 0: there is none
	First    int64
	Count    int    // results to read, without the failed one
	Failed   bool   // an error record for task First+Count follows them
	Lost     bool   // task First+Count was lost with its worker
	Tag      uint64 // with Lost: the Tag of the Loss
	Attempts int    // how often the task was tried, the last time included
}

// answer puts a chunk that has results, an error, or a lost task to tell in line for delivery.
func (s *Scheduler) answer(j *job, i int32, c *chunk, bytes int64) {
	c.state = answered
	if c.count == 0 && !c.failed {
		c.state = vanished
	}
	c.bytes = max(bytes, 0)
	j.pending++
	j.bytes += c.bytes
	if j.spec.Ordered {
		return // the sorted list is the line
	}
	c.link = none
	if j.readyTo == none {
		j.ready = i
	} else {
		s.chunks.at(j.readyTo).link = i
	}
	j.readyTo = i
}

// Deliver returns the next piece of results, for an Ordered job in input order. The payload stays with its owner until
// Release. It returns false when there is none yet, or the job is cancelled.
func (s *Scheduler) Deliver(id JobID) (Delivery, bool) {
	j := s.job(id)
	if j == nil || j.pending == 0 || j.cancelled {
		return Delivery{}, false
	}
	var i int32
	var c *chunk
	if j.spec.Ordered {
		i = j.head
		c = s.chunks.at(i)
		if c.state != answered && c.state != vanished {
			return Delivery{}, false
		}
	} else {
		i = j.ready
		c = s.chunks.at(i)
		j.ready = c.link
		if j.ready == none {
			j.readyTo = none
		}
	}
	s.unlink(j, c)
	j.pending--
	j.bytes -= c.bytes
	d := Delivery{
		Job: id, First: c.first, Count: int(c.count), Failed: c.failed, Lost: c.lost, Tag: c.tag,
		Attempts: int(c.attempt) + 1,
	}
	tasks := int64(c.count)
	if c.failed {
		tasks++
		s.counters.Failed++
	}
	if c.lost {
		tasks++
		s.counters.Lost++
	}
	j.handed += tasks
	s.counters.Tasks += uint64(tasks)
	if c.state == vanished {
		s.chunks.put(i, c)
		return d, true
	}
	c.state, c.job = delivered, none
	d.Chunk = makeChunkID(i, c.gen)
	return d, true
}

// Release tells that the owner has read a delivered chunk; its id is stale from now on. It may come after End. It
// returns false when the chunk is not one that was delivered.
func (s *Scheduler) Release(id ChunkID) bool {
	i, c := s.chunks.find(id)
	if c == nil || c.state != delivered {
		return false
	}
	s.chunks.put(i, c)
	return true
}
