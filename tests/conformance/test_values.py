"""Tasks and results arrive as what they were: exact types, exact bits."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import functools
import math
import struct
from typing import Any

import pytest
from helpers import tasks
from pools_under_test import PoolKind


class Color(enum.IntEnum):
    RED = 1
    BLUE = 2


class Celsius(float):
    pass


class Name(str):
    pass


Pair = collections.namedtuple("Pair", "left right")

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**200,
    0.0, -0.0, 1.5, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 1j, complex(-0.0, 2),
    "", "text", "\0", "\N{SNOWMAN}", "\ud800", b"", b"\xff\0", bytearray(b"ab"), (), (1,), [], [1, [2]], {}, {1: {2}},
    set(), {1, 2}, frozenset({3}), range(3), slice(1, 2), ..., Color.BLUE, Celsius(3.5), Name("n"), Pair(1, 2),
    collections.OrderedDict(a=1), collections.Counter("aab"), collections.deque([1], maxlen=3),
    decimal.Decimal("1.10"), fractions.Fraction(1, 3), datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
    int, tasks.Point, tasks.Point(1, 2), len, tasks.square, ValueError("a result, not a failure"), NotImplemented,
]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, float):
        return type(a) is type(b) and struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, BaseException):
        return type(a) is type(b) and a.args == b.args
    return type(a) is type(b) and repr(a) == repr(b) if not isinstance(a, tasks.Point) else a == b


def test_each_value_there_and_back(pool: Any) -> None:
    results = list(pool.map(tasks.identity, VALUES))
    assert len(results) == len(VALUES)
    for sent, got in zip(VALUES, results, strict=True):
        assert same(sent, got), (sent, got)


def test_each_value_in_a_map_of_its_own(pool: Any) -> None:
    for value in VALUES:
        for n in (1, 5):
            results = list(pool.map(tasks.identity, [value] * n))
            assert len(results) == n
            assert all(same(value, got) for got in results), (value, results)


def test_type_seen_by_the_worker(pool: Any) -> None:
    expected = [tasks.type_name(v) for v in VALUES]
    assert list(pool.map(tasks.type_name, VALUES)) == expected


def test_neighbours_of_different_kinds(pool: Any) -> None:
    """A fast form for lists of equal numbers must not touch a list that merely looks like one."""
    for mixed in (
        [1, 2.0, 3], [1.0, 2, 3.0], [True, 1, 1.0], [0.0, -0.0, False], [1.0, None], [1.5, Celsius(2.5)], [1, Color.RED],
        [2**62, 2**63, 2**64], [1.0, float("nan")], ["a", Name("b")], [1.0] * 500 + [1], [1] * 500 + [True], [0] * 500 + [2**70],
    ):
        results = list(pool.map(tasks.identity, mixed))
        assert [type(r) for r in results] == [type(m) for m in mixed], mixed
        assert all(same(r, m) for r, m in zip(results, mixed, strict=True))


@pytest.mark.parametrize(
    "odd", [0, Color.RED, True, 1 << 31, -(1 << 31) - 1, (1 << 63) - 1, -(1 << 63), 1 << 63, -(1 << 63) - 1, 10**40, 2.0, None]
)
@pytest.mark.parametrize("place", [0, 7, -1])
def test_large_ints_and_one_other(pool: Any, odd: Any, place: int) -> None:
    """They travel as 64-bit words where all are ints that fit."""
    values = [10**12 + i for i in range(16)]
    values[place] = odd
    got = list(pool.map(tasks.identity, values))
    assert got == values
    assert list(map(type, got)) == list(map(type, values))


def test_nan_keeps_its_bits(pool: Any) -> None:
    nans = [struct.unpack("d", struct.pack("Q", bits))[0] for bits in (0x7FF8000000000001, 0xFFF8000000000000)]
    back = list(pool.map(tasks.identity, nans * 10))
    assert [struct.pack("d", n) for n in back] == [struct.pack("d", n) for n in nans * 10]


def test_an_exception_as_a_result_is_a_result(pool: Any) -> None:
    results = list(pool.map(tasks.identity, [KeyError("a"), 1]))
    assert type(results[0]) is KeyError
    assert results[1] == 1
    results = list(pool.map(tasks.identity, [KeyError("a"), 1], return_exceptions=True))
    assert type(results[0]) is KeyError


class TestKindsOfTasks:
    @pytest.mark.parametrize("make", [
        list, tuple, iter, set, frozenset, collections.deque, dict.fromkeys, lambda r: (x for x in r), lambda r: r,
        lambda r: dict.fromkeys(r).keys(), lambda r: dict.fromkeys(r, 0), lambda r: map(int, r), lambda r: bytes(r),
        lambda r: bytearray(r), lambda r: memoryview(bytes(r)),
    ])
    @pytest.mark.parametrize("n", [0, 1, 10, 200])
    def test_any_iterable(self, pool: Any, make: Any, n: int) -> None:
        assert sorted(pool.map(tasks.negate, make(range(n)))) == sorted(-i for i in range(n))

    @pytest.mark.parametrize("numbers", [
        range(5, -5, -2), range(2**63 - 2, 2**63 + 2), range(2**100, 2**100 + 3), range(3, 3), range(-(2**63) - 1, -(2**63) + 1),
    ])
    def test_ranges(self, pool: Any, numbers: range) -> None:
        assert list(pool.map(tasks.identity, numbers)) == list(numbers)

    def test_a_dict_gives_its_keys(self, pool: Any) -> None:
        assert list(pool.map(tasks.identity, {"a": 1, "b": 2})) == ["a", "b"]

    def test_a_string_gives_its_characters(self, pool: Any) -> None:
        assert list(pool.map(tasks.identity, "a\N{SNOWMAN}b")) == ["a", "\N{SNOWMAN}", "b"]

    def test_a_class_with_getitem_only(self, pool: Any) -> None:
        class Old:
            def __getitem__(self, n: int) -> int:
                if n == 4:
                    raise IndexError
                return n

        assert list(pool.map(tasks.square, Old())) == [0, 1, 4, 9]

    def test_a_list_subclass_with_its_own_iteration(self, pool: Any) -> None:
        class Doubled(list[int]):
            def __iter__(self) -> Any:
                return (2 * x for x in list.__iter__(self))

        assert list(pool.map(tasks.identity, Doubled([1, 2]))) == [2, 4]

    def test_zip_and_enumerate(self, pool: Any) -> None:
        assert pool.starmap(tasks.add, zip([1, 2], [3, 4], strict=True)) == [4, 6]
        assert pool.starmap(tasks.add, enumerate([10, 20])) == [10, 21]

    def test_the_same_object_many_times(self, pool: Any) -> None:
        point = tasks.Point(3, 4)
        assert list(pool.map(tasks.point_norm, [point] * 100)) == [25] * 100

    def test_tasks_that_are_none(self, pool: Any) -> None:
        assert list(pool.map(tasks.identity, [None] * 10)) == [None] * 10

    def test_list_that_grows_meanwhile(self, pool: Any, kind: PoolKind) -> None:
        """What is mapped is the list as it was at the call or as it is iterated; never a mixture that loses results."""
        kind.needs("eager map")
        work = [1, 2, 3]
        results = pool.map(tasks.identity, work, callback=lambda _: work.append(0) if len(work) < 6 else None)
        assert results in ([1, 2, 3], [1, 2, 3, 0, 0, 0])


class TestManyTasks:
    def test_hundred_thousand_tiny_ones(self, pool: Any) -> None:
        n = 100_000
        assert sum(pool.map(tasks.negate, range(n))) == -n * (n - 1) // 2

    def test_hundred_thousand_from_a_generator(self, pool: Any) -> None:
        n = 100_000
        results = list(pool.map(tasks.identity, (str(i) for i in range(n))))
        assert results == [str(i) for i in range(n)]

    def test_hundred_thousand_nones(self, pool: Any) -> None:
        assert list(pool.map(tasks.nothing, range(100_000))) == [None] * 100_000

    def test_chunksize_one(self, pool: Any) -> None:
        assert list(pool.map(tasks.square, range(5000), chunksize=1)) == [n * n for n in range(5000)]

    @pytest.mark.parametrize("order", ["light first", "heavy first", "one giant"])
    def test_uneven_ones(self, pool: Any, order: str) -> None:
        sizes = [10 * 2 ** (n % 12) for n in range(120)]
        if order == "light first":
            sizes.sort()
        elif order == "heavy first":
            sizes.sort(reverse=True)
        else:
            sizes = [300_000] + [1] * 500
        assert list(pool.map(tasks.spin, sizes)) == [tasks.spin(n) for n in sizes]

    def test_long_text_and_bytes(self, pool: Any) -> None:
        work = ["x" * n for n in (0, 1, 70_000, 3_000_000)] + [b"y" * 5_000_000, bytearray(200_000)]
        assert list(pool.map(tasks.identity, work)) == work

    def test_small_tasks_with_big_results(self, pool: Any) -> None:
        results = list(pool.map(functools.partial(bytes.__mul__, b"ab"), [1_000_000] * 12))
        assert all(r == b"ab" * 1_000_000 for r in results)
        assert len(results) == 12


@pytest.mark.parametrize("n", [1, 2, 5, 13])
def test_worker_counts(fresh: Any, kind: PoolKind, n: int) -> None:
    """Fewer tasks than workers, as many, more; chunks of one: the races of hand-out and of the end of a map."""
    kind.needs("size")
    if n == 13 and not kind.cheap:
        pytest.skip(f"{kind.name}: thirteen interpreters take too long to start here")
    pool = fresh(n)
    for count in (1, n - 1, n, n + 1, 10 * n):
        for chunksize in (None, 1, 3):
            assert list(pool.map(tasks.square, range(count), chunksize=chunksize)) == [i * i for i in range(count)]
    for _ in range(20):
        assert list(pool.map(tasks.negate, range(2 * n))) == [-i for i in range(2 * n)]
    assert sorted(pool.imap_unordered(tasks.square, range(5 * n))) == [i * i for i in range(5 * n)]
