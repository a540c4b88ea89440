"""A job: one call of the user's on its way through the engine.

``begin`` tells the engine what is wanted; from then on the engine offers chunks to encode and lists results to decode.
The caller's thread does both, between two waits. `collect`, `stream` and the background thread of `_pump` are three
ways to turn this same crank.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from . import _errors, _payload, _salvage
from . import _layout as L
from . import error as _error
from ._call import APPLY, STAR, Call
from ._engine import INIT, START, TERMINATED, Port
from ._functions import with_path
from ._payload import SCALARS, Encoded
from ._source import Drawn, source_of

if TYPE_CHECKING:
    from ._runner import Runner

_PARAMS: Final = struct.Struct("<10q")
EVENT: Final = struct.Struct("<8q")
_UNPACK: Final = {0: 0, STAR: L.UNPACK_STAR, APPLY: L.UNPACK_APPLY}
_BIG_CHUNK: Final = 16 << 10  # post at once: the workers can begin while the next chunk is encoded
_AHEAD: Final = 8  # tasks looked at for buffers that come again
_DATA: Final = L.SLOT_DATA


class Job:
    """One call under way on a port."""

    __slots__ = ("by_value", "call", "delivered", "func", "held", "id", "in_place", "looks", "port", "runner", "source", "static")

    def __init__(self, runner: Runner, call: Call, port: Port, static: bool) -> None:
        self.runner = runner
        self.call = call
        self.port = port
        self.source = source_of(call.tasks)
        self.static = static  # none of the user's code runs here between two chunks
        self.by_value = False
        # Large buffers are sent from where they lie, not from a copy: the tasks stay as they are, and so does their memory.
        self.in_place = runner.sends_in_place and static and type(call.tasks) in (list, tuple)
        self.held: dict[int, list[memoryview]] = {}  # by chunk, until its answer
        self.id = 0
        self.looks = 2  # at the tasks behind a chunk with large buffers
        self.delivered = 0  # counted by the background thread, which runs many jobs on one port

    def begin(self, job_flags: int = 0) -> None:
        """Tell the engine; the first offers are listed when this returns."""
        call, runner, port = self.call, self.runner, self.port
        encoded = call.function or runner.encode_function(call.func)
        flags = _UNPACK[call.unpack]
        if call.return_exceptions:
            flags |= L.KEEP_GOING if call.retries == 0 else 0
        if call.timeout is not None:
            flags |= L.TIMED
        if call.ordered:
            job_flags |= L.JOB_ORDERED
        if call.lazy:
            job_flags |= L.JOB_LAZY
        if call.ahead is not None:
            job_flags |= L.JOB_DEPTH
        with runner.lock:  # until the job is known, nothing protects the stored function from being dropped
            func, stateless, time_key = runner.function(call.func, encoded)
            self.func = func
            if stateless or call.stateless:
                flags |= L.STATELESS
            _PARAMS.pack_into(
                runner.arena, port.at + 8 * L.W_PARAM, self.source.n, time_key, call.chunksize or 0, call.retries, job_flags,
                0 if call.timeout is None else max(int(call.timeout * 1e9), 1), flags, func.serial, func.at,
                call.ahead or 0,
            )  # fmt: skip
            self.id = port.begin(port.handle)
            if self.id > 0:
                runner.blobs.begun(self.id)
        if self.id < 0:
            code, self.id = self.id, 0
            runner.raise_code(port, code)

    # ---- encoding ------------------------------------------------------------------------------------------

    def encode(self, k: int) -> bool:
        """Encode the tasks of offer k into its slot; whether the chunk is big enough to be posted at once."""
        port, arena = self.port, self.runner.arena
        _, chunk, slot, room, first, count, tag, _ = EVENT.unpack_from(arena, port.at + 8 * (L.W_OFFER + L.OFFER_WORDS * k))
        source = self.source
        words = None if count < _payload.LONG_LIST or self.by_value else source.words(first, count)
        large: list[memoryview] = []
        if words is not None:
            n, (kind, data) = count, words
        else:
            tasks = source.take(first, count, bool(tag & 1))
            n = len(tasks)
            if type(tasks) is list and n == count and type(tasks[0]) in SCALARS and not self.by_value:
                try:
                    data = pickle.dumps(tasks, 5)
                except Exception:  # below it is found out which task it is
                    data = b"__main__"
                size = len(data)
                if size + _DATA <= room and b"__main__" not in data:  # most chunks of a small map
                    start = slot + _DATA
                    arena[start : start + size] = data
                    L.WORD.pack_into(arena, slot + L.SLOT_FRAME + 48, size)
                    return size > _BIG_CHUNK
            if n < count:
                self.fewer(slot, n)
                if n == 0:
                    return False
            kind, data, large = self._encode(tasks, first, slot)
        size = len(data)
        need = _DATA + 16 * len(large) + size + 128
        places = None
        if large:
            places, need = self._place(large, need, first + n)
            if self.in_place:
                self.held[chunk] = large
        if need > room:
            slot = port.grow(k, need)
        start = slot + _DATA
        if kind or large:
            L.WORD32.pack_into(arena, slot + L.SLOT_FRAME + 12, len(large))
            arena[slot + L.SLOT_FRAME + 6] = kind
            start = self._write_table(slot, start, size, large, places)
        arena[start : start + size] = data
        L.WORD.pack_into(arena, slot + L.SLOT_FRAME + 48, size)
        return need > _BIG_CHUNK

    def fewer(self, slot: int, n: int) -> None:
        """The source gave only so many tasks for the chunk in this slot."""
        L.WORD32.pack_into(self.runner.arena, slot + L.SLOT_FRAME + 40, n)
        if self.source.drained:  # type: ignore[union-attr]
            self.port.words[L.W_LAST] = 1

    def _encode(self, tasks: Any, first: int, slot: int) -> Encoded:
        runner = self.runner
        encoder = self.call.encoder or runner.encoder
        try:
            if self.by_value and type(tasks) is list:
                return encoder.by_value(tasks)
            return encoder.encode(tasks, _payload.encode_tasks, "tasks")
        except _error.PicklingError:
            pass
        # One of them does not pickle: it fails alone, the others run.
        sendable = []
        for i, task in enumerate(tasks, first):
            try:
                encoder.encode(task, _payload.encode_pickle, f"task {i}")
                sendable.append(task)
            except _error.PicklingError as error:
                error.index = i
                error.__cause__ = error.__context__ = None  # it may hold what does not pickle
                sendable.append(_errors.Unsent(error))
        at = slot + L.SLOT_FRAME + 8
        L.WORD32.pack_into(runner.arena, at, L.WORD32.unpack_from(runner.arena, at)[0] | L.SOME_UNSENT)
        return encoder.encode(sendable, _payload.encode_pickle, "tasks")

    def _place(self, large: list[memoryview], need: int, then: int) -> tuple[list[int], int]:
        """Where each large buffer goes: an offset for a shared one, 0 for one that lies in the slot."""
        runner = self.runner
        blobs, keys = runner.blobs, [runner.engine.address_range(b) for b in large]
        ahead: set[tuple[int, int]] = set()
        group = self.call.group
        if self.looks > 0 and not group and any(key not in blobs.shared for key in keys):
            self.looks -= 1
            ahead = self._look_ahead(then)
        places = []
        with runner.lock:
            for buffer, key in zip(large, keys, strict=True):
                if group and not buffer.readonly:
                    at = 0
                else:
                    at = blobs.share(buffer, key, group or self.id, self.static, key in ahead)
                places.append(at)
                if not at and self.in_place:
                    places[-1] = key[0] | L.EXTERNAL
                elif not at:
                    need += buffer.nbytes + 64
        return places, need

    def _look_ahead(self, then: int) -> set[tuple[int, int]]:
        """The large buffers of the next few tasks. Where a buffer rides in them as well, it is sent once, not first with
        this chunk and again for all. Cheap: pickling with the buffers left out copies nothing."""
        if isinstance(self.source, Drawn) or then >= self.source.n:
            return set()
        try:
            large = _payload.encode_pickle(list(self.source.take(then, _AHEAD, True)))[2]
        except Exception:  # one of them does not pickle: its own chunk will tell
            return set()
        return {self.runner.engine.address_range(b) for b in large}

    def _write_table(self, slot: int, start: int, size: int, large: list[memoryview], places: list[int] | None) -> int:
        arena = self.runner.arena
        table = start
        start += 16 * len(large)
        free = (start + size + 63) & -64
        for i, buffer in enumerate(large):
            at = places[i] if places else 0
            if not at:
                at = free
                free = (at + buffer.nbytes + 63) & -64
                arena[at : at + buffer.nbytes] = buffer
            L.TABLE.pack_into(arena, table + 16 * i, at, buffer.nbytes)
        L.WORD.pack_into(arena, slot + L.SLOT_FRAME + 72, free)
        return start

    # ---- decoding ------------------------------------------------------------------------------------------

    def results(self, k: int) -> tuple[int, list[Any], BaseException | None]:
        """Event k as (index of the first result, results, error of the task behind them).

        With `return_exceptions` an error is put among the results instead. An empty list without an error: nothing to
        deliver, the engine asked something.
        """
        arena = self.runner.arena
        _, chunk, first, count, slot, flags, info, code = EVENT.unpack_from(
            arena, self.port.at + 8 * (L.W_EVENT + L.EVENT_WORDS * k)
        )
        if flags & (L.EVENT_TASKS | L.EVENT_FUNC):
            self._answer(chunk, count, slot)
            return first, [], None
        error: BaseException | None = None
        values: list[Any] = []
        if self.held:
            self.held.pop(chunk, None)
        if slot:
            if not flags:
                at = L.WORD.unpack_from(arena, slot + L.REPLY_SEGMENTS)[0]
                kind, marks, nbuf, nbytes, following = L.RESULTS.unpack_from(arena, at)
                if not (kind or marks or nbuf or following):  # one plain pickle: most chunks of a small map
                    start = at + L.FRAME_SIZE
                    try:
                        values = pickle.loads(arena[start : start + nbytes])
                    except BaseException:  # user code runs while unpickling; below it is found out whose result it is
                        values = []
                    if values:
                        self.source.forget(first, count)
                        return first, values, None
            values, record = self._read(slot, first, count)
            if record is not None and flags & L.EVENT_FAILED:
                error = _errors.rebuild(record, first + count)
        if flags & L.EVENT_LOST:
            error = self._lost(first + count, flags, info, code)
        if error is None:
            for i, value in enumerate(values) if type(values) is _Flawed else ():
                if type(value) is _errors.Failed:
                    values[i] = failure = _errors.rebuild(value.record, first + i)
                    if not self.call.return_exceptions:
                        error = failure
                        del values[i:]
                        break
                    if self.call.failed is not None:
                        self.call.failed.add(first + i)
        elif self.call.return_exceptions:
            self._mark(values, first)
            values.append(error)
            if self.call.failed is not None:
                self.call.failed.add(first + count)
            error = None
        self.source.forget(first, len(values))
        return first, values, error

    def _mark(self, values: list[Any], first: int) -> None:
        for i, value in enumerate(values) if type(values) is _Flawed else ():
            if type(value) is _errors.Failed:
                values[i] = _errors.rebuild(value.record, first + i)
                if self.call.failed is not None:
                    self.call.failed.add(first + i)

    def _read(self, slot: int, first: int, count: int) -> tuple[list[Any], _errors.Record | None]:
        """Results and error record of an answered chunk; its memory is the engine's again at the next step."""
        arena = self.runner.arena
        at = L.WORD.unpack_from(arena, slot + L.REPLY_SEGMENTS)[0]
        values: list[Any] | None = None
        record = None
        left = count
        while at and (left > 0 or record is None):
            frame = L.FRAME.unpack_from(arena, at)
            kind, flags, nbuf, n, nbytes = frame[2], frame[3], frame[4], frame[8], frame[10]
            table = at + L.FRAME_SIZE
            start = table + 16 * nbuf
            buffers = []
            for i in range(nbuf):
                off, size = L.TABLE.unpack_from(arena, table + 16 * i)
                if off & L.EXTERNAL:
                    L.WORD.pack_into(arena, table + 16 * i, 0)  # ours from now on
                    buffers.append(self.runner.engine.adopt(off & ~L.EXTERNAL, size))
                else:
                    buffers.append(_payload.private_copy(arena[off : off + size], self.runner.recycler))
            data = arena[start : start + nbytes]
            if kind == L.ERROR:
                record = _errors.Record(*pickle.loads(data))
            else:
                part = self._decode(kind, flags, data, buffers, first + count - left)
                if values is None:
                    values = part
                elif type(part) is _Flawed and type(values) is not _Flawed:
                    values = _Flawed(values + part)
                else:
                    values += part
                left -= n
            at = frame[13]
        if values is None:
            values = []
        return values, record

    def _decode(self, kind: int, flags: int, data: memoryview, buffers: list[Any], first: int) -> list[Any]:
        try:
            values: list[Any] = _payload.decode(kind, data, buffers)
        except BaseException:  # user code runs while unpickling; find whose result it is, the others are fine
            return _Flawed(_salvage.results(bytes(data), buffers, first))
        return _Flawed(values) if flags & L.HAS_ERRORS else values

    def _lost(self, index: int, flags: int, pid: int, code: int) -> BaseException:
        pid, rank = pid & 0xFFFFFFFF, pid >> 32
        host = self.runner.host_of(rank) if rank else socket.gethostname()
        where = f"pid {pid} on {host}" + (f", rank {rank}" if rank else "")
        if flags & L.EVENT_TIMEOUT:
            return _error.TaskTimeout(
                f"task {index} ran longer than the limit of {self.call.timeout} s per task; its worker ({where}) "
                "was ended and replaced",
                index=index, pid=pid, host=host, timeout=self.call.timeout,
            )  # fmt: skip
        known: int | None = code if flags & L.EVENT_EXIT else None
        if known is None and not rank:
            known = self.runner.starter.exit_code(pid)
        return _error.WorkerLost(
            f"task {index} was lost: its worker ({where}) died, {_ending(known)}. The worker has been replaced and "
            "other tasks are not affected; retries=1 runs such a task once more",
            index=index, pid=pid, host=host, exitcode=known,
        )  # fmt: skip

    def _answer(self, chunk: int, count: int, slot: int) -> None:
        """A worker could not read a chunk. By value is tried once, then the tasks one by one, then it is the task's error."""
        serial = L.FRAME.unpack_from(self.runner.arena, slot + L.SLOT_FRAME)[11]
        port = self.port
        if not self.by_value:
            self.by_value = True
            self.func = self.runner.store(with_path(self.runner.encoder, self.call.func))
        if serial != self.func.serial:
            port.requeue(chunk, False, self.func.serial, self.func.at)
        elif count > 1:
            port.requeue(chunk, True, 0, 0)
        else:
            port.reject(chunk)

    # ---- the crank -----------------------------------------------------------------------------------------

    def turn(self, wait: int) -> int:
        """Encode what is offered, then look (and wait, once everything is encoded); what was found is to be read next."""
        port, runner = self.port, self.runner
        words = port.words
        offers, sent = words[L.W_OFFERS], 0
        while sent < offers:
            sent += 1
            if self.encode(sent - 1):
                break
        if sent < offers:
            wait = L.WAIT_NONE
        elif self.call.deadline is not None:
            wait = runner.patience(wait, self.call.deadline)
        found: int = port.step(port.handle, sent, wait)
        if found < 0:
            runner.raise_code(port, found)
        if found & L.FOUND_NEEDS:
            runner.start_workers(port)
        return found

    def collect(self) -> list[Any]:
        """Turn until all results are there; the list of them."""
        words, n = self.port.words, self.source.n
        out: list[Any] = []
        while True:
            found = self.turn(L.WAIT_BATCH)
            if found & L.FOUND_EVENTS:
                for k in range(words[L.W_EVENTS]):
                    first, values, error = self.results(k)
                    if error is not None:
                        raise error
                    size = len(values)
                    if size == n:
                        out = values if type(values) is list else list(values)
                    elif first == len(out):
                        out += values
                    elif size:
                        end = first + size
                        if end > len(out):
                            out += [None] * (end - len(out))
                        out[first:end] = values
            if found & L.FOUND_IDLE and not words[L.W_OFFERS]:
                return out

    def stream(self) -> Iterator[tuple[int, list[Any]]]:
        """Turn and yield results as they come; (0, []) when `call.deadline` passes without any."""
        runner, call, words = self.runner, self.call, self.port.words
        while True:
            found = self.turn(L.WAIT_ANY)
            if found & L.FOUND_EVENTS:
                for k in range(words[L.W_EVENTS]):
                    first, values, error = self.results(k)
                    if values:
                        yield first, values
                        runner.check_alive()
                    if error is not None:
                        raise error
            elif call.deadline is not None and runner.overdue(call.deadline) and not found & L.FOUND_OFFERS:
                yield 0, []
                runner.check_alive()
            if found & L.FOUND_IDLE and not words[L.W_OFFERS]:
                return


class _Flawed(list[Any]):
    """Results among which failures may stand."""


def _ending(code: int | None) -> str:
    import signal

    if code is None:
        return "how is not known"
    if code >= 0:
        return f"exit code {code}" + (" (os._exit in the task, or the interpreter failed)" if code else "")
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = {"SIGKILL": " - out of memory?", "SIGSEGV": " - a crash in compiled code"}.get(name, "")
    return f"killed by {name}{hint}"


def raise_start_failure(runner: Any, port: Port, code: int, text: str) -> None:
    """Raise what kept the workers from starting."""
    if code == TERMINATED:
        raise _error.PoolClosed(text)
    if code == INIT:
        at = port.words[L.W_ERROR]
        nbytes = L.FRAME.unpack_from(runner.arena, at)[10]
        record = _errors.Record(*pickle.loads(runner.arena[at + L.FRAME_SIZE : at + L.FRAME_SIZE + nbytes]))
        error = _errors.rebuild(record, -1)
        notes = getattr(error, "__notes__", None)
        if notes:
            notes[-1] = f"raised by the initializer in {record.where()}"
        raise error
    if code == START:
        raise _error.WorkerLost(text)


