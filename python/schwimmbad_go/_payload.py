"""Values to bytes and back: how tasks and results lie in a frame.

One pickle (protocol 5) per chunk, buffers of 64 KiB and more beside it; and a few fast kinds, only for exact types, where pickling
costs many times the memory copy: a range, the rows of an array, equal small arrays, long lists of numbers (a million `numpy.float64`
pickle in 1.2 s and pack in 9 ms). NumPy is never imported for its own sake.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
import sys
from collections.abc import Sequence
from typing import Any, Final

from . import _recycle, _words
from ._layout import FLOATS, INTS, MSGPACK, NP_FLOATS, PICKLE, RANGE, ROWS, SLAB
from ._recycle import Recycler

Encoded = tuple[int, Any, list[memoryview]]  # kind, in-band bytes, out-of-band buffers

OUT_OF_BAND: Final = 64 << 10  # below it the table entry and the second copy cost more than they save
LONG_LIST: Final = 256  # numbers from which words are faster than a pickle, counting both ends: who reads a lone pickle does so in one step
SMALL_ARRAY: Final = 4 << 10  # arrays up to this size are packed side by side
SMALL_SLAB: Final = 64 << 10  # results share one block up to this size: a row that is kept keeps its block
_RANGE: Final = struct.Struct("<qqq")
_SHAPE: Final = struct.Struct("<HH")  # length of the dtype string, number of dimensions
SCALARS: Final = frozenset((int, float, str, bool, complex, type(None)))  # what holds no buffer: a plain pickle will do
_NUMBERS: Final = frozenset("biufc")
_INT64: Final = 1 << 63


def encode_tasks(tasks: Any) -> Encoded:
    """Encode the tasks of one chunk: a list, tuple, range, or C-contiguous ndarray slice."""
    kind = type(tasks)
    if kind is list:
        first = type(tasks[0])
        if first is int or first is float or first is tuple or first is str:
            return encode_pickle(tasks)
        np = sys.modules.get("numpy")
        if np is not None:
            if first is np.ndarray:
                packed = slab(np, tasks)
                if packed is not None:
                    return SLAB, packed, []
            elif first is np.float64:
                number, data = pack_numbers(tasks)
                if number != PICKLE:
                    return number, data, []
        return encode_pickle(tasks)
    if kind is range and -_INT64 <= tasks.start < _INT64 and -_INT64 <= tasks.stop < _INT64 and abs(tasks.step) < _INT64:
        return RANGE, _RANGE.pack(tasks.start, tasks.stop, tasks.step), []
    np = sys.modules.get("numpy")
    if np is not None and kind is np.ndarray:
        return ROWS, b"".join((_shape(tasks.dtype.str, tasks.shape), tasks)), []
    return encode_pickle(list(tasks))


def encode_results(values: list[Any]) -> Encoded:
    """Encode results; the types that come out at the other end are exactly those that went in."""
    first = type(values[0])
    if first in SCALARS and len(values) < LONG_LIST:  # large arrays behind them, once in a blue moon, are pickled in band
        return PICKLE, pickle.dumps(values, 5), []
    kind, data = pack_numbers(values)
    if kind != PICKLE:
        return kind, data, []
    if first is int:
        return PICKLE, pickle.dumps(values, 5), []
    np = sys.modules.get("numpy")
    if np is None or first is float:
        return encode_pickle(values)
    if first is np.ndarray and len(values) > 1 and values[0].nbytes * len(values) <= SMALL_SLAB:
        packed = slab(np, values)
        if packed is not None:
            return SLAB, packed, []
    return encode_pickle(values)


def pack_numbers(values: list[Any]) -> tuple[int, Any]:
    """Numbers of one type as their bytes, with the kind for `decode`; anything else as it is, with PICKLE.

    Only where that is faster than pickling, and gives exactly what went in.
    """
    first = type(values[0])
    kind = _number(first)
    if kind == PICKLE:
        words = None
    elif len(values) >= LONG_LIST:
        words = _words.pack(values, 0, len(values), first)
    else:
        words = None if first is int else _words.floats(values, 0, len(values), first)
    return (PICKLE, values) if words is None else (kind, words)


def pack_tasks(tasks: list[Any], first: int, count: int) -> tuple[int, bytes] | None:
    """Tasks from index `first` on as `pack_numbers` has them, None if they are no numbers. For long lists."""
    of = type(tasks[first])
    kind = _number(of)
    words = _words.pack(tasks, first, count, of) if kind != PICKLE else None
    return None if words is None else (kind, words)


def _number(kind: type) -> int:
    """How numbers of this type are encoded."""
    if kind is int:
        return INTS
    if kind is float:
        return FLOATS
    np = sys.modules.get("numpy")
    return NP_FLOATS if np is not None and kind is np.float64 else PICKLE


def encode_pickle(values: Any) -> Encoded:
    """Pickle with large buffers left out."""
    large = Large()
    data = pickle.dumps(values, 5, buffer_callback=large.keep_small)
    if large.frozen:
        return _encode_thawed(values)
    return PICKLE, data, large.buffers


class Large:
    """Takes the large buffers out of a pickle (see `pickle.Pickler`, ``buffer_callback``)."""

    __slots__ = ("buffers", "frozen")

    def __init__(self) -> None:
        self.buffers: list[memoryview] = []
        self.frozen = False  # a read-only one was among them

    def keep_small(self, buffer: pickle.PickleBuffer) -> bool:
        """True leaves the buffer in the pickle."""
        raw = buffer.raw()
        if raw.readonly:
            self.frozen = True
        if raw.nbytes < OUT_OF_BAND:
            return True
        self.buffers.append(raw)
        return False


def _encode_thawed(values: Any) -> Encoded:
    """Pickle so that read-only arrays arrive writable, as they do with the older protocols that other pools use: it is
    the receiver's own copy."""
    np = sys.modules.get("numpy")
    large = Large()
    out = io.BytesIO()
    pickler = pickle.Pickler(out, 5, buffer_callback=large.keep_small)
    if np is not None:
        pickler.dispatch_table = {**copyreg.dispatch_table, np.ndarray: _reduce_thawed}
    pickler.dump(values)
    return PICKLE, out.getvalue(), large.buffers


def _reduce_thawed(array: Any) -> Any:
    flags = array.flags
    if flags.writeable or array.dtype.hasobject or not (flags.c_contiguous or flags.f_contiguous):
        return array.__reduce_ex__(5)
    import ctypes

    # A writable view of the same memory, for the pickler alone, which only reads it.
    memory = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    memory._array = array
    order = "C" if flags.c_contiguous else "F"
    return _thawed, (pickle.PickleBuffer(memory), array.dtype, array.shape, order)


def _thawed(buffer: Any, dtype: Any, shape: tuple[int, ...], order: Any) -> Any:
    import numpy as np

    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def slab(np: Any, arrays: Sequence[Any]) -> bytes | None:
    """Equal small arrays side by side, None if they are not."""
    a = arrays[0]
    dtype, shape = a.dtype, a.shape
    if not shape or a.nbytes > SMALL_ARRAY or dtype.kind not in _NUMBERS:
        return None
    for b in arrays:
        if type(b) is not np.ndarray or b.shape != shape or b.dtype is not dtype and b.dtype != dtype:
            return None
    try:
        data = b"".join(arrays)
    except BufferError:  # one is not contiguous
        return None
    return _shape(dtype.str, (len(arrays), *shape)) + data


def _shape(dtype: str, shape: tuple[int, ...]) -> bytes:
    name = dtype.encode()
    head = _SHAPE.pack(len(name), len(shape)) + struct.pack(f"<{len(shape)}q", *shape) + name
    return head + bytes(-len(head) % 8)  # data aligned as NumPy likes it


def is_rows(np: Any, tasks: Any) -> bool:
    """Whether an array can travel as the bytes of its rows."""
    return type(tasks) is np.ndarray and tasks.ndim > 0 and tasks.dtype.kind in _NUMBERS and bool(tasks.size)


def _array(data: memoryview, anchors: list[Any] | None) -> Any:
    try:
        import numpy as np
    except ImportError:  # a master in another language sends arrays, too
        from . import _msgpack

        dtype, shape, start = _msgpack.read_head(bytes(data), 0)
        return _msgpack.make_array(dtype, shape, data[start:])
    n, ndim = _SHAPE.unpack_from(data)
    shape = struct.unpack_from(f"<{ndim}q", data, 4)
    start = 4 + 8 * ndim
    dtype = str(data[start : start + n], "ascii")
    start += n
    start += -start % 8
    if anchors is None or data.nbytes < OUT_OF_BAND:
        return np.frombuffer(bytearray(data[start:]), dtype).reshape(shape)
    flat = np.frombuffer(data[start:], dtype)
    anchors.append(flat)
    return flat.reshape(shape)


def decode(kind: int, data: memoryview, buffers: Sequence[Any], anchors: list[Any] | None = None) -> Any:
    """The values of a frame, as something to iterate. With `anchors` large arrays stay views of `data`, and the object whose
    reference count tells how long is appended there."""
    if kind == PICKLE:
        return pickle.loads(data, buffers=buffers) if buffers else pickle.loads(data)
    if kind == FLOATS:
        return memoryview(data).cast("d").tolist()
    if kind == NP_FLOATS:
        import numpy as np

        return list(np.frombuffer(bytes(data), np.float64))
    if kind == INTS:
        return memoryview(data).cast("q").tolist()
    if kind == RANGE:
        return range(*_RANGE.unpack(data))
    if kind == ROWS or kind == SLAB:
        return list(_array(data, anchors))
    if kind == MSGPACK:
        from . import _msgpack

        return _msgpack.unpack(data, buffers)
    raise ValueError(f"unknown payload encoding {kind}")


def anchor(data: memoryview) -> Any:
    """An object with the buffer of `data` whose reference count tells whether anybody uses it.

    Releasing the memoryview would not tell: NumPy wraps it in one of its own. But an array made from the buffer of
    another array keeps that array as its base. None without NumPy: then there is no such array.
    """
    try:
        import numpy as np
    except ImportError:
        return None
    return np.frombuffer(data, np.uint8)


def private_copy(source: memoryview, recycler: Recycler) -> Any:
    """A writable copy in memory of this process: what is large lies where earlier results lay, the rest in NumPy's memory, or a
    bytearray's."""
    if source.nbytes >= _recycle.LEAST:
        block = recycler.take(source.nbytes)
        memoryview(block).cast("B")[:] = source
        return block
    np = sys.modules.get("numpy")
    if np is None:
        return bytearray(source)
    copy = np.empty(source.nbytes, np.uint8)
    memoryview(copy)[:] = source
    return copy
