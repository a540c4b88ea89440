package dispatch

// Depth is how many chunks of a job may be in flight, 0 for a job that has ended. An owner who refills only when half
// of them have come back encodes several chunks per look and never lets the workers run dry.
func (s *Scheduler) Depth(id JobID) int {
	if s.job(id) == nil {
		return 0
	}
	return int(s.depth)
}
