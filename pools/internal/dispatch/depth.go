package dispatch

import (
	"math"
	"time"
)

const (
	// Short chunks are kept in flight for this long, so that neither the workers nor the owner go to sleep between two
	// of them: with chunks of one tiny task most of the cost of a chunk is waking somebody up.
	defaultDeepTime = 500 * time.Microsecond
	// But no more than this many: twice what a caller's exchange area can list at once, for it is refilled when half have come back. With 64
	// in flight workers ran dry in between (chunks of one tiny task, 2 workers: 7.5 us per task, 6.7 with 128, no less with 256).
	defaultDeepMost = 128
)

// Depth is how many chunks of a job may be in flight, 0 for a job that has ended. An owner who refills only when half
// of them have come back encodes several chunks per look and never lets the workers run dry.
func (s *Scheduler) Depth(id JobID) int {
	if j := s.job(id); j != nil {
		return int(s.depthOf(j))
	}
	return 0
}

func (s *Scheduler) depthOf(j *job) int32 {
	if j.spec.Depth > 0 {
		return min(s.usualDepth(j), int32(min(j.spec.Depth, math.MaxInt32)))
	}
	return s.usualDepth(j)
}

// usualDepth is larger for chunks whose size the user fixed and whose tasks are known to be short.
func (s *Scheduler) usualDepth(j *job) int32 {
	if j.spec.Chunk == 0 || !j.time.known {
		return s.depth
	}
	chunk := j.time.mean * float64(j.spec.Chunk)
	if chunk*float64(s.depth) >= float64(s.cfg.DeepTime) {
		return s.depth
	}
	return max(s.depth, min(int32(float64(s.cfg.DeepTime)/max(chunk, 1)), int32(s.cfg.DeepMost)))
}
