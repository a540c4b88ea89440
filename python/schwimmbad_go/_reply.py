"""The worker's answer: where results go in shared memory, and how they get there.

Results lie behind their tasks in the slot while they fit, else in blocks of the worker's own range of the arena.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from . import _errors, _payload
from . import _layout as L

if TYPE_CHECKING:
    from ._worker import Channel

MIN_BLOCK: Final = 16 << 10


class Heap:
    """The worker's own range of the arena, for results that do not fit behind their tasks.

    The worker alone takes blocks and marks them in use, the reader alone marks them free: one word each way and no
    lock. Free blocks are reused, last one first, because touched pages copy twenty times faster than fresh ones.
    """

    def __init__(self, channel: Channel) -> None:
        arena = channel.arena
        self.arena = arena
        self.top_at = channel.cell + L.CELL_HEAP_TOP
        heaps, size = (L.WORD.unpack_from(arena, at)[0] for at in (L.CTL_HEAPS, L.CTL_HEAP_SIZE))
        start = heaps + channel.index * size
        self.end: int = start + size
        self.top: int = L.WORD.unpack_from(arena, self.top_at)[0]
        self.blocks: list[tuple[int, int]] = []  # offset, size
        while start < self.top:  # what a predecessor that died left: blocks may still be read
            nbytes: int = L.WORD.unpack_from(arena, start)[0]
            if nbytes < MIN_BLOCK:  # it died while making this one
                break
            self.blocks.append((start, nbytes))
            start += nbytes
        self.top = start

    def take(self, nbytes: int) -> int:
        """Offset of a block with room for `nbytes` of data behind its head."""
        want = max(nbytes + L.HEAP_HEAD, MIN_BLOCK)
        for at in range(len(self.blocks) - 1, -1, -1):
            off, size = self.blocks[at]
            if want <= size <= 4 * want and not L.WORD32.unpack_from(self.arena, off + L.HEAP_STATE)[0]:
                L.WORD32.pack_into(self.arena, off + L.HEAP_STATE, 1)
                if at != len(self.blocks) - 1:
                    self.blocks.append(self.blocks.pop(at))
                return off
        size = 1 << (want - 1).bit_length()
        if size > self.end - self.top:
            raise MemoryError(
                f"a result of {nbytes} bytes does not fit into what is left of this worker's shared memory "
                f"({self.end - self.top} bytes); SCHWIMMBAD_GO_ARENA sets the size of the whole"
            )
        off = self.top
        L.WORD.pack_into(self.arena, off, size)
        L.WORD32.pack_into(self.arena, off + L.HEAP_STATE, 1)
        self.top += size
        L.WORD.pack_into(self.arena, self.top_at, self.top)
        self.blocks.append((off, size))
        return off


class Chunk:
    """One chunk: its place, the reply under construction, and where the next results go."""

    __slots__ = (
        "arena", "count", "cursor", "done", "end", "failing", "first", "heap", "job", "last", "nbytes", "plain", "segments", "slot",
    )  # fmt: skip

    def __init__(
        self, arena: memoryview, heap: Heap, slot: int, end: int, job: int, first: int, count: int, cursor: int
    ) -> None:
        self.arena, self.heap, self.slot, self.end, self.job = arena, heap, slot, end, job
        self.first, self.count = first, count
        self.cursor = cursor  # free part of the slot
        self.done = self.last = self.segments = self.nbytes = 0
        self.failing = False  # a failure stands among the results
        self.plain = False  # the master reads no pickles

    def put(self, values: list[Any]) -> None:
        """Write results out; they are safe once `done` counts them."""
        encode = _plain().encode_results if self.plain else _payload.encode_results
        try:
            kind, inband, large = encode(values)
        except BaseException as error:  # user code runs in __reduce__ and may raise anything
            kind, inband, large, bad = (_plain_singly if self.plain else _encode_singly)(values, error)
            self.failing = self.failing or bad
        self.write(kind, L.HAS_ERRORS if self.failing else 0, len(values), inband, large)
        self.done += len(values)
        L.WORD32.pack_into(self.arena, self.slot + L.REPLY_DONE, self.done)

    def put_error(self, record: _errors.Record) -> None:
        """Write the error record of the task after the results."""
        if self.plain:
            inband, large = _plain().pack([_plain().plain(record)])
        else:
            _, inband, large = _payload.encode_pickle(tuple(record))
        self.write(L.ERROR, 0, 1, inband, large)

    def write(self, kind: int, flags: int, count: int, inband: Any, large: list[memoryview]) -> None:
        """One RESULTS frame behind the others, in the slot if it fits, else in a block of the heap."""
        arena = self.arena
        at, block, size = self.cursor, 0, len(inband)
        need = L.FRAME_SIZE + size
        if large:
            need += sum(b.nbytes + 64 for b in large) + 16 * len(large) + 64
        if at + need <= self.end:
            self.cursor = (at + need + 63) & -64
        else:
            block = self.heap.take(need)
            at = block + L.HEAP_HEAD
        body = at + L.FRAME_SIZE
        if large:
            body = self._write_large(body, size, large)
        arena[body : body + size] = inband
        L.FRAME.pack_into(
            arena, at, L.MAGIC, L.TYPE_RESULTS, kind, flags, len(large), self.job, 0, self.first + self.done, count,
            0, size, 0, 0, 0, block, 0,
        )  # fmt: skip
        if self.last:
            L.WORD.pack_into(arena, self.last + 72, at)
        else:
            self.segments = at
        L.WORD.pack_into(arena, self.slot + L.REPLY_SEGMENTS, self.segments)
        self.last = at
        self.nbytes += need

    def _write_large(self, table: int, size: int, large: list[memoryview]) -> int:
        """The buffer table and, behind the in-band bytes, the buffers; returns where the in-band bytes go."""
        arena = self.arena
        body = table + 16 * len(large)
        start = (body + size + 63) & -64
        for i, b in enumerate(large):
            L.TABLE.pack_into(arena, table + 16 * i, start, b.nbytes)
            arena[start : start + b.nbytes] = b
            start = (start + b.nbytes + 63) & -64
        return body


def _plain() -> Any:
    """The encoding for masters in other languages, loaded when the first of them asks."""
    from . import _msgpack

    return _msgpack


def _plain_singly(values: list[Any], error: BaseException) -> tuple[int, Any, list[memoryview], bool]:
    """Results that other languages cannot read: each becomes the failure of its own task."""
    safe: list[Any] = []
    for value in values:
        try:
            _plain().pack([value])
            safe.append(value)
        except BaseException as why:  # properties and __iter__ of the user's run here
            safe.append(_errors.Failed(_errors.make_record(why, _errors.RESULT, 0)))
    return L.MSGPACK, *_plain().pack(safe), True


def _encode_singly(values: list[Any], error: BaseException) -> tuple[int, Any, list[memoryview], bool]:
    """Results that do not pickle: tried by value, else each becomes the failure of its own task."""
    from . import _functions

    try:
        return *_functions.encode_by_value(values), False
    except BaseException:  # the first error is the one to tell
        if len(values) == 1:
            values = [_errors.Failed(_errors.make_record(error, _errors.RESULT, 0))]
    safe: list[Any] = []
    for value in values:
        try:
            _payload.encode_pickle(value)
            safe.append(value)
        except BaseException as why:
            safe.append(_errors.Failed(_errors.make_record(why, _errors.RESULT, 0)))
    return *_payload.encode_pickle(safe), True
