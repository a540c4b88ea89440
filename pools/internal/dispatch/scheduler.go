package dispatch

// Scheduler holds all jobs and chunks of one pool. It is not safe for concurrent use: its owner serialises the calls.
type Scheduler struct {
	cfg     Config
	workers int
	depth   int32 // most chunks per job that are reserved or flying

	chunks slab
	times  timeTable

	byID    map[JobID]*job
	jobs    []*job  // by job.at, which chunks refer to
	idle    []int32 // entries of jobs free for reuse
	recent  *job    // the job of the latest call: nearly always the job of the next
	lastJob JobID

	counters Counters
}

// New returns a Scheduler without jobs.
func New(c Config) *Scheduler {
	s := &Scheduler{cfg: c.withDefaults(), byID: make(map[JobID]*job), lastJob: c.FirstJob}
	s.chunks.free, s.chunks.first, s.chunks.last = none, c.FirstGeneration, c.FirstGeneration
	s.SetWorkers(c.Workers)
	return s
}

// Marks are the highest job id and generation given out so far, for the FirstJob and FirstGeneration of a successor.
func (s *Scheduler) Marks() (JobID, uint32) { return s.lastJob, s.chunks.last }

// SetWorkers changes how many workers are reckoned with from now on; less than 1 counts as 1, so that a pool whose
// workers all died still has chunks ready for their successors.
func (s *Scheduler) SetWorkers(n int) {
	s.workers = max(n, 1)
	depth := s.cfg.Depth
	if depth <= 0 {
		depth = s.workers + min(queuedPerWorker*s.workers, queuedMost)
	}
	s.depth = int32(min(depth, maxCount))
}

// job finds a job by its id, nil when there is none or no longer.
func (s *Scheduler) job(id JobID) *job {
	if j := s.recent; j != nil && j.id == id {
		return j
	}
	j := s.byID[id]
	if j != nil {
		s.recent = j
	}
	return j
}

// Counters are totals since New, plus the present number of chunks in flight.
type Counters struct {
	Jobs     uint64 // begun
	Tasks    uint64 // delivered, failed and lost ones included
	Chunks   uint64 // submitted
	Failed   uint64 // tasks delivered as failed
	Lost     uint64 // tasks delivered as lost
	Deaths   uint64 // chunks reported lost with their worker
	Retries  uint64 // tasks offered again after being charged with a failure or a death
	Requeued uint64 // tasks offered again without a charge
	Stale    uint64 // answers refused because their chunk id was no longer valid
	BytesIn  uint64 // encoded tasks submitted
	BytesOut uint64 // results answered
	Busy     int64  // nanoseconds that workers reported
	InFlight int    // chunks submitted and not answered, those of cancelled and ended jobs included
}

// Counters returns a copy of the totals.
func (s *Scheduler) Counters() Counters { return s.counters }
