"""Values on their way between Python and another language: msgpack, with the standard library alone.

For pools whose master is no Python program (docs/PROTOCOL.md, "Values between languages"). Numbers, strings, bytes, lists and maps
are msgpack's own; numeric arrays, complex numbers and integers beyond 64 bits are extensions. NumPy is used where it is
installed; without it an array is an ``array.array``, one with more dimensions a list of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import functools
import io
import os
import pickle
import struct
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from . import _errors, _payload
from ._layout import FLOATS, INTS, MSGPACK, NP_FLOATS, PICKLE, SLAB

ARRAY, BESIDE, COMPLEX, BIG, FAILED = 1, 2, 3, 4, 5
TIMESTAMP: Final = -1

OUT_OF_BAND: Final = 64 << 10  # as in _payload.py
_DEEP: Final = 200  # levels of values in values; each takes three of the thousand that Python's own stack has
_HEAD: Final = struct.Struct("<HH")  # lengths of dtype and shape
_PAIR: Final = struct.Struct("<dd")
_F32, _F64 = struct.Struct(">f"), struct.Struct(">d")
_CODES: Final = {  # array.array's letters
    "|i1": "b", "|u1": "B", "<i2": "h", "<u2": "H", "<i4": "i", "<u4": "I", "<i8": "q", "<u8": "Q", "<f4": "f", "<f8": "d",
}  # fmt: skip
_DTYPES: Final = {**{code: dtype for dtype, code in _CODES.items()}, "l": "<i8", "L": "<u8"}
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def encode_results(values: list[Any]) -> tuple[int, Any, list[Any]]:
    """Results as kind, in-band bytes and large buffers; the forms of `_payload` where every value has the same exact type."""
    if len(set(map(type, values))) == 1:
        first = values[0]
        if type(first) is float:
            return FLOATS, array("d", values).tobytes(), []
        if type(first) is int:
            with contextlib.suppress(OverflowError):
                return INTS, array("q", values).tobytes(), []
        np = sys.modules.get("numpy")
        if np is not None and type(first) is np.float64:
            return NP_FLOATS, array("d", values).tobytes(), []
        if np is not None and type(first) is np.ndarray and first.dtype.str in _PLAIN and len(values) > 1:
            packed = _payload.slab(np, values) if first.nbytes * len(values) <= _payload.SMALL_SLAB else None
            if packed is not None:
                return SLAB, packed, []
    out = io.BytesIO()
    pickler = _Pickler(out, 5)
    try:
        pickler.dump(values)
    except Exception:  # it cannot travel, or is nested too deep: the other form tells what it does not take
        return MSGPACK, *pack(values)
    return PICKLE, out.getbuffer(), pickler.large


class _Pickler(pickle.Pickler):
    """Pickles values so that every language can read them: with C code where they are plain, and the rest by `extension` and `same`.

    A reader in another language needs to know these two functions; the pickle names no other.
    """

    def __init__(self, out: io.BytesIO, protocol: int) -> None:
        super().__init__(out, protocol)
        self.large: list[Any] = []

    def reducer_override(self, obj: Any) -> Any:
        """How to make what the pickler has no operation for."""
        if obj is extension or obj is same:
            return NotImplemented  # by their names
        if type(obj) is complex:
            return extension, (COMPLEX, _PAIR.pack(obj.real, obj.imag))
        found = _numbers_of(obj)
        if found is not None:
            dtype, shape, data, nbytes = found
            head = array_head(dtype, shape)
            if nbytes < OUT_OF_BAND:
                return extension, (ARRAY, b"".join((head, data)))
            self.large.append(memoryview(data).cast("B"))
            return extension, (BESIDE, (len(self.large) - 1).to_bytes(4, "little") + head)
        if isinstance(obj, datetime.datetime):
            return extension, (TIMESTAMP, _stamp(obj))
        if type(obj) is _errors.Failed:
            return extension, (FAILED, bytes(pack([plain(obj.record)])[0]))
        return same, (_simpler(obj),)


def extension(code: int, data: Any) -> Any:
    """The value of an extension.

    Parameters
    ----------
    code : int
        Its type.
    data : bytes-like
        Its contents. An array lives on that memory.

    Raises
    ------
    ValueError
        There is no such extension.
    """
    if code == ARRAY:
        dtype, shape, start = read_head(data, 0)
        return make_array(dtype, shape, data, start)
    if code == COMPLEX:
        return complex(*_PAIR.unpack(data))
    if code == BIG:
        return int.from_bytes(data, "little", signed=True)
    if code == TIMESTAMP:
        return _time(data)
    raise ValueError(f"damaged msgpack: extension {code}")


def beside(head: bytes, buffer: Any) -> Any:
    """The array on a buffer that lies beside the pickle. Only other languages write this."""
    dtype, shape, _ = read_head(head, 0)
    return make_array(dtype, shape, buffer)


def same(value: Any) -> Any:
    """The value, where a pickle has it in the place of one whose type only Python has."""
    return value


def pack(values: Iterable[Any]) -> tuple[bytearray, list[Any]]:
    """Values, one behind the other, and the buffers that lie beside them.

    Raises
    ------
    TypeError
        One of them has a type that cannot travel; the message says which do.
    OverflowError, RecursionError
        Too large for the format; nested too deep.
    """
    packer = Packer()
    for value in values:
        packer.put(value)
    return packer.out, packer.large


class Packer:
    """Appends values to `out`; large arrays go to `large`."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.large: list[Any] = []
        self.depth = 0

    def put(self, value: Any) -> None:
        """One value."""
        writer = _WRITERS.get(type(value))
        if writer is None:
            self._other(value)
        else:
            writer(self, value)

    def _none(self, _: None) -> None:
        self.out.append(0xC0)

    def _bool(self, value: bool) -> None:
        self.out.append(0xC3 if value else 0xC2)

    def _int(self, value: int) -> None:
        if -32 <= value < 128:
            self.out.append(value & 0xFF)
        elif -(1 << 31) <= value < 1 << 31:
            self.out += b"\xd2" + value.to_bytes(4, "big", signed=True)
        elif -(1 << 63) <= value < 1 << 63:
            self.out += b"\xd3" + value.to_bytes(8, "big", signed=True)
        elif 0 < value < 1 << 64:
            self.out += b"\xcf" + value.to_bytes(8, "big")
        else:
            self._ext(BIG, value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))

    def _float(self, value: float) -> None:
        self.out += b"\xcb" + _F64.pack(value)

    def _complex(self, value: complex) -> None:
        self._ext(COMPLEX, _PAIR.pack(value.real, value.imag))

    def _str(self, value: str) -> None:
        data = value.encode()
        n = len(data)
        if n < 32:
            self.out.append(0xA0 | n)
        elif n < 256:
            self.out += bytes((0xD9, n))
        else:
            self.out += b"\xdb" + n.to_bytes(4, "big")
        self.out += data

    def _bytes(self, value: Any) -> None:
        self.out += b"\xc6" + len(value).to_bytes(4, "big") + value

    def _list(self, value: Sequence[Any]) -> None:
        self._count(len(value), 0x90, b"\xdd")
        self._enter()
        for item in value:
            self.put(item)
        self.depth -= 1

    def _dict(self, value: Mapping[Any, Any]) -> None:
        self._count(len(value), 0x80, b"\xdf")
        self._enter()
        for key, item in value.items():
            self.put(key)
            self.put(item)
        self.depth -= 1

    def _failed(self, value: _errors.Failed) -> None:
        inner = Packer()
        inner.put(plain(value.record))
        self.out += b"\xc9" + len(inner.out).to_bytes(4, "big") + bytes((FAILED,)) + inner.out

    def _time(self, value: datetime.datetime) -> None:
        self._ext(TIMESTAMP, _stamp(value))

    def _enter(self) -> None:
        self.depth += 1
        if self.depth > _DEEP:
            raise RecursionError(f"the value is nested more than {_DEEP} deep, or contains itself")

    def _count(self, n: int, short: int, long: bytes) -> None:
        if n < 16:
            self.out.append(short | n)
        else:
            self.out += long + n.to_bytes(4, "big")

    def _ext(self, code: int, data: bytes) -> None:
        self.out += b"\xc9" + len(data).to_bytes(4, "big") + bytes((code & 0xFF,)) + data

    def _array(self, dtype: str, shape: tuple[int, ...], data: Any, nbytes: int) -> None:
        head = array_head(dtype, shape)
        view = memoryview(data)
        if nbytes >= OUT_OF_BAND:
            self._ext(BESIDE, len(self.large).to_bytes(4, "little") + head)
            self.large.append(view.cast("B"))
            return
        self.out += b"\xc9" + (len(head) + nbytes).to_bytes(4, "big") + bytes((ARRAY,)) + head
        self.out += view

    def _other(self, value: Any) -> None:
        """Types that are looked at more closely: arrays, subclasses, dataclasses."""
        found = _numbers_of(value)
        if found is not None:
            self._array(*found)
        elif isinstance(value, datetime.datetime):
            self._time(value)
        else:
            self.put(_simpler(value))


def _numbers_of(value: Any) -> tuple[str, tuple[int, ...], Any, int] | None:
    """Of a numeric array: dtype, shape, elements in C order as something with a buffer, bytes. None: it is something else."""
    np = sys.modules.get("numpy")
    if np is not None and isinstance(value, np.ndarray):
        if value.dtype.kind not in "biufc" or value.ndim == 0:
            return None
        dtype = value.dtype.str
        if dtype in _PLAIN and value.flags.c_contiguous and value.nbytes < OUT_OF_BAND:
            return dtype, value.shape, value.data if value.nbytes else b"", value.nbytes  # what follows costs a microsecond
        dtype = value.dtype.newbyteorder("<").str
        if dtype not in _PLAIN:
            dtype = {"f": "<f4" if value.dtype.itemsize < 4 else "<f8", "c": "<c16"}[value.dtype.kind]
        data = np.ascontiguousarray(value, dtype)
        return dtype, value.shape, data.reshape(-1).view(np.uint8), data.nbytes
    if type(value) is array and value.typecode in _DTYPES:
        return _DTYPES[value.typecode], (len(value),), memoryview(value).cast("B"), len(value) * value.itemsize
    return None


def _simpler(value: Any) -> Any:
    """A value of a type that only Python has, as one of the types that travel.

    Raises
    ------
    TypeError
        There is none; the message says which types travel.
    """
    np = sys.modules.get("numpy")
    if np is not None and isinstance(value, (np.ndarray, np.generic)):
        if isinstance(value, np.ndarray) and value.ndim:
            return value.tolist()  # strings, objects, records
        item = value.item()
        if isinstance(item, (np.generic, np.ndarray)):  # longdouble, which has no Python number
            item = complex(item) if value.dtype.kind == "c" else float(item)
        return item
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    for kind, simpler in _BASES:
        if isinstance(value, kind):
            return simpler(value)
    raise TypeError(
        f"a value of type {_errors.type_name(type(value))} cannot travel to another language. What can: None, bool, int, float, "
        "complex, str, bytes, datetime, list, tuple, set, dict, dataclasses, NumPy's numbers and numeric arrays"
    )


_PLAIN: Final = frozenset((*_CODES, "|b1", "<c8", "<c16"))
_WRITERS: Final[dict[type, Callable[[Packer, Any], None]]] = {
    type(None): Packer._none, bool: Packer._bool, int: Packer._int, float: Packer._float, complex: Packer._complex, str: Packer._str,
    bytes: Packer._bytes, bytearray: Packer._bytes, memoryview: Packer._bytes, list: Packer._list, tuple: Packer._list,
    dict: Packer._dict, set: Packer._list, frozenset: Packer._list, range: Packer._list, datetime.datetime: Packer._time,
    _errors.Failed: Packer._failed,
}  # fmt: skip
# The bases' own methods: what a subclass makes of them is not asked.
_BASES: Final[tuple[tuple[Any, Callable[[Any], Any]], ...]] = (
    (int, int.__int__), (float, float.__float__), (complex, complex), (str, str.__str__), (bytes, bytes), (bytearray, bytes),
    (memoryview, bytes), (Mapping, lambda value: dict(value.items())), ((list, tuple, set, frozenset, range), list),
)  # fmt: skip


def plain(record: _errors.Record) -> list[Any]:
    """An error record without what only Python can read."""
    fields: list[Any] = list(record)
    fields[1] = None
    return fields


def _stamp(value: datetime.datetime) -> bytes:
    """The longest of msgpack's time stamps."""
    since = (value if value.tzinfo is not None else value.astimezone()) - _EPOCH
    seconds = since.days * 86400 + since.seconds
    return (since.microseconds * 1000).to_bytes(4, "big") + seconds.to_bytes(8, "big", signed=True)


@functools.lru_cache(maxsize=256)  # arrays in records have the same few shapes
def array_head(dtype: str, shape: tuple[int, ...]) -> bytes:
    """What stands before the elements of an array, a multiple of 8 bytes."""
    name = dtype.encode()
    head = _HEAD.pack(len(name), len(shape)) + struct.pack(f"<{len(shape)}q", *shape) + name
    return head + bytes(-len(head) % 8)


def unpack(data: Any, buffers: Sequence[Any] = ()) -> list[Any]:
    """The values in `data`, up to its end.

    Parameters
    ----------
    data : bytes-like
    buffers : sequence of bytes-like
        What lies beside; arrays use it in place.

    Raises
    ------
    ValueError
        It is damaged.
    """
    reader = Reader(data, buffers)
    values = []
    try:
        while reader.at < len(reader.data):
            values.append(reader.get())
    except (IndexError, TypeError, OverflowError, RecursionError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"damaged msgpack: {error}") from error
    return values


class Reader:
    """Takes values from `data`, from `at` on."""

    def __init__(self, data: Any, buffers: Sequence[Any] = ()) -> None:
        self.data = bytes(data)
        self.buffers = buffers
        self.at = 0
        self.depth = 0

    def get(self) -> Any:
        """The next value."""
        data, at = self.data, self.at
        first = data[at]
        self.at = at + 1
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 256
        if first >= 0xA0:
            if first < 0xC0:
                return self._take(first & 31).decode()
            return _READERS[first](self)
        if first >= 0x90:
            return self._items(first & 15)
        return self._map(first & 15)

    def _take(self, n: int) -> bytes:
        at = self.at
        self.at = end = at + n
        if end > len(self.data):
            raise IndexError("it ends in the middle of a value")
        return self.data[at:end]

    def _text(self, n: int) -> str:
        return self._take(n).decode()

    def _uint(self, n: int) -> int:
        return int.from_bytes(self._take(n), "big")

    def _items(self, n: int) -> list[Any]:
        self._enter(n)
        items = [self.get() for _ in range(n)]
        self.depth -= 1
        return items

    def _map(self, n: int) -> dict[Any, Any]:
        self._enter(n)
        found = {}
        for _ in range(n):
            key = self.get()
            found[tuple(key) if type(key) is list else key] = self.get()
        self.depth -= 1
        return found

    def _enter(self, n: int) -> None:
        self.depth += 1
        if n > len(self.data) - self.at:
            raise IndexError(f"{n} items in {len(self.data) - self.at} bytes")
        if self.depth > _DEEP:
            raise ValueError(f"damaged msgpack: nested more than {_DEEP} deep")

    def _ext(self, n: int) -> Any:
        code = int.from_bytes(self._take(1), "big", signed=True)
        data = self._take(n)
        if code == BESIDE:
            dtype, shape, _ = read_head(data, 4)
            return make_array(dtype, shape, self.buffers[int.from_bytes(data[:4], "little")])
        return extension(code, bytearray(data) if code == ARRAY else data)


def _sized(read: Callable[[Reader, int], Any], width: int) -> Callable[[Reader], Any]:
    """Reads what a number of that many bytes announces."""
    return lambda reader: read(reader, reader._uint(width))


def _fixed(n: int) -> Callable[[Reader], Any]:
    return lambda reader: reader._ext(n)


def _numbers(n: int, signed: bool) -> Callable[[Reader], Any]:
    return lambda reader: int.from_bytes(reader._take(n), "big", signed=signed)


_READERS: Final[dict[int, Callable[[Reader], Any]]] = {
    0xC0: lambda r: None, 0xC2: lambda r: False, 0xC3: lambda r: True,
    0xCA: lambda r: _F32.unpack(r._take(4))[0], 0xCB: lambda r: _F64.unpack(r._take(8))[0],
    **{0xC4 + i: _sized(Reader._take, 1 << i) for i in range(3)},
    **{0xC7 + i: _sized(Reader._ext, 1 << i) for i in range(3)},
    **{0xD9 + i: _sized(Reader._text, 1 << i) for i in range(3)},
    **{0xDC + i: _sized(Reader._items, 2 << i) for i in range(2)},
    **{0xDE + i: _sized(Reader._map, 2 << i) for i in range(2)},
    **{0xD4 + i: _fixed(1 << i) for i in range(5)},
    **{0xCC + i: _numbers(1 << i, False) for i in range(4)},
    **{0xD0 + i: _numbers(1 << i, True) for i in range(4)},
    0xC1: lambda r: _bad(),
}  # fmt: skip


def _bad() -> None:
    raise ValueError("damaged msgpack: 0xc1 begins no value")


def read_head(data: bytes, at: int) -> tuple[str, tuple[int, ...], int]:
    """Of the array whose head stands at an offset: dtype, shape, offset of the elements."""
    n, ndim = _HEAD.unpack_from(data, at)
    shape = struct.unpack_from(f"<{ndim}q", data, at + 4)
    start = at + 4 + 8 * ndim
    dtype = data[start : start + n].decode()
    return dtype, shape, at + ((start - at + n + 7) & -8)


def make_array(dtype: str, shape: tuple[int, ...], data: Any, start: int = 0) -> Any:
    """An array on memory that belongs to it, from `start` on. Without NumPy: ``array.array``, in lists for more dimensions."""
    if dtype not in _PLAIN:
        raise ValueError(f"damaged msgpack: array of type {dtype!r}")
    try:
        import numpy as np
    except ImportError:
        return _nested(dtype, shape, memoryview(data)[start:])
    flat = np.frombuffer(data, dtype, offset=start) if len(data) > start else np.empty(0, dtype)
    return flat if flat.shape == shape else flat.reshape(shape)


def _nested(dtype: str, shape: tuple[int, ...], data: Any) -> Any:
    code = _CODES.get(dtype)
    view = memoryview(data).cast("B")
    if code is not None:
        flat: Any = array(code)
        flat.frombytes(view)
    elif dtype == "|b1":
        flat = list(map(bool, view))
    else:
        flat = [complex(*pair) for pair in struct.iter_unpack("<ff" if dtype == "<c8" else "<dd", view)]
    return _split(flat, shape) if shape else flat[0]


def _split(flat: Any, shape: tuple[int, ...]) -> Any:
    if len(shape) == 1:
        return flat
    step = len(flat) // max(shape[0], 1)
    return [_split(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def _time(data: bytes) -> datetime.datetime:
    if len(data) == 12:
        nanos, seconds = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:], "big", signed=True)
    elif len(data) == 8:
        both = int.from_bytes(data, "big")
        nanos, seconds = both >> 34, both & (1 << 34) - 1
    else:
        nanos, seconds = 0, int.from_bytes(data, "big")
    return _EPOCH + datetime.timedelta(seconds=seconds, microseconds=nanos // 1000)
