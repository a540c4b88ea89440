package dispatch

// Each job keeps its chunks, queued ranges included, in one list sorted by first task. Fresh chunks join at the tail and
// what is split off joins beside its origin, so keeping it sorted costs O(1); and ordered delivery is a look at the
// head.

func (s *Scheduler) append(j *job, i int32, c *chunk) {
	c.prev, c.next = j.tail, none
	if j.tail == none {
		j.head = i
	} else {
		s.chunks.at(j.tail).next = i
	}
	j.tail = i
}

func (s *Scheduler) insertAfter(j *job, at int32, i int32, c *chunk) {
	a := s.chunks.at(at)
	c.prev, c.next = at, a.next
	if a.next == none {
		j.tail = i
	} else {
		s.chunks.at(a.next).prev = i
	}
	a.next = i
}

func (s *Scheduler) insertBefore(j *job, at int32, i int32, c *chunk) {
	a := s.chunks.at(at)
	c.prev, c.next = a.prev, at
	if a.prev == none {
		j.head = i
	} else {
		s.chunks.at(a.prev).next = i
	}
	a.prev = i
}

func (s *Scheduler) unlink(j *job, c *chunk) {
	if c.prev == none {
		j.head = c.next
	} else {
		s.chunks.at(c.prev).next = c.next
	}
	if c.next == none {
		j.tail = c.prev
	} else {
		s.chunks.at(c.next).prev = c.prev
	}
}
