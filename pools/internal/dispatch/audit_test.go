package dispatch

// audit compares what the Scheduler keeps about a job with the model and with itself: the sums that only steer the
// policy, whose errors would otherwise show as nothing but slowness.
func (m *model) audit(j *modelJob) {
	s, r := m.s, m.s.byID[j.id]
	var waiting, bytes int64
	var holding, flyingNow, pending, ranges int32
	end, prev := int64(0), none
	for i := r.head; i != none; {
		c := s.chunks.at(i)
		m.check(c.prev == prev && s.jobs[c.job] == r, "list is broken at task %d", c.first)
		m.check(c.first >= end, "task %d is twice in the list", c.first)
		end = c.first + int64(c.count)
		switch c.state {
		case queued:
			ranges++
			waiting += int64(c.count)
			m.auditRange(j, c)
		case reserved:
			holding++
		case flying, orphan:
			flyingNow++
		case answered, vanished:
			pending++
			bytes += c.bytes
		default:
			m.check(false, "state %d in the list", c.state)
		}
		prev, i = i, c.next
	}
	m.check(r.tail == prev, "the list does not end at its tail")
	m.check(r.flying == flyingNow, "%d flying, %d counted", flyingNow, r.flying)
	if j.cancelled {
		return
	}
	m.check(r.waiting == waiting && len(r.queue) == int(ranges), "%d tasks wait, %d counted", waiting, r.waiting)
	m.check(r.holding == holding && r.pending == pending, "%d reserved, %d answered, counted %d and %d",
		holding, pending, r.holding, r.pending)
	m.check(r.bytes == bytes, "%d bytes answered, %d counted", bytes, r.bytes)
}

func (m *model) auditRange(j *modelJob, c *chunk) {
	for i := c.first; i < min(c.first+int64(c.count), int64(len(j.tasks))); i++ {
		t := &j.tasks[i]
		m.check(t.state == tWaiting && t.alone == c.alone && t.charged == int(c.attempt) && t.strikes == int(c.strikes),
			"task %d waits as %+v, kept as %+v", i, *t, *c)
	}
}
