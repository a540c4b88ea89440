package process

// Where everything lies in the arena. Workers in other languages rely on these numbers: docs/PROTOCOL.md
// repeats them and a test compares the two, so a change here is a change of protocol version.
const (
	PageSize = 4096

	// Control page (offset 0).
	ControlMagic    = 0x414e455241475753 // "SWGARENA", little endian
	ControlVersion  = 1
	CtlMagic        = 0  // u64
	CtlVersion      = 8  // u32
	CtlWorkers      = 12 // u32
	CtlLength       = 16 // u64 bytes of the whole arena
	CtlCells        = 24 // u64 offset of the first worker cell
	CtlCellSize     = 32 // u64
	CtlHeaps        = 40 // u64 offset of the first worker heap
	CtlHeapSize     = 48 // u64 bytes per worker heap
	CtlPorts        = 56 // u64 offset of the first port
	CtlPortSize     = 64 // u64
	CtlPortCount    = 72 // u64
	CtlSetup        = 80 // u64 offset of the set-up BLOB frame for started workers, 0 none
	CtlGate         = 96 // u64 the latest broadcast that has ended: its parked workers go on
	CtlMaxTasks     = 88 // u64 tasks after which a worker retires, 0 never
	controlPageSize = PageSize

	// Worker cell: written by its worker alone, read by the engine. 256 bytes keep neighbours out of
	// each other's cache lines (and out of the adjacent-line prefetcher's pairs).
	CellSize     = 256
	CellPid      = 0  // u64
	CellClaim    = 8  // u64 chunk held, 0 none
	CellStarted  = 16 // u64 CLOCK_MONOTONIC nanoseconds when the running block began; written before the next two
	CellRunning  = 24 // u64 index in the chunk of the first task of that block
	CellBlock    = 32 // u64 tasks in that block; 0: tasks are being read, none runs yet
	CellTasks    = 40 // u64 tasks run
	CellChunks   = 48 // u64 chunks answered
	CellBusy     = 56 // u64 nanoseconds inside tasks
	CellHeapTop  = 64 // u64 end of the used part of the worker's heap (arena offset)
	CellError    = 72 // u64 arena offset of the frame that tells why the start failed
	CellFloor    = 80 // u64 oldest job whose blobs the worker still maps, 0 none
	CellExitWant = 96 // u64 set by the worker before it leaves on purpose (retired)

	// Slot: a reply block, then the TASKS frame.
	SlotReply      = 0
	ReplyDone      = 0  // u32 tasks whose results are written
	ReplyStatus    = 4  // u32 Status...
	ReplyElapsed   = 8  // u64 ns
	ReplySegments  = 16 // u64 offset of the first RESULTS frame, 0 none
	ReplyWorker    = 24 // u32 index of the worker
	ReplyCancel    = 28 // u32 set by the master: stop at the next look
	ReplyBytes     = 32 // u64 bytes of results
	ReplyPinned    = 40 // u32 1: views of the tasks outlive the chunk; the worker resets it
	ReplyReading   = 44 // u32 of that elapsed time, ns for rebuilding the tasks; 0: not worth telling
	ReplyLimit     = 48 // u64 ns per task, 0 none: where the worker itself has to watch the time
	ReplyCapacity  = 56 // u64 bytes of the whole slot, written by the master
	SlotFrame      = 64 // the TASKS frame starts here
	MinSlot        = 16 << 10
	HeapBlockHead  = 64 // bytes before the data of a heap block: u64 size, u32 state
	HeapBlockState = 8  // u32 1 in use (set by the worker), 0 free (set by the reader)
)

// Status of an answered chunk.
const (
	StatusRunning    = 0
	StatusComplete   = 1
	StatusStopped    = 2 // budget used up, cancelled or worker about to retire: the rest was not started
	StatusFailed     = 3 // task number Done raised; its error record follows the results
	StatusUnreadable = 4 // the tasks could not be read back; an error record says why
	StatusNoFunction = 5 // the function could not be read back; an error record says why
)

// Ports: exchange areas between one caller thread and the engine, in 8-byte words.
const (
	PortSize   = 16 << 10
	PortCount  = 256
	PortEvents = 64 // first word of the events
	EventWords = 8
	MaxEvents  = 96
	PortOffers = PortEvents + MaxEvents*EventWords
	OfferWords = 8
	MaxOffers  = 64
	PortParams = PortOffers + MaxOffers*OfferWords // arguments of begin
	PortNeeds  = 8                                 // first word of the list of workers to start
	MaxNeeds   = 48
)
