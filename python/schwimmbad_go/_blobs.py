"""What workers get once and keep: functions, and large buffers that ride inside tasks.

An object may be changed between two maps, so its identity proves nothing. Everything is pickled again for each map, with the
large buffers left out, and compared with what was sent: equal bytes are not sent again. For 10 MB this takes the engine 0.25 to
0.55 ms, without the GIL: it reads the caller's copy only, and compares digests that miss a change with a probability of 2^-64. What did
not change for some maps the kernel watches, where it can: then 20 us tell that nobody has written into it.
"""

from __future__ import annotations

import itertools
import sys
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

from . import _layout as L
from ._engine import Engine
from ._payload import Encoded

MAX_FUNCTIONS: Final = 64  # kept in shared memory at once; a guess at how many a program alternates between
MAX_FUNCTION_BYTES: Final = 512 << 20
MAX_BUFFER_BYTES: Final = 1 << 30


# Of this process, not of a pool: the ranks of an MPI job serve one pool after the other, and know functions by their serial.
_serials = itertools.count(1)


@dataclass(slots=True)
class Function:
    """A function as it lies in shared memory."""

    data: Any
    buffers: list[tuple[int, int]]  # offset, length
    serial: int
    at: int
    stored: bool = True  # False: dropped, its memory may hold something else

    @property
    def nbytes(self) -> int:
        """Shared memory it takes."""
        return len(self.data) + sum(n for _, n in self.buffers)


@dataclass(slots=True)
class Shared:
    """A buffer that several chunks of one map contained."""

    at: int
    nbytes: int
    job: int  # the job in which it was last found unchanged


@dataclass(slots=True)
class Retired:
    """Memory that jobs up to `job` may still refer to."""

    job: int
    offsets: list[int] = field(default_factory=list)


class Blobs:
    """The blobs of one engine. Used under the pool's lock."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.latest: Function | None = None
        self.functions: OrderedDict[int, Function] = OrderedDict()
        self.seen: dict[tuple[int, int], int] = {}  # address and length of a buffer: the job it was last sent in
        self.shared: OrderedDict[tuple[int, int], Shared] = OrderedDict()
        self.shared_bytes = 0
        self.bytes_sent = 0
        self.retired: list[Retired] = []
        self.active: set[int] = set()  # jobs whose chunks may refer to blobs
        self.last_job = 0
        cells, size = (L.WORD.unpack_from(engine.arena, at)[0] for at in (L.CTL_CELLS, L.CTL_CELL_SIZE))
        self.floors = [cells + i * size + L.CELL_FLOOR for i in range(engine.crew)]

    def function(self, encoded: Encoded) -> Function:
        """The stored copy of an encoded function; written only if it is new or has changed."""
        _, data, buffers = encoded
        # The latest used comes first: a map usually has the function of the one before.
        for stored in reversed(self.functions.values()):
            if stored.data == data and self._same(stored, buffers):
                if stored is not self.latest:
                    self.functions.move_to_end(stored.serial)
                    self.latest = stored
                return stored
        self.latest = stored = self._store(data, buffers)
        self.functions[stored.serial] = stored
        total = sum(f.nbytes for f in self.functions.values())
        while len(self.functions) > 1 and (len(self.functions) > MAX_FUNCTIONS or total > MAX_FUNCTION_BYTES):
            _, old = self.functions.popitem(last=False)
            total -= old.nbytes
            old.stored = False
            self._retire([old.at, *self._unused(old)])
        return stored

    def _same(self, stored: Function, buffers: list[memoryview]) -> bool:
        if len(stored.buffers) != len(buffers):
            return False
        if any(n != b.nbytes for (_, n), b in zip(stored.buffers, buffers, strict=True)):
            return False
        return all(self._equal(at, b) for (at, _), b in zip(stored.buffers, buffers, strict=True))

    def _equal(self, at: int, buffer: memoryview) -> bool:
        engine = self.engine
        return bool(engine.check(engine.lib.swg_same(engine.handle, at, *engine.address_range(buffer))))

    def _store(self, data: Any, buffers: list[memoryview]) -> Function:
        arena = self.engine.arena
        serial = next(_serials)
        places = [(self._find(b) or self._copy(b), b.nbytes) for b in buffers]
        head = L.FRAME_SIZE + 16 * len(buffers)
        at = self._alloc(head + len(data))
        L.FRAME.pack_into(
            arena, at, L.MAGIC, L.TYPE_BLOB, L.PICKLE, 0, len(buffers), 0, 0, 0, 0, 0, len(data), serial, 0, 0, 0, 0
        )
        for i, place in enumerate(places):
            L.TABLE.pack_into(arena, at + L.FRAME_SIZE + 16 * i, *place)
        arena[at + head : at + head + len(data)] = data
        return Function(data, places, serial, at)

    def _find(self, buffer: memoryview) -> int:
        """Where a buffer lies already, as part of another function: a small change beside the data must not cost the data.
        Candidates that differ do so within their first bytes nearly always."""
        for stored in reversed(self.functions.values()):
            for at, nbytes in stored.buffers:
                if nbytes == buffer.nbytes and self._equal(at, buffer):
                    return at
        return 0

    def _unused(self, dropped: Function) -> list[int]:
        """Buffers of a dropped function that no other has."""
        used = {at for f in self.functions.values() for at, _ in f.buffers}
        return [at for at, _ in dropped.buffers if at not in used]

    def _alloc(self, nbytes: int) -> int:
        self.bytes_sent += nbytes
        return self.engine.check(self.engine.lib.swg_alloc(self.engine.handle, nbytes))

    def _copy(self, buffer: memoryview) -> int:
        engine = self.engine
        at = self._alloc(buffer.nbytes)
        engine.check(engine.lib.swg_copy(engine.handle, at, *engine.address_range(buffer)))
        return at

    def share(self, buffer: memoryview, key: tuple[int, int], job: int, static: bool, again: bool) -> int:
        """Offset of the shared copy of a buffer that is part of a chunk, 0 to send it along with the chunk.

        A buffer that another chunk of the same job, or group of jobs, contains too (`again`: tasks to come have it) is worth
        keeping; from then on it is compared once per job (`static`: nothing of the user's runs between two chunks) or once per chunk.
        """
        known = self.shared.get(key)
        if known is None:
            if not again and self.seen.get(key) != job:
                self.seen[key] = job
                if len(self.seen) > 4096:  # only the latest job's entries are of use
                    self.seen = {k: j for k, j in self.seen.items() if j == job}
                return 0
            known = self.shared[key] = Shared(self._copy(buffer), buffer.nbytes, job)
            self.shared_bytes += buffer.nbytes
            self._trim(key)
        elif not (static and known.job == job):
            if not self._equal(known.at, buffer):
                del self.shared[key]
                self.shared_bytes -= known.nbytes
                self._retire([known.at])
                self.seen[key] = job
                return 0
            known.job = job
        self.shared.move_to_end(key)
        return known.at

    def forget(self, group: int) -> None:
        """Buffers that calls of this group have shared are not needed any more."""
        mine = [key for key, known in self.shared.items() if known.job == group]
        if mine:
            dropped = [self.shared.pop(key) for key in mine]
            self.shared_bytes -= sum(known.nbytes for known in dropped)
            self._retire([known.at for known in dropped])
        self.seen = {k: j for k, j in self.seen.items() if j != group}
        self._reclaim()

    def _trim(self, keep: tuple[int, int]) -> None:
        while self.shared_bytes > MAX_BUFFER_BYTES and len(self.shared) > 1:
            key, old = next(iter(self.shared.items()))
            if key == keep:
                return
            del self.shared[key]
            self.shared_bytes -= old.nbytes
            self._retire([old.at])

    def begun(self, job: int) -> None:
        """A job started: what it refers to must stay."""
        self.active.add(job)
        self.last_job = job

    def ended(self, job: int) -> None:
        """A job ended; memory that nobody refers to any more goes back."""
        self.active.discard(job)
        if self.retired:
            self._reclaim()

    def _retire(self, offsets: list[int]) -> None:
        self.retired.append(Retired(self.last_job, offsets))

    def _reclaim(self) -> None:
        """Free what is older than every running job and than what any worker still maps."""
        oldest = min(self.active, default=sys.maxsize)
        for at in self.floors:
            floor = L.WORD.unpack_from(self.engine.arena, at)[0]
            if floor:
                oldest = min(oldest, floor)
        kept = []
        for old in self.retired:
            if old.job < oldest:
                for at in old.offsets:
                    self.engine.check(self.engine.lib.swg_release(self.engine.handle, at))
            else:
                kept.append(old)
        self.retired = kept
