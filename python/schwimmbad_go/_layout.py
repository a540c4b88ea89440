"""Where everything lies in the shared memory, as docs/PROTOCOL.md has it.

Master and worker import this module; the Go side keeps the same numbers in ``pools/internal/process/layout.go`` and
the C header. A test compares the three.
"""

from __future__ import annotations

import struct
from typing import Final

ABI: Final = 1
MAGIC: Final = b"SWG\x01"
PAGE_SHIFT: Final = 12

# Frame header: magic, type, kind, flags, nbuf, job, chunk, first, count, block, nbytes, func, nanos, next, block_off, extra.
FRAME: Final = struct.Struct("<4sHHIIQQQIIQQQQQQ")
FRAME_SIZE: Final = 96
RESULTS: Final = struct.Struct("<6xHII32xQ16xQ")  # of that, what a reader needs first: kind, flags, nbuf, nbytes, next
TABLE: Final = struct.Struct("<QQ")  # one entry of the buffer table: offset, length
RECORD: Final = struct.Struct("<II")  # page of the slot, generation of the chunk
WORD: Final = struct.Struct("<Q")
WORD32: Final = struct.Struct("<I")

TYPE_TASKS: Final = 1
TYPE_RESULTS: Final = 2
TYPE_BLOB: Final = 3

# Payload encodings.
PICKLE: Final = 0
RANGE: Final = 1
ROWS: Final = 2
SLAB: Final = 3
FLOATS: Final = 4
NP_FLOATS: Final = 5
ERROR: Final = 6
MSGPACK: Final = 7
INTS: Final = 9
LOCAL: Final = 10  # nothing is encoded: worker and master are threads of one process

# Flags of a TASKS frame.
UNPACK_STAR: Final = 1
UNPACK_APPLY: Final = 2
KEEP_GOING: Final = 4  # a failed task's error stands in its place and the next task runs
SOME_UNSENT: Final = 16  # among the tasks stand errors for those that could not be pickled
STATELESS: Final = 8  # the function is a plain reference: no state of it can leak from job to job
TIMED: Final = 32  # a time limit per task is in force: the start of each is told
PLAIN: Final = 64  # results and error records must be readable without pickle: the master is no Python program
PARK: Final = 1 << 16  # after the answer wait until the control page says that this broadcast has ended
# Flag of a RESULTS frame.
HAS_ERRORS: Final = 1

# Slot: reply block, then the TASKS frame.
SLOT_FRAME: Final = 64
REPLY_DONE: Final = 0
REPLY_STATUS: Final = 4
REPLY_SEGMENTS: Final = 16
REPLY_CANCEL: Final = 28
REPLY_PINNED: Final = 40
REPLY_READING: Final = 44
REPLY_LIMIT: Final = 48
REPLY_CAPACITY: Final = 56
REPLY: Final = struct.Struct("<IIQQI4xQ")  # done, status, elapsed, first segment, worker, (cancel), bytes
# A slot's cancel word and capacity, then the TASKS frame: what a worker reads first, in one go.
HEAD: Final = struct.Struct("<28xI24xQ" + FRAME.format[1:])
SLOT_DATA: Final = SLOT_FRAME + FRAME_SIZE

STOPPED: Final = 2
COMPLETE: Final = 1
FAILED: Final = 3
UNREADABLE: Final = 4
NO_FUNCTION: Final = 5

# Control page.
CTL_MAGIC: Final = 0x414E455241475753
CTL_CELLS: Final = 24
CTL_CELL_SIZE: Final = 32
CTL_HEAPS: Final = 40
CTL_HEAP_SIZE: Final = 48
CTL_WORKERS: Final = 12
CTL_LENGTH: Final = 16
CTL_SETUP: Final = 80
CTL_MAX_TASKS: Final = 88
CTL_GATE: Final = 96

# Worker cell.
CELL_PID: Final = 0
CELL_CLAIM: Final = 8
CLAIM: Final = struct.Struct("<QQQQ")  # claim, started, running, block
CELL_STARTED: Final = 16
RUNNING: Final = struct.Struct("<QQQ")  # started, running, block
CELL_TASKS: Final = 40
IDLE: Final = struct.Struct("<7Q")  # claim, started, running, block, tasks, chunks, busy ns
CELL_HEAP_TOP: Final = 64
CELL_ERROR: Final = 72
CELL_FLOOR: Final = 80
CELL_EXIT: Final = 96

# Heap block: u64 size, u32 state (1 in use), data from HEAP_HEAD on.
HEAP_HEAD: Final = 64
HEAP_STATE: Final = 8

# Control records (page 0): code << 24 | worker.
HELLO: Final = 1
RETIRED: Final = 2
INIT_FAILED: Final = 3
LEFT: Final = 4  # of a worker that is a thread: no descriptor tells of its end

# Words of a port.
W_EVENTS: Final = 0
W_OFFERS: Final = 1
W_NEEDS: Final = 2
W_CODE: Final = 3
W_ERROR: Final = 4
W_NEED: Final = 8
W_EVENT: Final = 64
EVENT_WORDS: Final = 8
W_OFFER: Final = 832
OFFER_WORDS: Final = 8
W_PARAM: Final = 1344
W_LAST: Final = 1359
PORT_SIZE: Final = 16384

EVENT_FAILED: Final = 1
EVENT_LOST: Final = 2
EVENT_TASKS: Final = 4
EVENT_FUNC: Final = 8
EVENT_TIMEOUT: Final = 16
EVENT_EXIT: Final = 32

EXTERNAL_BIT: Final = 63
EXTERNAL: Final = 1 << EXTERNAL_BIT  # in a buffer table: the rest is an address in this process

JOB_ORDERED: Final = 1
JOB_LAZY: Final = 2
JOB_BROADCAST: Final = 4
JOB_DEPTH: Final = 8

WAIT_NONE: Final = 0
WAIT_ANY: Final = 1
WAIT_BATCH: Final = 2
WAIT_KICK: Final = 3
WAIT_HOLD: Final = 4

FOUND_EVENTS: Final = 1
FOUND_OFFERS: Final = 2
FOUND_NEEDS: Final = 4
FOUND_IDLE: Final = 8
FOUND_RESUME: Final = 16
FOUND_KICKED: Final = 32

# What a serving rank finds.
RANK_CHUNK: Final = 1
RANK_OPEN: Final = 2
RANK_CLOSE: Final = 3
RANK_EXIT: Final = 4
RANK_NEEDS: Final = 5
RANK_RESUME: Final = 6

THREAD: Final = -1  # in place of a pid

WORKER_ENV: Final = "SCHWIMMBAD_GO_WORKER"
RANK_ENV: Final = "SCHWIMMBAD_GO_RANK"  # the MPI rank beside which a worker was started, if any
