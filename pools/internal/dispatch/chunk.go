package dispatch

// none is the index of no chunk, and of no job.
const none = int32(-1)

// maxCount bounds the tasks of one chunk: frames carry the count in 32 bits, and no larger chunk is of use.
const maxCount = 1 << 30

type state uint8

const (
	unused    state = iota // in the free list
	queued                 // tasks waiting to be offered again; not a chunk yet, its id names nothing
	reserved               // offered, its owner is encoding the tasks
	flying                 // submitted, no answer yet
	answered               // its results wait for delivery
	vanished               // one lost task, without payload, waits for delivery
	delivered              // its owner is reading the results
	orphan                 // flying, but its job was cancelled
	void                   // reserved, but its job was cancelled
)

// chunk is a run of consecutive tasks in one state. It fits one cache line and holds no pointer, so that a slab of
// several hundred thousand costs the garbage collector nothing.
type chunk struct {
	first   int64
	bytes   int64 // answered: result bytes, for the window of Lazy jobs
	tag     uint64
	gen     uint32
	job     int32 // index into Scheduler.jobs, none once the job has ended
	prev    int32 // neighbours in the job's list, which is sorted by first
	next    int32
	link    int32 // next in the free list, or in the job's list of answers when delivery is unordered
	count   int32 // tasks; answered: results
	attempt int32 // charged failures so far
	strikes uint8 // deaths that could be pinned on no task
	state   state
	alone   bool // queued: offer the tasks one by one
	short   bool // the whole job in one chunk, to wake one worker only
	failed  bool // answered: an error record follows the results
	lost    bool // answered, vanished: task first+count was lost
}

const (
	pageShift = 8
	pageSize  = 1 << pageShift
)

// slab hands out chunks by index. Pages, not one slice: chunks never move, so pointers stay valid while more are taken.
type slab struct {
	pages []*[pageSize]chunk
	used  int32  // entries ever taken
	free  int32  // latest freed first: it is the one still in the cache
	first uint32 // generation before an entry's first one
	last  uint32 // highest generation given out
}

func (b *slab) at(i int32) *chunk { return &b.pages[uint32(i)>>pageShift][i&(pageSize-1)] }

func (b *slab) take() (int32, *chunk) {
	if i := b.free; i != none {
		c := b.at(i)
		b.free = c.link
		return i, c
	}
	i := b.used
	if int(i)>>pageShift == len(b.pages) {
		b.pages = append(b.pages, new([pageSize]chunk))
	}
	b.used++
	c := b.at(i)
	c.gen = b.first
	return i, c
}

func (b *slab) put(i int32, c *chunk) {
	c.state = unused
	c.link = b.free
	b.free = i
}

// find returns the chunk that id names, nil when the id is stale or was never given out.
func (b *slab) find(id ChunkID) (int32, *chunk) {
	i := id.Index()
	if i >= uint32(b.used) {
		return none, nil
	}
	c := b.at(int32(i))
	if c.gen != id.Generation() {
		return none, nil
	}
	return int32(i), c
}

// rename gives a chunk about to be offered an id that no earlier offer had.
func (b *slab) rename(i int32, c *chunk) ChunkID {
	c.gen++
	if c.gen == 0 { // 0 would make id 0, which means no chunk
		c.gen = 1
	}
	b.last = max(b.last, c.gen)
	return makeChunkID(i, c.gen)
}
