package dispatch

import "slices"

// The events at the end of a chunk and of a job.

func (m *model) shrink(c *modelChunk) {
	n := m.in.pick(c.offer.Count + 2)
	ok := m.s.Shrink(c.id, n)
	m.check(ok == (!c.dead && n > 0 && n < c.offer.Count), "shrink to %d of %d returned %v", n, c.offer.Count, ok)
	if ok {
		c.job.wait(c, n, c.offer.Count, func(t *modelTask) { t.strikes = 0 })
		c.offer.Count = n
	}
}

func (m *model) deliver(j *modelJob) bool {
	d, ok := m.s.Deliver(j.id)
	if !ok {
		return false
	}
	m.check(!j.cancelled, "delivery of a cancelled job")
	n := d.Count
	if d.Failed || d.Lost {
		n++
	}
	m.check(d.Job == j.id && n > 0 && !(d.Failed && d.Lost), "odd delivery %+v", d)
	m.check((d.Chunk != 0) == (d.Count > 0 || d.Failed), "payload of %+v", d)
	if j.spec.Ordered {
		m.check(d.First == int64(j.next), "delivered %d, next is %d", d.First, j.next)
		j.next += n
	}
	for i := range n {
		at := int(d.First) + i
		t := &j.tasks[at]
		want := tResult
		if i == d.Count {
			want = tFailed
			if d.Lost {
				want = tLost
				m.check(d.Tag == t.tag, "task %d lost with tag %d, told %d", at, t.tag, d.Tag)
			}
			m.check(t.charged == j.spec.Retries, "task %d given up after %d of %d retries", at, t.charged, j.spec.Retries)
		}
		m.check(t.state == want, "task %d delivered in state %d, not %d", at, t.state, want)
		m.check(d.Chunk == 0 || t.chunk == d.Chunk, "task %d is not in that chunk", at)
		m.check(d.Attempts == t.charged+1, "task %d: %d attempts, charged %d", at, d.Attempts, t.charged)
		t.state = tGone
	}
	j.gone += n
	if d.Chunk != 0 {
		m.stale = slices.DeleteFunc(m.stale, func(id ChunkID) bool { return id == d.Chunk })
		m.read = append(m.read, d.Chunk)
	}
	return true
}

func (m *model) release(i int) {
	id := m.read[i]
	m.read = slices.Delete(m.read, i, i+1)
	m.check(m.s.Release(id), "release refused")
	m.check(!m.s.Release(id), "released twice")
	m.stale = append(m.stale, id)
}

func (m *model) tryStale() {
	ids := []ChunkID{0, ChunkID(m.in.pick(1 << 16)), 1<<63 | 5}
	if len(m.stale) > 0 {
		ids = append(ids, m.stale[m.in.pick(len(m.stale))])
	}
	for _, id := range ids {
		keep, ok := m.s.Done(id, Outcome{Done: 1})
		m.check(!keep && !ok, "stale answer %x accepted", id)
		keep, ok = m.s.Lost(id, Loss{Safe: 1})
		m.check(!keep && !ok, "stale loss %x accepted", id)
		m.check(!m.s.Requeue(id, true) && !m.s.Submit(id, 0, 0, false) && !m.s.Return(id) && !m.s.Release(id),
			"stale id %x accepted", id)
	}
	if len(m.stale) > 64 {
		m.stale = m.stale[32:]
	}
}

func (m *model) cancel(j *modelJob) {
	posted, kept := 0, 0
	m.s.Outstanding(j.id, func(_ ChunkID, p bool) {
		if p {
			posted++
		} else {
			kept++
		}
	})
	flying := 0
	for _, c := range m.open {
		if c.job == j {
			c.dead = true
			if !c.reserved {
				flying++
			}
		}
	}
	m.check(posted == flying && m.s.InFlight(j.id) == flying, "%d outstanding, %d in flight, should be %d",
		posted, m.s.InFlight(j.id), flying)
	payloads := map[ChunkID]bool{}
	for i := range j.tasks {
		if t := &j.tasks[i]; t.state == tResult || t.state == tFailed {
			payloads[t.chunk] = true
		}
	}
	if !j.cancelled {
		m.check(kept == len(payloads), "%d payloads outstanding, should be %d", kept, len(payloads))
	}
	j.cancelled = true
	m.s.Cancel(j.id)
	m.check(m.s.Finished(j.id) && m.s.InFlight(j.id) == flying, "state after cancel")
}

func (m *model) end(j *modelJob) {
	if !j.cancelled {
		m.check(m.s.Finished(j.id) == (j.known && j.gone == len(j.tasks)), "finished is wrong, %d of %d delivered", j.gone, len(j.tasks))
	}
	for _, c := range m.open {
		if c.job == j {
			c.dead = true
		}
	}
	m.s.End(j.id)
	_, offer := m.s.Offer(j.id)
	_, deliver := m.s.Deliver(j.id)
	m.check(!offer && !deliver && m.s.Finished(j.id) && m.s.InFlight(j.id) == 0, "an ended job lives")
	m.jobs = slices.DeleteFunc(m.jobs, func(o *modelJob) bool { return o == j })
}

// finish drives a job to its end. That nothing can be done before it is finished would be a hang.
func (m *model) finish(j *modelJob) {
	for !m.s.Finished(j.id) {
		m.events++
		busy := m.offer(j)
		for m.deliver(j) {
			busy = true
		}
		if at := slices.IndexFunc(m.open, func(c *modelChunk) bool { return c.job == j }); at >= 0 {
			m.answer(m.open[at])
			busy = true
		}
		m.check(busy, "hang: %d of %d delivered", j.gone, len(j.tasks))
	}
	m.end(j)
}
