package dispatch

// Shrink tells that the worker of a chunk in flight will start none but its first n tasks, and offers the others again,
// without a charge. It is for tasks that wait behind a long one while other workers idle. The owner must be sure: a
// result beyond n that comes all the same is ignored, and its task runs twice. It returns false, and changes nothing,
// when n leaves nothing to take, is below 1, or the chunk is not in flight for a living job.
func (s *Scheduler) Shrink(id ChunkID, n int) bool {
	i, c := s.chunks.find(id)
	if c == nil || c.state != flying || n < 1 || n >= int(c.count) {
		return false
	}
	rest := c.count - int32(n)
	c.count = int32(n)
	s.counters.Requeued += uint64(rest)
	s.requeueAfter(s.jobs[c.job], i, c.first+int64(n), rest, c.attempt, c.alone)
	return true
}
