package dispatch

import "fmt"

// JobSpec describes one job: one map, or one stream of tasks.
type JobSpec struct {
	Tasks    int64  // how many, or Unknown for a source that ends when it ends
	Func     uint32 // key under which the task time is remembered between jobs; 0: do not remember
	Chunk    int    // explicit chunk size, obeyed literally; 0: adaptive
	Retries  int    // how often one task may fail or lose its worker and be tried again
	Ordered  bool   // deliver in input order, else as answers come
	Lazy     bool   // bound how far intake runs ahead of delivery
	Timed    bool   // a limit per task is in force: the worker looks at the clock after each task
	MaxTasks int    // most tasks per chunk, explicit ones included; 0: no limit
	Depth    int    // most chunks reserved or in flight at once; 0: as many as keep the workers busy, and never more than those
}

type job struct {
	id   JobID
	at   int32 // own index in Scheduler.jobs
	spec JobSpec

	tasks   int64 // how many, Unknown until the source is drained
	fresh   int64 // first task never offered
	sent    int64 // end of the highest range ever submitted
	waiting int64 // tasks in queue
	handed  int64 // tasks delivered

	head, tail     int32 // all chunks but the delivered ones, sorted by first task
	ready, readyTo int32 // answered chunks in order of arrival, for unordered delivery
	queue          []int32

	holding int32 // reserved chunks
	flying  int32 // submitted chunks without an answer, cancelled ones included
	pending int32 // answered chunks not delivered
	bytes   int64 // result bytes in them

	time  *taskTime
	local taskTime // stands in for the table when spec.Func is 0
	own   jobTime

	encoded      int64   // tasks submitted
	encodedBytes int64   // and what they took
	predicted    float64 // ns, when the whole job goes to one worker
	short        bool    // it does
	cancelled    bool
}

// Begin starts a job and returns its id. Nothing is offered before the first call of Offer. It panics on a spec with
// a negative number (Unknown tasks apart): that is a bug of the caller's.
func (s *Scheduler) Begin(spec JobSpec) JobID {
	if spec.Tasks < Unknown || spec.Chunk < 0 || spec.Retries < 0 || spec.MaxTasks < 0 || spec.Depth < 0 {
		panic(fmt.Sprintf("dispatch: job spec with a negative number: %+v", spec))
	}
	j := s.newJob()
	s.lastJob++
	queue, at := j.queue[:0], j.at
	*j = job{id: s.lastJob, at: at, spec: spec, tasks: spec.Tasks, queue: queue,
		head: none, tail: none, ready: none, readyTo: none}
	j.time = &j.local
	if spec.Func != 0 {
		j.time = s.times.get(spec.Func)
	}
	s.startShort(j)
	s.byID[j.id] = j
	s.recent = j
	s.counters.Jobs++
	return j.id
}

func (s *Scheduler) newJob() *job {
	if n := len(s.idle); n > 0 {
		j := s.jobs[s.idle[n-1]]
		s.idle = s.idle[:n-1]
		return j
	}
	j := &job{at: int32(len(s.jobs))}
	s.jobs = append(s.jobs, j)
	return j
}

// Finished reports that nothing more will be delivered: every task has been, or the job was cancelled or has ended.
func (s *Scheduler) Finished(id JobID) bool {
	j := s.job(id)
	return j == nil || j.cancelled || j.handed == j.tasks
}

// InFlight is the number of chunks submitted and not answered yet, 0 for a job that has ended. After Cancel it tells
// how many answers are still to come.
func (s *Scheduler) InFlight(id JobID) int {
	if j := s.job(id); j != nil {
		return int(j.flying)
	}
	return 0
}

// Outstanding calls visit for each chunk of the job whose payload its owner still looks after. With posted, the chunk
// is in flight: its tasks may be marked as not worth running. Without, it has been answered and waits for delivery,
// which it will not get once the job is cancelled: the owner then frees the payload. So call it before Cancel or End.
// visit must not call the Scheduler. Cost: O(chunks of the job).
func (s *Scheduler) Outstanding(id JobID, visit func(chunk ChunkID, posted bool)) {
	j := s.job(id)
	if j == nil {
		return
	}
	for i := j.head; i != none; {
		c := s.chunks.at(i)
		switch c.state {
		case flying, orphan:
			visit(makeChunkID(i, c.gen), true)
		case answered:
			visit(makeChunkID(i, c.gen), false)
		}
		i = c.next
	}
}

// Cancel gives a job up: queued tasks and undelivered results are dropped, Offer and Deliver say no from now on. Chunks
// in flight are remembered until they answer, when Done and Lost return keep=false; Submit of a reserved chunk returns
// false. Chunks already delivered still wait for Release. Cost: O(chunks of the job).
func (s *Scheduler) Cancel(id JobID) {
	j := s.job(id)
	if j == nil || j.cancelled {
		return
	}
	j.cancelled = true
	j.queue = j.queue[:0]
	j.ready, j.readyTo = none, none
	for i := j.head; i != none; {
		c := s.chunks.at(i)
		next := c.next
		switch c.state {
		case flying:
			c.state = orphan
		case reserved:
			s.unlink(j, c)
			c.state, c.job = void, none
		default: // queued, answered, vanished
			s.unlink(j, c)
			s.chunks.put(i, c)
		}
		i = next
	}
}

// End forgets a job; one that is not finished is cancelled first. Its id is refused from now on. Answers to chunks that
// are still in flight return keep=false.
func (s *Scheduler) End(id JobID) {
	j := s.job(id)
	if j == nil {
		return
	}
	s.Cancel(id)
	for i := j.head; i != none; { // only orphans are left
		c := s.chunks.at(i)
		c.job = none
		i = c.next
	}
	delete(s.byID, id)
	j.time.remember(j.own)
	j.id = 0
	j.time = nil
	s.recent = nil
	s.idle = append(s.idle, j.at)
}
