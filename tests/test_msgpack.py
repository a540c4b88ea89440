"""Values between Python and Go: the vectors of both sides, round trips, damage, and what cannot travel."""

from __future__ import annotations

import datetime
import enum
import io
import math
import os
import pickle
import random
import subprocess
import sys
import textwrap
from array import array
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capi.parse import ROOT
from schwimmbad_go import _errors, _msgpack
from schwimmbad_go import _layout as L

TESTDATA = ROOT / "pools" / "internal" / "codec" / "testdata"
UTC = datetime.timezone.utc

# What Go encodes; codec_test.go has the same list.
FROM_GO: dict[str, list[Any]] = {
    "ints": [
        0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**63 - 1, 2**64 - 1, -1, -32, -33, -129, -40000, -(2**63),
    ],
    "floats": [0.5, -1e300, 0.25],
    "simple": [None, True, False, 1.5 - 2j],
    "text": ["", "ä", "x" * 31, "x" * 32, "x" * 256],
    "bytes": [b"", b"\0\xff", b"\x07" * 256],
    "lists": [[], [1, [2, None]], [None] * 16],
    "maps": [{}, {"k": ["v"]}, {1: "one"}, {"A": 1, "B": 2}],
    "arrays": [
        np.array([1.0, 2.0]), np.array([], np.int8), np.array([[1, 2, 3], [4, 5, 6]], np.float32), np.array([True, False]),
        np.array([[[3], [4]]], np.uint16), np.array([1j], np.complex64),
    ],
    "big": [2**70, -(2**64)],
    "instant": [
        datetime.datetime(1970, 1, 1, 0, 0, 1, 500000, UTC), datetime.datetime(2514, 5, 30, 1, 53, 4, 0, UTC),
        datetime.datetime(1969, 12, 31, 23, 59, 59, 0, UTC), datetime.datetime(1970, 1, 1, 0, 1, 40, 0, UTC),
    ],
}  # fmt: skip

# What Go makes of Python's values: as fmt's "%T %v" has it.
TO_GO: list[tuple[Any, str]] = [
    (None, "<nil> <nil>"), (True, "bool true"), (5, "int64 5"), (-33, "int64 -33"), (1 << 40, "int64 1099511627776"),
    (-(1 << 63), "int64 -9223372036854775808"), (1 << 63, "uint64 9223372036854775808"), (1 << 64, "*big.Int 18446744073709551616"),
    (-(1 << 70), "*big.Int -1180591620717411303424"), (0.5, "float64 0.5"), (math.inf, "float64 +Inf"), (1 - 2j, "complex128 (1-2i)"),
    ("ä" * 20, "string " + "ä" * 20), (b"ab", "[]uint8 [97 98]"), ((1, "a"), "[]interface {} [1 a]"),
    ({"b": 1}, "map[string]interface {} map[b:1]"),
    ({2: 1}, "map[interface {}]interface {} map[2:1]"), (np.arange(3), "[]int64 [0 1 2]"), (np.float32(0.5), "float64 0.5"),
    (array("f", [1.5]), "[]float32 [1.5]"), (np.ones((1, 2)), "codec.Array[float64] {[1 2] [1 1]}"),
    (datetime.datetime(2026, 1, 2, 3, 4, 5, 6000, UTC), "time.Time 2026-01-02 03:04:05.006 +0000 UTC"),
]  # fmt: skip


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, list):
        return type(b) is list and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return type(b) is dict and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and bool(a == b)


def round_trip(*values: Any) -> list[Any]:
    data, large = _msgpack.pack(values)
    return _msgpack.unpack(memoryview(bytes(data)), [bytearray(b) for b in large])


def pickled(values: list[Any]) -> bytes:
    out = io.BytesIO()
    _msgpack._Pickler(out, 5).dump(values)
    return out.getvalue()


def test_vectors_from_go() -> None:
    lines = dict(line.split(" ") for line in (TESTDATA / "vectors.txt").read_text().splitlines())
    assert lines.keys() == {name + form for name in FROM_GO for form in ("", "-pickle")}
    for name, values in FROM_GO.items():
        assert same(_msgpack.unpack(bytes.fromhex(lines[name])), values), name
        assert same(pickle.loads(bytes.fromhex(lines[name + "-pickle"])), values), name


def test_vectors_for_go(request: pytest.FixtureRequest) -> None:
    """Go's TestPythonVectors reads this file. Written anew by SWG_UPDATE=1."""
    for name, text in {
        "python.txt": "".join(f"{_msgpack.pack([value])[0].hex()} {go}\n" for value, go in TO_GO),
        "pickles.txt": "".join(f"{pickled([value]).hex()}\n" for value, _ in TO_GO),
    }.items():
        path = TESTDATA / name
        if os.environ.get("SWG_UPDATE"):
            path.write_text(text)
        assert path.read_text() == text


def test_round_trips() -> None:
    assert same(round_trip("x" * 65536, bytes(65536), [None] * 65536), ["x" * 65536, bytes(65536), [None] * 65536])
    for values in FROM_GO.values():
        assert same(round_trip(*values), values)
    large = np.arange(100_000.0).reshape(2, -1)
    data, beside = _msgpack.pack([large])
    assert len(data) < 100 and beside[0].nbytes == large.nbytes
    assert same(round_trip(large, [large]), [large, [large]])


def _random(r: random.Random, deep: int) -> Any:
    pick = r.randrange(12)
    if pick < 2:
        return r.getrandbits(r.randrange(1, 90)) * r.choice((1, -1))
    if pick == 2:
        return r.random()
    if pick == 3:
        return "é" * r.randrange(200)
    if pick == 4:
        return bytes(r.randrange(400))
    if pick == 5:
        return np.zeros((r.randrange(3), r.randrange(4)), r.choice(("<f8", "<i2", "|u1", "<c16", "|b1")))
    if pick == 6 or not deep:
        return r.choice((None, True, False, 1j))
    if pick < 9:
        return [_random(r, deep - 1) for _ in range(r.randrange(20))]
    return {r.choice((str, int))(r.randrange(99)): _random(r, deep - 1) for _ in range(r.randrange(20))}


def test_random_values() -> None:
    r = random.Random(1)
    for _ in range(500):
        values = [_random(r, 3), _random(r, 2)]
        assert same(round_trip(*values), values)
        assert same(pickle.loads(pickled(values)), values)


def test_damage() -> None:
    """Whatever is done to the bytes: an answer or ValueError."""
    r = random.Random(2)
    for values in FROM_GO.values():
        good = bytes(_msgpack.pack(values)[0])[:2000]
        for _ in range(200):
            bad = bytearray(good[: r.randrange(len(good) + 1)])
            for _ in range(r.randrange(4)):
                if bad:
                    bad[r.randrange(len(bad))] = r.randrange(256)
            try:
                _msgpack.unpack(bad)
            except ValueError:
                pass
    for bad in (b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x91" * 2000 + b"\xc0", b"\xc7\x01\x63\x00"):
        with pytest.raises(ValueError, match="damaged"):
            _msgpack.unpack(bad)


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Body:
    name: str
    mass: float


class Text(str):
    def __str__(self) -> str:
        return "not this"


class Whole(int):
    pass


class Real(float):
    pass


class Strange(dict):  # type: ignore[type-arg]
    pass


def test_kinds() -> None:
    pair = namedtuple("pair", "x y")
    given = [(1, 2), {3}, range(2), Colour.RED, Body("a", 1.0), pair(1, 2), Path("/x"), OrderedDict(a=1), Strange(b=2), memoryview(b"m"),
             np.float64(1.5), np.int8(3), np.bool_(True), np.array(7), np.array(["s"]), np.longdouble(2), Text("t"), Whole(4),
             Real(0.5), array("i", [1])]  # fmt: skip
    want = [[1, 2], [3], [0, 1], "red", {"name": "a", "mass": 1.0}, [1, 2], "/x", {"a": 1}, {"b": 2}, b"m",
            1.5, 3, True, 7, ["s"], 2.0, "t", 4, 0.5, np.array([1], "i4")]  # fmt: skip
    assert same(round_trip(*given), want)
    got = pickle.loads(pickled(given))
    assert got[:2] == [(1, 2), {3}]  # for Go lists
    assert same(got[2:], want[2:])
    assert same(pickle.loads(pickled([{"k": given[2:]}] * 2)), [{"k": want[2:]}] * 2)
    for dtype, then in ((">f8", "<f8"), ("<f2", "<f4"), (">i4", "<i4"), ("g", "<f8")):
        assert same(round_trip(np.arange(3).astype(dtype)), [np.arange(3).astype(then)])
        assert same(pickle.loads(pickled([np.arange(3).astype(dtype)])), [np.arange(3).astype(then)])
    assert same(round_trip(np.arange(12).reshape(3, 4).T, np.arange(9)[::-2]), [np.arange(12).reshape(3, 4).T, np.arange(9)[::-2]])
    naive = datetime.datetime(2026, 5, 6, 7, 8, 9)
    assert round_trip(naive) == [naive.astimezone()] == pickle.loads(pickled([naive]))


def test_what_cannot_travel() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(RecursionError):
        _msgpack.pack([loop])
    for bad in (object(), lambda: 0, Body, [{1: {"x": object()}}]):
        with pytest.raises(TypeError, match="cannot travel"):
            _msgpack.pack([bad])


def test_results() -> None:
    kinds = {kind: _msgpack.encode_results(values)[0] for kind, values in {
        "floats": [1.0, 2.0], "ints": [1, -5], "mixed": [1, 2.0], "bools": [True, False], "long": [1, 1 << 70],
        "rows": [np.ones(3), np.ones(3)],
        "ragged": [np.ones(3), np.ones(2)], "big-endian": [np.ones(3, ">f8")] * 2, "float64": [np.float64(1)],
    }.items()}  # fmt: skip
    assert kinds == {"floats": L.FLOATS, "ints": L.INTS, "mixed": L.PICKLE, "bools": L.PICKLE, "long": L.PICKLE, "rows": L.SLAB,
                     "ragged": L.PICKLE, "big-endian": L.PICKLE, "float64": L.NP_FLOATS}  # fmt: skip


def test_failures_among_results() -> None:
    record = _errors.Record(0, b"pickled", "ValueError", "no", "trace", 7)
    data, _ = _msgpack.pack([1, _errors.Failed(record)])
    assert data[1] == 0xC9 and data[6] == _msgpack.FAILED
    assert _msgpack.unpack(data[7:]) == [[0, None, "ValueError", "no", "trace", 7, None, "", None]]
    kind, inband, _ = _msgpack.encode_results(["x", _errors.Failed(record)])
    assert kind == L.PICKLE and bytes(data[7:]) in bytes(inband)  # for Go, which knows the extension


def test_arrays_in_pickles() -> None:
    """A large one lies beside; a small one that arrives is the receiver's own."""
    large = np.arange(100_000.0)
    kind, inband, beside = _msgpack.encode_results([{"a": large, "b": large}, {"a": large[:5]}])
    assert kind == L.PICKLE and len(inband) < 1000 and [b.nbytes for b in beside] == [large.nbytes]
    for other in (large + 1j, large.reshape(2, -1).T, large[::-1], np.ma.masked_array(large), large > 5, np.zeros((0, 3))):
        inband, beside = _msgpack.pack([other])
        assert same(_msgpack.unpack(inband, [bytearray(b) for b in beside]), [np.ascontiguousarray(other)])
        assert [bytes(b) for b in _msgpack.encode_results([[other]])[2]] == [bytes(b) for b in beside]
    head = _msgpack.array_head("<f8", (2, 2))
    array = _msgpack.beside(head, bytearray(32))
    assert array.shape == (2, 2) and array.flags.writeable
    small = _msgpack.extension(_msgpack.ARRAY, bytearray(head + bytes(32)))
    assert small.shape == (2, 2) and small.flags.writeable
    with pytest.raises(ValueError, match="extension 9"):
        _msgpack.extension(9, b"")


def test_without_numpy() -> None:
    """The embedded Python has none: arrays are the standard library's."""
    text = """
        import sys
        sys.modules["numpy"] = None  # an import of it fails
        from array import array
        from schwimmbad_go import _msgpack, _payload, _layout as L
        head = _msgpack.array_head
        data, large = _msgpack.pack([array("d", [1, 2])])
        assert _msgpack.unpack(data) == [array("d", [1, 2])]
        two = head("<i2", (2, 2)) + b"\\1\\0\\2\\0\\3\\0\\4\\0"
        assert _payload.decode(L.SLAB, memoryview(two), ()) == [array("h", [1, 2]), array("h", [3, 4])]
        assert _msgpack.make_array("|b1", (2,), b"\\1\\0") == [True, False]
        assert _msgpack.make_array("<c16", (1,), bytes(16)) == [0j]
        assert _msgpack.make_array("<f8", (2, 0), b"") == [array("d")] * 2, _msgpack.make_array("<f8", (2, 0), b"")
        print("fine")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "fine\n", done.stderr
