package dispatch

// The events that say what became of a chunk.

func (m *model) answer(c *modelChunk) {
	if c.reserved {
		m.submit(c)
		return
	}
	switch k := m.in.pick(16); {
	case k == 0 && !m.calm:
		m.requeue(c)
	case k < 4 && !m.calm:
		m.lose(c)
	case k == 4 && !m.calm:
		m.shrink(c)
	default:
		m.done(c)
	}
}

func (m *model) submit(c *modelChunk) {
	j := c.job
	if m.in.pick(8) == 0 && !m.calm {
		m.check(m.s.Return(c.id), "return refused")
		m.drop(c)
		if !c.dead {
			j.wait(c, 0, c.offer.Count, nil)
		}
		return
	}
	there := max(0, min(c.offer.Count, len(j.tasks)-int(c.offer.First)))
	n := there
	if m.in.pick(4) == 0 && !m.calm && there > 0 {
		n = m.in.pick(there + 1)
	}
	last := n == there && there < c.offer.Count
	if !j.known && n == there && int(c.offer.First)+n == len(j.tasks) && m.in.pick(2) == 0 {
		last = true // a source may also tell at once
	}
	posted := m.s.Submit(c.id, n, int64(n*m.in.pick(3000)), last)
	if c.dead {
		m.check(!posted, "submit for a cancelled job accepted")
		m.drop(c)
		return
	}
	m.check(posted == (n > 0), "submit of %d tasks returned %v", n, posted)
	j.wait(c, n, c.offer.Count, nil)
	if last {
		m.drained(j, int(c.offer.First)+n)
	}
	if n == 0 {
		m.drop(c)
		return
	}
	c.reserved = false
	c.offer.Count = n
}

// drained expects everything planned behind the end to be called off.
func (m *model) drained(j *modelJob, end int) {
	for i := range j.tasks {
		if t := &j.tasks[i]; t.state != tWaiting {
			end = max(end, i+1)
		}
	}
	j.oneByOne = false
	j.known = end == len(j.tasks)
	for _, o := range m.open {
		if o.job == j && o.reserved && int(o.offer.First) >= end && o.offer.Count > 0 {
			o.dead = true
		}
	}
}

func (m *model) done(c *modelChunk) {
	j, n := c.job, c.offer.Count
	o := Outcome{Done: n, Elapsed: int64(m.in.pick(1000)), Bytes: int64(m.in.pick(2000))}
	for range m.in.pick(6) {
		o.Elapsed *= 10
	}
	switch k := m.in.pick(8); {
	case m.calm || k > 2:
	case k == 0:
		o.Done = m.in.pick(n + 1)
	default:
		o.Done, o.Failed = m.in.pick(n+1), true
	}
	keep, ok := m.s.Done(c.id, o)
	m.check(ok, "answer refused")
	m.drop(c)
	if c.dead {
		m.check(!keep, "results of a cancelled job kept")
		return
	}
	failed := o.Failed && o.Done < n
	j.results(c, o.Done)
	ran, want := o.Done, o.Done > 0
	if failed {
		ran++
		if t := &j.tasks[int(c.offer.First)+o.Done]; t.charged >= j.spec.Retries {
			t.state, want = tFailed, true
		} else {
			j.wait(c, o.Done, ran, func(t *modelTask) { t.charged++; t.alone, t.strikes = true, 0 })
		}
	}
	j.wait(c, ran, n, func(t *modelTask) { t.strikes = 0 })
	m.check(keep == want, "keep is %v with %+v", keep, o)
}

func (j *modelJob) results(c *modelChunk, n int) {
	for i := range n {
		j.tasks[int(c.offer.First)+i].state = tResult
	}
}

func (m *model) lose(c *modelChunk) {
	j, n := c.job, c.offer.Count
	m.tags++
	l := Loss{Safe: m.in.pick(n + 1), Running: m.in.pick(n+2) - 1, Block: m.in.pick(n + 2), Tag: m.tags}
	if m.in.pick(3) == 0 {
		l.Safe, l.Running = 0, -1
	}
	if m.in.pick(3) == 0 {
		l.Block = 1
	}
	keep, ok := m.s.Lost(c.id, l)
	m.check(ok, "loss refused")
	m.drop(c)
	if c.dead {
		m.check(!keep, "results of a cancelled job kept")
		return
	}
	m.check(keep == (l.Safe > 0), "keep is %v with %+v", keep, l)
	j.results(c, l.Safe)
	var suspects []int
	for i := max(l.Running, l.Safe); l.Running >= 0 && i < min(n, l.Running+max(l.Block, 1)); i++ {
		suspects = append(suspects, i)
	}
	strikes := j.tasks[c.offer.First].strikes
	j.wait(c, l.Safe, n, func(t *modelTask) { t.strikes = 0 })
	charge := func(i int) {
		t := &j.tasks[int(c.offer.First)+i]
		if t.charged >= j.spec.Retries {
			t.state, t.tag, t.chunk = tLost, l.Tag, c.id
		} else {
			j.wait(c, i, i+1, func(t *modelTask) { t.charged++; t.alone, t.strikes = true, 0 })
		}
	}
	switch {
	case len(suspects) == 1:
		charge(suspects[0])
	case len(suspects) > 1:
		j.wait(c, suspects[0], suspects[len(suspects)-1]+1, func(t *modelTask) { t.alone = true })
	case l.Safe == 0: // nobody to blame
		strikes := strikes + 1
		if n == 1 && strikes >= strikesCharge {
			charge(0)
			return
		}
		j.wait(c, 0, n, func(t *modelTask) {
			t.strikes = min(strikes, strikesCharge)
			t.alone = t.alone || strikes >= strikesSplit
		})
	}
}

func (m *model) requeue(c *modelChunk) {
	split := m.in.pick(2) == 0
	m.check(m.s.Requeue(c.id, split), "requeue refused")
	m.drop(c)
	if !c.dead {
		c.job.wait(c, 0, c.offer.Count, func(t *modelTask) { t.alone = t.alone || split })
	}
}
