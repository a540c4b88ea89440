package dispatch

import "time"

// Config tunes a Scheduler. The zero value of every field but Workers means the default.
type Config struct {
	// Workers is how many workers drain the chunks. SetWorkers changes it later; less than 1 counts as 1.
	Workers int
	// Depth is the most chunks of one job that are reserved or in flight, default Workers + min(2*Workers, 32).
	Depth int
	// DeepTime is how much work is kept in flight, however many chunks that takes, where their size was fixed by the user and is
	// short; default 500us. DeepMost is the most such chunks, default 128.
	DeepTime time.Duration
	DeepMost int
	// Target is the run time aimed at for one chunk, default 300us.
	Target time.Duration
	// LongTarget replaces Target while much work is left, default 2.4ms.
	LongTarget time.Duration
	// FanOut is the expected run time of a whole job below which only one worker is woken, default 100us.
	FanOut time.Duration
	// ChunkBytes is the most encoded bytes aimed at per chunk, default 4 MiB.
	ChunkBytes int64
	// FirstBytes is the same while the task time is unknown, default 256 KiB.
	FirstBytes int64
	// WindowChunks is, per worker, how many undelivered chunks a Lazy job may have, default 64.
	WindowChunks int
	// FirstJob and FirstGeneration let ids go on where those of an earlier Scheduler ended (see Marks): who still answers that
	// one must not be mistaken for somebody who answers this one.
	FirstJob        JobID
	FirstGeneration uint32
	// WindowBytes is how many undelivered result bytes a Lazy job may have, default 256 MiB.
	WindowBytes int64
}

const (
	// One hand-over costs about 10us end to end, so 300us of work per chunk keeps the overhead near 3 % and still lets
	// uneven tasks spread. Set by hand in the prototype; the simulation in this package confirms it.
	defaultTarget = 300 * time.Microsecond
	// While there is plenty left, balance is not at stake and fewer, longer chunks cost less.
	defaultLongTarget = 2400 * time.Microsecond
	// Below it one worker was faster on virtual machines, where waking a thread on an idle CPU takes 40 to 60us: a second worker paid from 120
	// to 150us on. Where it takes 5us, two pay from 30us on, and the map of 100us that is lost is 1.5 times as long.
	defaultFanOut = 100 * time.Microsecond
	// Larger chunks leave the caches and hold back the overlap of encoding with running. Guessed.
	defaultChunkBytes = 4 << 20
	// As long as nobody knows whether a task takes a microsecond or an hour, the first answer should come soon. Guessed.
	defaultFirstBytes = 256 << 10
	// Bounds how far an imap runs ahead of its consumer. Guessed.
	defaultWindowChunks = 64
	defaultWindowBytes  = 256 << 20
	// Chunks waiting in the shared queue beyond one per worker: enough to hide the hand-over, few enough to keep the
	// queue pipe from filling and late cancellation cheap.
	queuedPerWorker = 2
	queuedMost      = 32
)

func (c Config) withDefaults() Config {
	if c.Target <= 0 {
		c.Target = defaultTarget
	}
	if c.LongTarget <= 0 {
		c.LongTarget = defaultLongTarget
	}
	if c.DeepTime <= 0 {
		c.DeepTime = defaultDeepTime
	}
	if c.DeepMost <= 0 {
		c.DeepMost = defaultDeepMost
	}
	if c.FanOut <= 0 {
		c.FanOut = defaultFanOut
	}
	if c.ChunkBytes <= 0 {
		c.ChunkBytes = defaultChunkBytes
	}
	if c.FirstBytes <= 0 {
		c.FirstBytes = defaultFirstBytes
	}
	if c.WindowChunks <= 0 {
		c.WindowChunks = defaultWindowChunks
	}
	if c.WindowBytes <= 0 {
		c.WindowBytes = defaultWindowBytes
	}
	return c
}
