"""The worker: read a record, run the chunk it names, answer; again.

It runs on the standard library alone and never calls the engine: a forked child inherits a Go runtime that does not
live there. docs/PROTOCOL.md specifies what happens here, so that a worker can be written in any language.

Order matters for what a death leaves behind. The claim is stored before anything of the chunk is looked at, the running
block before it runs, the results before the count that makes them valid: whenever the process dies, the engine
finds in shared memory which task ran and which results are safe.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import fcntl
import mmap
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from itertools import islice, starmap
from time import monotonic_ns, sleep
from typing import Any, Final, NoReturn

from . import _errors, _payload
from . import _layout as L
from ._awake import LONG_NS, SHORT_NS, Awake
from ._maps import Mappings
from ._reply import Chunk, Heap

# Results are written out when this much time has passed since the last time: what a crash can cost is the work of
# 100 us, and the writing (some 2 us) stays below 2 % of it.
FLUSH_NS: Final = 100_000
# Where writing takes longer (objects that pickle slowly: 60 us for one result of dynesty's, 30 for each in eight), the next time comes
# later, so that it stays as rare; but a crash costs no more than this.
FLUSH_COST: Final = 50
FLUSH_MOST_NS: Final = 1_000_000
FLUSH_BYTES: Final = 64 << 10  # so many at a time are written at once: they are in the caches, and memory stays small
SHORT_BLOCK_NS: Final = 20_000
READING_NS: Final = 5_000  # tasks that are rebuilt in less are no reason for longer chunks
LOOK_NS: Final = 1_000_000  # between two looks for messages: a look costs about a microsecond
_UNUSUAL: Final = L.UNPACK_STAR | L.UNPACK_APPLY | L.SOME_UNSENT | L.TIMED | L.PLAIN


class Channel:
    """What connects a worker to its pool.

    Parameters
    ----------
    index : int
        Place of the worker in the pool, from 0.
    arena : memoryview
        The shared memory, format ``B``.
    fds : sequence of int
        Descriptors: work, answer, life, arena.
    """

    def __init__(self, index: int, arena: memoryview, fds: Sequence[int]) -> None:
        self.index = index
        self.arena = arena
        self.work, self.answer, self.life, self.memory = fds
        cells, size = (L.WORD.unpack_from(arena, at)[0] for at in (L.CTL_CELLS, L.CTL_CELL_SIZE))
        self.cell: int = cells + index * size
        self.max_tasks: int = L.WORD.unpack_from(arena, L.CTL_MAX_TASKS)[0]

    def tell(self, slot: int, generation: int) -> None:
        """The reply in a slot is complete."""
        os.write(self.answer, L.RECORD.pack(slot >> L.PAGE_SHIFT, generation))

    def control(self, code: int) -> None:
        """Tell the master what happens to this worker."""
        os.write(self.answer, L.RECORD.pack(0, code << 24 | self.index))

    def setup(self) -> bytes | None:
        """What a worker that was started as a fresh program reads first."""
        at: int = L.WORD.unpack_from(self.arena, L.CTL_SETUP)[0]
        if not at:
            return None
        nbytes: int = L.FRAME.unpack_from(self.arena, at)[10]
        return bytes(self.arena[at + L.FRAME_SIZE : at + L.FRAME_SIZE + nbytes])


class Functions:
    """The function of the job at hand, and the large buffers that it and the tasks share.

    Rebuilt for each job, from private mappings of the stored bytes: what a task of one map changed in the function's
    state is not seen by the next map. Within one map a worker's tasks share one copy.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.job = self.serial = 0
        self.func: Any = None
        self.stateless = False  # the function is a plain reference, which no task can have changed
        self.maps = Mappings(channel.memory)

    def get(self, job: int, serial: int, at: int, flags: int) -> Callable[..., Any]:
        """The function of a job."""
        if serial == self.serial and (job == self.job or flags & L.STATELESS):
            return self.func  # type: ignore[no-any-return]
        self.enter(job)
        self.serial = 0
        self.func = None
        self.stateless = bool(flags & L.STATELESS)
        arena = self.channel.arena
        frame = L.FRAME.unpack_from(arena, at)
        nbuf, nbytes = frame[4], frame[10]
        table = at + L.FRAME_SIZE
        buffers = [self.buffer(*L.TABLE.unpack_from(arena, table + 16 * i)) for i in range(nbuf)]
        start = table + 16 * nbuf
        func = _payload.decode(frame[2], arena[start : start + nbytes], buffers)
        if frame[2] == L.MSGPACK:
            from . import _foreign

            func = _foreign.function(*func)
        self.func = func[1] if type(func) is tuple else func  # preceded by a sys.path that differs from ours
        self.serial = serial
        return self.func  # type: ignore[no-any-return]

    def enter(self, job: int) -> None:
        """Forget what belonged to an earlier job."""
        if job == self.job:
            return
        self.job = job
        if not self.stateless:
            self.func = None
            self.serial = 0
        self.maps.turn()
        if not self.maps:
            L.WORD.pack_into(self.channel.arena, self.channel.cell + L.CELL_FLOOR, 0)

    def buffer(self, at: int, nbytes: int) -> memoryview:
        """A private, writable view of shared bytes: changes stay in this worker and end with the job."""
        if not self.maps:
            L.WORD.pack_into(self.channel.arena, self.channel.cell + L.CELL_FLOOR, self.job)
        return self.maps.get(at, nbytes)


def serve(worker: Worker) -> NoReturn:
    """Run chunks until the master closes the queue, then leave the process."""
    work_off(worker)
    leave(0)


def work_off(worker: Worker) -> None:
    """Run chunks until the master closes the queue."""
    channel = worker.channel
    channel.control(L.HELLO)
    read, work, awake = os.read, channel.work, Awake(channel.work)
    gap = ended = 0
    while True:
        if SHORT_NS < gap < LONG_NS:
            awake.wait(gap)
        record = read(work, 8)
        if len(record) < 8:
            return
        gap = monotonic_ns() - ended
        page, generation = L.RECORD.unpack(record)
        worker.run(page << L.PAGE_SHIFT, generation)
        ended = monotonic_ns()


class Worker:
    """State of a worker between chunks.

    Parameters
    ----------
    channel : Channel
    here : bool
        It works in this process. False: in one that is to be forked, and then looks for its streams there.

    Attributes
    ----------
    reply : type
        Where the results of a chunk go.
    describe, failed : callable
        What is kept of a task's exception, and what stands in its place among the results.
    """

    reply: type[Chunk] = Chunk
    describe: Callable[[BaseException], Any] = staticmethod(_errors.make_record)
    failed: Callable[[Any], Any] = _errors.Failed

    def __init__(self, channel: Channel, here: bool = True) -> None:
        self.channel = channel
        self.arena = channel.arena
        self.claim_at = channel.cell + L.CELL_CLAIM
        self.heap = Heap(channel)
        self.functions = Functions(channel)
        self.tasks = self.chunks = self.busy = 0
        self.writing = (0, FLUSH_NS)  # a function's serial, and the time between two writings of its results
        self.look: Callable[[], None] | None = None  # where nobody else sets the cancel word while a chunk runs
        self.limits = False  # nobody else ends a task that takes too long
        self.pinned: list[tuple[int, list[Any]]] = []
        self.out = self.streams() if here else []

    def streams(self) -> list[Any]:
        """What a task prints must not wait for the worker's end: line by line where the stream can do that, else it is flushed
        after each chunk. Those that are to be flushed."""
        return [s for s in (sys.stdout, sys.stderr) if s is not None and not _line_buffered(s)]

    def run(self, slot: int, generation: int) -> None:
        """Run one chunk and answer."""
        arena = self.arena
        (cancel, room, magic, _, kind, flags, nbuf, job, chunk, first, count, block, nbytes, serial, budget, free, _, blob) = (
            L.HEAD.unpack_from(arena, slot)
        )
        if chunk >> 32 != generation or magic != L.MAGIC:
            return  # the slot belongs to another chunk by now: nobody waits for this one
        L.CLAIM.pack_into(arena, self.claim_at, chunk, 0, 0, 0)
        began = monotonic_ns()
        functions = self.functions
        end = free or (slot + L.SLOT_DATA + 16 * nbuf + nbytes + 63) & -64
        done = self.reply(arena, self.heap, slot, slot + room, job, first, count, end)
        anchors: list[Any] = []
        if cancel:
            status = L.STOPPED
        elif (
            kind or nbuf or flags & _UNUSUAL or block < count or self.channel.max_tasks
            or serial != functions.serial or not (flags & L.STATELESS or job == functions.job)
        ):  # fmt: skip
            status = self._read_and_run(done, kind, flags, nbuf, nbytes, serial, blob, block, budget, anchors)
        else:  # the same function as before, small tasks, one block: most chunks of a small map
            start = slot + L.SLOT_DATA
            results: list[Any] = []
            error: BaseException | None = None
            calls: Any = None
            try:
                tasks = pickle.loads(arena[start : start + nbytes])
                reading = monotonic_ns() - began
                if reading > READING_NS:
                    self._tell_reading(slot, reading)
                calls = map(functions.func, tasks)
                results.append(next(calls))
                if not budget or monotonic_ns() - began < budget:  # else tasks have become much longer than expected
                    results.extend(calls)
            except BaseException as raised:
                error = raised
            if error is None and len(results) == count:
                self.tasks += count
                done.put(results)
                status = L.COMPLETE
            elif calls is None:
                status = self._read_and_run(done, kind, flags, nbuf, nbytes, serial, blob, block, budget, anchors)
            else:
                if isinstance(error, StopIteration) or error is None and len(results) > 1:
                    error = RuntimeError("the task raised StopIteration")  # see _run_blocks
                elif error is None:  # the first task took long: its result is safe before the next begins
                    done.put(results)
                    results = []
                status = self._run_blocks(done, calls, flags, 1, budget, results, error)
        spent = monotonic_ns() - began
        if anchors or self.pinned:
            self._let_go(slot, anchors)
        self._answer(done, status, spent, generation, flags)

    def _read_and_run(
        self, done: Chunk, kind: int, flags: int, nbuf: int, nbytes: int, serial: int, blob: int, block: int,
        budget: int, anchors: list[Any],
    ) -> int:  # fmt: skip
        done.plain = bool(flags & L.PLAIN)
        try:
            func: Any = self.functions.get(done.job, serial, blob, flags)
        except BaseException as error:  # unpickling runs user code
            done.put_error(_errors.make_record(error, _errors.READ))
            return L.NO_FUNCTION
        began = monotonic_ns()
        try:
            tasks = self._tasks(done.slot, kind, nbuf, nbytes, done.job, anchors)
        except BaseException as error:
            done.put_error(_errors.make_record(error, _errors.READ))
            return L.UNREADABLE
        reading = monotonic_ns() - began
        if reading > READING_NS:
            self._tell_reading(done.slot, reading)
        if flags & L.TIMED and self.limits:
            func = _errors.Limited(func, L.WORD.unpack_from(self.arena, done.slot + L.REPLY_LIMIT)[0] / 1e9)
        if flags & L.SOME_UNSENT:
            calls: Any = map(_errors.Guard(func, flags), tasks)
        elif flags & L.UNPACK_STAR:
            calls = starmap(func, tasks)
        elif flags & L.UNPACK_APPLY:
            calls = (func(*args, **kwds) for args, kwds in tasks)
        else:
            calls = map(func, tasks)
        return self._run_blocks(done, calls, flags, block, budget, [], None)

    def _tasks(self, slot: int, kind: int, nbuf: int, nbytes: int, job: int, anchors: list[Any]) -> Any:
        """The tasks of a chunk. Large buffers in the slot are used in place, shared ones through private mappings."""
        arena = self.arena
        table = slot + L.SLOT_FRAME + L.FRAME_SIZE
        start = table + 16 * nbuf
        data = arena[start : start + nbytes]
        buffers: list[Any] = []
        if nbuf:
            end = slot + L.WORD.unpack_from(arena, slot + L.REPLY_CAPACITY)[0]
            for i in range(nbuf):
                at, n = L.TABLE.unpack_from(arena, table + 16 * i)
                if slot <= at < end:
                    view = _payload.anchor(arena[at : at + n])
                    if view is None:
                        view = bytearray(arena[at : at + n])
                    else:
                        anchors.append(view)
                else:
                    self.functions.enter(job)
                    view = self.functions.buffer(at, n)
                buffers.append(view)
        return _payload.decode(kind, data, buffers, anchors)

    def _tell_reading(self, slot: int, reading: int) -> None:
        """The master makes longer chunks where much is rebuilt in each."""
        L.WORD32.pack_into(self.arena, slot + L.REPLY_READING, min(reading, 0xFFFFFFFF))

    def _run_blocks(
        self, done: Chunk, calls: Any, flags: int, block: int, budget: int, results: list[Any],
        error: BaseException | None,
    ) -> int:  # fmt: skip
        """Run the tasks in blocks; between two, look at the clock and at whether anyone still wants the results. Goes on
        after `results`, and after `error` of the task behind them."""
        arena, running_at, count = self.arena, self.channel.cell + L.CELL_STARTED, done.count
        cancel_at = done.slot + L.REPLY_CANCEL
        start = flushed = looked = now = monotonic_ns()
        serial, every = self.writing
        if serial != self.functions.serial:
            every = FLUSH_NS
        look = self.look
        at = done.done + len(results)
        most = count  # tasks that this worker may still run
        if self.channel.max_tasks:
            most = min(count, max(self.channel.max_tasks - self.tasks, 1))
        while True:
            if error is None:
                n = min(block, most - at)
                L.RUNNING.pack_into(arena, running_at, now, at, n)
                want = len(results) + n
                try:
                    results.extend(calls if n == count else islice(calls, n))
                    if len(results) < want:  # map() takes a task's StopIteration for the end of the tasks; see PEP 479
                        error = RuntimeError("the task raised StopIteration")
                except BaseException as raised:
                    error = raised
            if error is None:
                at += n
            else:
                record = self.describe(error)
                error = None
                at = done.done + len(results) + 1
                if not flags & L.KEEP_GOING:
                    if results:
                        done.put(results)
                    done.put_error(record)
                    self.tasks += at
                    return L.FAILED
                results.append(self.failed(record))
                done.failing = True
            before, now = now, monotonic_ns()
            if at >= count:
                if results:
                    done.put(results)
                self.tasks += count
                return L.COMPLETE
            if look is not None and now - looked > LOOK_NS:
                looked = now
                look()
            stop = at >= most or L.WORD32.unpack_from(arena, cancel_at)[0] or budget and now - start >= budget
            if results and (stop or now - flushed >= every):
                written = done.nbytes
                done.put(results)
                results = []
                flushed = monotonic_ns()
                every = FLUSH_NS
                if done.nbytes - written < FLUSH_BYTES:
                    every = min(max(every, FLUSH_COST * (flushed - now)), FLUSH_MOST_NS)
                self.writing = self.functions.serial, every
            if stop:
                self.tasks += at
                return L.STOPPED
            if now - before < SHORT_BLOCK_NS and not flags & L.TIMED:
                block *= 2  # nobody knew how short the tasks are

    def _answer(self, done: Chunk, status: int, spent: int, generation: int, flags: int) -> None:
        arena, channel = self.arena, self.channel
        self.chunks += 1
        self.busy += spent
        L.REPLY.pack_into(arena, done.slot, done.done, status, spent, done.segments, channel.index, done.nbytes)
        park = flags & L.PARK and status in (L.COMPLETE, L.FAILED)
        retire = 0 < channel.max_tasks <= self.tasks
        if retire:
            L.WORD.pack_into(arena, channel.cell + L.CELL_EXIT, 1)
        channel.tell(done.slot, generation)
        L.IDLE.pack_into(arena, self.claim_at, 0, 0, 0, 0, self.tasks, self.chunks, self.busy)
        if retire:
            channel.control(L.RETIRED)
            leave(0)
        for stream in self.out:
            stream.flush()
        if park:
            self._park(done.job)

    def _park(self, job: int) -> None:
        """Take no other chunk of this broadcast: wait until each worker has run one. The master's death ends this, too."""
        pause = 50e-6
        while L.WORD.unpack_from(self.arena, L.CTL_GATE)[0] < job:
            sleep(pause)
            pause = min(pause * 2, 5e-3)

    def _let_go(self, slot: int, anchors: list[Any]) -> None:
        """If the user's code kept an array of the slot, the slot must not be used again before the array is gone."""
        if _in_use(anchors):
            L.WORD32.pack_into(self.arena, slot + L.REPLY_PINNED, 1)
            self.pinned.append((slot, anchors))
        still = []
        for at, kept in self.pinned:
            if _in_use(kept):
                still.append((at, kept))
            else:
                L.WORD32.pack_into(self.arena, at + L.REPLY_PINNED, 0)
        self.pinned = still


def _line_buffered(stream: Any) -> bool:
    try:
        stream.reconfigure(line_buffering=True)
    except (AttributeError, ValueError, OSError):  # not a text file, or closed
        return False
    return True


def _in_use(anchors: list[Any]) -> bool:
    """Whether anybody but this list refers to one of the objects."""
    return any(_references(anchors, i) > _UNUSED for i in range(len(anchors)))


def _references(items: list[Any], i: int) -> int:
    return sys.getrefcount(items[i])


_UNUSED: Final = _references([object()], 0)  # interpreters count their own temporary references differently


def follow_master(life: int) -> None:
    """Die when the master dies, even in the middle of a task that holds the GIL.

    The kernel sends SIGKILL when the last writing end of the lifeline goes. The signal is set on a file description of our own
    (opened anew: descriptions are shared across fork, and with them owner and signal). PR_SET_PDEATHSIG would fire
    when the *thread* that forked us ends.
    """
    own = os.open(f"/proc/self/fd/{life}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    # It may have died before we listened: then no signal will come.
    try:
        gone = os.read(own, 1) == b""
    except BlockingIOError:
        gone = False
    if gone:
        os._exit(1)


def leave(code: int) -> NoReturn:
    """End this process without the master's exit handlers, which a forked worker has inherited."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util._exit_function()  # finalizers registered in this worker, as a multiprocessing worker runs them
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code)


def start(worker: Worker, initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]) -> NoReturn:
    """Set up and serve. The initializer's failure is told to the master, which raises it on the caller."""
    # The functions of `signal` do no more than turn numbers into enums around these, which takes 0.1 ms in a fresh child.
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # Ctrl-C is the master's to handle; it ends the workers
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGINT,))  # whoever forked us held it back
    channel = worker.channel
    follow_master(channel.life)
    L.WORD.pack_into(channel.arena, channel.cell + L.CELL_PID, os.getpid())
    if initializer is not None:
        try:
            initializer(*initargs)
        except BaseException as error:
            fail_start(channel, _errors.make_record(error))
    worker.out = worker.streams()  # as the initializer has left them
    serve(worker)


def fail_start(channel: Channel, record: _errors.Record) -> NoReturn:
    """Leave word why this worker cannot serve."""
    kind, data, _ = _payload.encode_pickle(tuple(record))
    at = Heap(channel).take(L.FRAME_SIZE + len(data)) + L.HEAP_HEAD
    L.FRAME.pack_into(channel.arena, at, L.MAGIC, L.TYPE_RESULTS, L.ERROR, 0, 0, 0, 0, 0, 1, 0, len(data), 0, 0, 0, 0, 0)
    channel.arena[at + L.FRAME_SIZE : at + L.FRAME_SIZE + len(data)] = data
    L.WORD.pack_into(channel.arena, channel.cell + L.CELL_ERROR, at)
    L.WORD.pack_into(channel.arena, channel.cell + L.CELL_EXIT, 1)
    channel.control(L.INIT_FAILED)
    leave(1)


def map_arena(memory: int) -> memoryview:
    """All of a pool's shared memory. It goes with the last array that lies in it, and into no core dump: it may be larger than the disk."""
    arena = mmap.mmap(memory, 0)
    if hasattr(mmap, "MADV_DONTDUMP"):
        arena.madvise(mmap.MADV_DONTDUMP)
    return memoryview(arena).cast("B")


def main() -> NoReturn:
    """Entry of a worker that was started as a fresh program: ``python -m schwimmbad_go._worker``."""
    spec = os.environ.pop(L.WORKER_ENV, "")
    try:
        version, index, fds = spec.split(":")
        numbers = [int(fd) for fd in fds.split(",")]
        place = int(index)
    except ValueError:
        sys.exit(f"this program is a worker of schwimmbad-go; a pool starts it with {L.WORKER_ENV} set (found {spec!r})")
    if int(version) != L.ABI:
        sys.exit(f"worker protocol {L.ABI}, but the pool speaks {version}: two versions of schwimmbad-go are mixed")
    rank = os.environ.pop(L.RANK_ENV, "")
    if rank:
        _errors.rank, _errors.host = int(rank), socket.gethostname()
    for fd in numbers:
        os.set_inheritable(fd, False)
    arena = map_arena(numbers[-1])
    channel = Channel(place, arena, numbers)
    from . import _start

    _start.leave_launch()
    try:
        initializer, initargs = _start.enter(pickle.loads(channel.setup() or b"N."), place)
    except Exception as error:  # the user's initializer is being unpickled
        fail_start(channel, _errors.make_record(error, _errors.READ))
    start(Worker(channel, here=False), initializer, initargs)


if __name__ == "__main__":
    main()
