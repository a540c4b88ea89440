"""Numbers as words: what goes in comes out, with its type, with the C library and without it."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from schwimmbad_go import MultiPool, _payload, _words

np = pytest.importorskip("numpy")

LONG = _payload.LONG_LIST
DRAW = random.Random(7)


class MyInt(int):
    pass


def same(x: Any) -> Any:
    return x


@pytest.fixture(params=["C", "Python"])
def pack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of the two ways packs."""
    loaded = _words.load(_words.library_path()) if request.param == "C" else (_words.ints, _words.floats)
    assert loaded is not None, "the library was not built, or does not fit this Python"
    monkeypatch.setattr(_words, "_loaded", loaded)
    return str(request.param)


GOOD = {
    "ints of 64 bits": [-(1 << 63), (1 << 63) - 1, *(DRAW.randrange(-(1 << 63), 1 << 63) for _ in range(LONG)), 1 << 40],
    "floats": [0.0, -0.0, math.inf, -math.inf, 5e-324, *(DRAW.gauss(0, 1) for _ in range(LONG))],
    "numpy.float64": [np.float64(DRAW.gauss(0, 1)) for _ in range(LONG)],
}
BAD = {
    "a bool among ints": [1 << 40] * LONG + [True, 1 << 40],
    "a bool first": [True] + [1 << 40] * LONG,
    "a subclass of int": [1 << 40] * LONG + [MyInt(1), 1 << 40],
    "an int of 65 bits": [1 << 40] * LONG + [1 << 63, 1 << 40],
    "a negative one": [1 << 40] * LONG + [-(1 << 63) - 1, 1 << 40],
    "an int among floats": [1.0] * LONG + [1, 1.0],
    "numpy.float64 among floats": [1.0] * LONG + [np.float64(1), 1.0],
    "a float among numpy.float64": [np.float64(1)] * LONG + [1.0, np.float64(1)],
    "numpy.float32": [np.float32(1)] * (LONG + 1),
    "None among ints": [1 << 40] * LONG + [None, 1 << 40],
}


@pytest.mark.parametrize("values", GOOD.values(), ids=GOOD)
def test_comes_back(pack: str, values: list[Any]) -> None:
    kind, data = _payload.pack_numbers(values)
    assert kind != _payload.PICKLE and len(data) == 8 * len(values)
    back = list(_payload.decode(kind, memoryview(data), []))
    assert list(map(repr, back)) == list(map(repr, values)) and list(map(type, back)) == list(map(type, values))
    part = _payload.pack_tasks(values, 3, LONG - 10)
    assert part is not None
    assert list(_payload.decode(part[0], memoryview(part[1]), [])) == values[3 : LONG - 7]


@pytest.mark.parametrize("values", BAD.values(), ids=BAD)
def test_is_left_to_pickle(pack: str, values: list[Any]) -> None:
    assert _payload.pack_numbers(values) == (_payload.PICKLE, values)
    assert _payload.pack_tasks(values, 0, len(values)) is None


def test_nan_keeps_its_bits(pack: str) -> None:
    values = np.frombuffer(np.full(LONG, 0x7FF8_0000_DEAD_BEEF).tobytes(), np.float64)
    for numbers in (list(values), values.tolist()):
        kind, data = _payload.pack_numbers(numbers)
        assert kind != _payload.PICKLE and bytes(data) == values.tobytes()


def test_a_list_that_became_shorter() -> None:
    ints, floats = _words.load(_words.library_path()) or pytest.fail("no library")
    for first, count in ((0, 4), (2, 2), (3, 1), (-1, 1), (1, -1), (sys.maxsize, 1), (1, sys.maxsize)):
        assert ints([1, 2, 3], first, count, int) is None
        assert floats([1.0, 2.0, 3.0], first, count, float) is None
    assert ints([1, 2, 3], 1, 2, int) == np.array([2, 3]).tobytes()


def test_references_are_counted() -> None:
    """Neither the numbers nor None gain or lose any, whether it packs or not."""
    ints, _ = _words.load(_words.library_path()) or pytest.fail("no library")
    values = [(1 << 40) + i for i in range(LONG)]
    spoilt = [*values, "x"]
    before = [sys.getrefcount(v) for v in values], sys.getrefcount(values), sys.getrefcount(None)
    for _ in range(1000):
        ints(values, 0, LONG, int)
        ints(spoilt, 0, LONG + 1, int)
    after = [sys.getrefcount(v) for v in values], sys.getrefcount(values), sys.getrefcount(None)
    assert after[:2] == before[:2] and abs(after[2] - before[2]) < 100


def test_without_the_library(tmp_path: Path) -> None:
    assert _words.load(tmp_path / "libschwimmbad_words.so") is None
    code = (
        "import sys; sys.implementation.name = 'another'\n"
        "from schwimmbad_go import _words; assert _words.load(_words.library_path()) is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_broken_library_is_told_and_does_not_stop_a_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "libschwimmbad_words.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(_words, "library_path", lambda: broken)
    monkeypatch.setattr(_words, "_loaded", None)
    with pytest.warns(RuntimeWarning, match=r"libschwimmbad_words\.so does not load.*numbers take longer"):
        assert _words.pack([1 << 40] * LONG, 0, LONG, int) == np.full(LONG, 1 << 40).tobytes()


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
@pytest.mark.parametrize("values", [*GOOD.values(), *BAD.values()], ids=[*GOOD, *BAD])
def test_through_a_pool(start_method: str, values: list[Any]) -> None:
    with MultiPool(1, start_method=start_method) as pool:
        back = pool.map(same, values, chunksize=len(values))
    assert list(map(repr, back)) == list(map(repr, values)) and list(map(type, back)) == list(map(type, values))
