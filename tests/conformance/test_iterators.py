"""imap and imap_unordered: order, laziness, bounded intake, timeouts, errors in the middle."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import tasks
from helpers.gates import Gate, pass_gate_if
from pools_under_test import PoolKind

BOTH = pytest.mark.parametrize("method", ["imap", "imap_unordered"])

# How far ahead of the consumer a pool may draw tasks. A guess: generous for tiny tasks, and far from "lists them first".
AHEAD = 20_000


class Counted:
    """An endless iterator that counts what was drawn from it."""

    def __init__(self, make: Any = int) -> None:
        self.drawn = 0
        self.make = make

    def __iter__(self) -> Iterator[Any]:
        while True:
            self.drawn += 1
            yield self.make(self.drawn - 1)


@BOTH
@pytest.mark.parametrize("n", [0, 1, 2, 5, 300])
def test_gives_every_result_once(pool: Any, method: str, n: int) -> None:
    results = list(getattr(pool, method)(tasks.square, range(n)))
    assert sorted(results) == [i * i for i in range(n)]
    if method == "imap":
        assert results == sorted(results)


@BOTH
@pytest.mark.parametrize("chunksize", [1, 3, 50, 10**6])
def test_every_chunksize(pool: Any, method: str, chunksize: int) -> None:
    results = list(getattr(pool, method)(tasks.square, range(100), chunksize))
    assert sorted(results) == [i * i for i in range(100)]


@BOTH
def test_is_an_iterator(pool: Any, method: str) -> None:
    results = getattr(pool, method)(tasks.square, [1, 2])
    assert iter(results) is results
    assert next(results) + results.next() == 5
    with pytest.raises(StopIteration):
        next(results)
    with pytest.raises(StopIteration):
        results.next(timeout=1)


@BOTH
def test_endless_tasks_with_bounded_intake(pool: Any, method: str) -> None:
    source = Counted()
    results = getattr(pool, method)(tasks.square, source)
    first = list(itertools.islice(results, 10))
    if method == "imap":
        assert first == [i * i for i in range(10)]
    assert 10 <= source.drawn <= AHEAD
    list(itertools.islice(results, 1000))
    assert source.drawn <= 1010 + AHEAD
    del results
    assert list(pool.map(tasks.square, range(5))) == [0, 1, 4, 9, 16]


@BOTH
def test_intake_waits_for_the_consumer(pool: Any, method: str) -> None:
    """Nobody asks, nobody draws: not even in the time that a full map takes."""
    source = Counted()
    results = getattr(pool, method)(tasks.square, source)
    next(results)
    before = source.drawn
    assert before <= AHEAD
    list(itertools.islice(results, 100))
    assert source.drawn <= 101 + AHEAD


@BOTH
def test_intake_of_big_tasks_is_bounded_in_bytes(pool: Any, method: str) -> None:
    """One MB per task: the lookahead may not become the memory of the machine."""
    source = Counted(lambda n: bytes(1_000_000))
    results = getattr(pool, method)(len, source)
    assert list(itertools.islice(results, 5)) == [1_000_000] * 5
    assert source.drawn <= 5 + 256
    del results


def test_without_workers_draws_no_task_before_it_is_asked(kind: PoolKind, pool: Any) -> None:
    if kind.has("parallel"):
        pytest.skip(f"{kind.name}: works ahead of the consumer, within bounds")
    source = Counted()
    results = pool.imap(tasks.square, source)
    assert source.drawn == 0
    list(itertools.islice(results, 3))
    assert source.drawn == 3


def test_starts_before_anybody_iterates(pool: Any, kind: PoolKind, gate: Gate) -> None:
    kind.needs("parallel")
    results = pool.imap(functools.partial(pass_gate_if, gate.path, (0,)), range(3), chunksize=1)
    gate.wait_started()
    gate.open()
    assert list(results) == [0, 1, 2]


def test_unordered_gives_what_is_ready(pool: Any, kind: PoolKind, gate: Gate) -> None:
    kind.needs("parallel", "prompt")
    results = pool.imap_unordered(functools.partial(pass_gate_if, gate.path, (0,)), range(5), chunksize=1)
    early = [next(results) for _ in range(4)]
    assert sorted(early) == [1, 2, 3, 4]
    gate.open()
    assert list(results) == [0]


def test_ordered_streams(pool: Any, kind: PoolKind, gate: Gate) -> None:
    kind.needs("parallel")
    results = pool.imap(functools.partial(pass_gate_if, gate.path, (3,)), range(5), chunksize=1)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    gate.open()
    assert list(results) == [3, 4]


def test_next_with_timeout(pool: Any, kind: PoolKind, gate: Gate) -> None:
    kind.needs("parallel")
    results = pool.imap(functools.partial(pass_gate_if, gate.path, (0,)), range(3), chunksize=1)
    for timeout in (0, 0.02):
        with pytest.raises(TimeoutError) as caught:
            results.next(timeout=timeout)
        assert isinstance(caught.value, multiprocessing.TimeoutError)
    gate.open()
    assert results.next(timeout=20) == 0
    assert list(results) == [1, 2]


@BOTH
def test_break_and_map_again(pool: Any, method: str) -> None:
    for n, _ in enumerate(getattr(pool, method)(tasks.square, range(1000))):
        if n == 3:
            break
    assert list(pool.map(tasks.negate, range(100))) == [-n for n in range(100)]


def test_two_at_once(pool: Any) -> None:
    pairs = list(zip(pool.imap(tasks.square, range(50)), pool.imap(tasks.negate, range(50)), strict=True))
    assert pairs == [(n * n, -n) for n in range(50)]


def test_map_while_half_consumed(pool: Any) -> None:
    results = pool.imap(tasks.square, range(50))
    first = next(results)
    assert list(pool.map(tasks.negate, range(50))) == [-n for n in range(50)]
    assert [first, *results] == [n * n for n in range(50)]


def test_one_pool_feeds_itself(pool: Any) -> None:
    """Results of one imap are the tasks of the next: a pipeline. Right, or a clear error; never a hang."""
    try:
        results = list(pool.imap(tasks.negate, pool.imap(tasks.square, range(20))))
    except RuntimeError as error:
        assert str(error)
    else:
        assert results == [-n * n for n in range(20)]
    assert list(pool.map(tasks.square, [3])) == [9]


class TestErrors:
    def test_at_its_place_and_the_rest_after_it(self, pool: Any) -> None:
        results = pool.imap(functools.partial(tasks.boom_on, 2), range(5), chunksize=1)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="boom 2"):
            next(results)
        assert list(results) == [3, 4]

    def test_unordered(self, pool: Any) -> None:
        results = pool.imap_unordered(functools.partial(tasks.boom_on, 2), range(5), chunksize=1)
        seen, errors = [], []
        while True:
            try:
                seen.append(next(results))
            except StopIteration:
                break
            except ValueError as error:
                errors.append(str(error))
        assert sorted(seen) == [0, 1, 3, 4]
        assert errors == ["boom 2"]

    @BOTH
    def test_in_place_on_request(self, pool: Any, method: str) -> None:
        results = list(getattr(pool, method)(functools.partial(tasks.boom_on, 2), range(5), return_exceptions=True))
        errors = [r for r in results if isinstance(r, Exception)]
        assert [str(e) for e in errors] == ["boom 2"]
        assert sorted(r for r in results if isinstance(r, int)) == [0, 1, 3, 4]
        if method == "imap":
            assert results[2] is errors[0]

    @BOTH
    def test_stop_iteration_in_a_task_is_not_the_end(self, pool: Any, method: str) -> None:
        """It would cut the results short without a word."""
        results = getattr(pool, method)(tasks.stop_iteration, range(5), chunksize=1)
        with pytest.raises((RuntimeError, StopIteration)) as caught:
            for _ in range(5):
                next(results)
        assert not isinstance(caught.value, StopIteration) or caught.value.value == "from a task"

    @BOTH
    def test_tasks_that_raise(self, pool: Any, method: str) -> None:
        def source() -> Iterator[int]:
            yield 1
            yield 2
            raise LookupError("no more tasks")

        with pytest.raises(LookupError, match="no more tasks"):
            list(getattr(pool, method)(tasks.square, source()))
        assert list(pool.map(tasks.square, [3])) == [9]


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
class TestEndOfThePool:
    """An iterator that nobody has used up, and a pool that is closed and joined: all tasks run, and no result is lost."""

    def test_results_are_there_afterwards(self, fresh: Callable[..., Any], method: str) -> None:
        pool = fresh()
        results = getattr(pool, method)(tasks.square, (n for n in range(3000)))
        first = next(results)
        untouched = getattr(pool, method)(tasks.square, range(30))
        pool.close()
        pool.join()
        assert sorted([first, *results]) == [n * n for n in range(3000)]
        assert sorted(untouched) == [n * n for n in range(30)]

    def test_so_are_errors(self, fresh: Callable[..., Any], method: str) -> None:
        def source() -> Iterator[int]:
            yield from range(1000)
            raise LookupError("no more tasks")

        pool = fresh()
        results = getattr(pool, method)(tasks.boom, range(3))
        broken = getattr(pool, method)(tasks.square, source())
        pool.close()
        pool.join()
        for _ in range(3):
            with pytest.raises(Exception, match="boom"):
                next(results)
        with pytest.raises(StopIteration):
            next(results)
        with pytest.raises(LookupError, match="no more tasks"):
            list(broken)
        assert list(broken) == []

    def test_within_the_loop_over_it(self, fresh: Callable[..., Any], method: str) -> None:
        pool = fresh()
        found = []
        for result in getattr(pool, method)(tasks.square, range(200)):
            if not found:
                pool.close()
                pool.join()
            found.append(result)
        assert sorted(found) == [n * n for n in range(200)]
