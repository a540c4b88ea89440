"""Each distinct payload crosses once: counted in bytes, not in seconds.

The shapes are those of the samplers: emcee maps one function object that carries the data; dynesty puts the likelihood into
every task; both again and again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
from pools_under_test import PoolKind

np = pytest.importorskip("numpy")

MB = 1_000_000
BIG = 10 * MB  # bytes of payload
SLACK = 200_000  # for everything else that a few small maps send


class Likelihood:
    """The user's object: big data, a parameter, and a method that is mapped."""

    def __init__(self, seed: int = 0) -> None:
        self.data = np.random.default_rng(seed).normal(size=BIG // 8)
        self.scale = 1.0
        self.calls = 0

    def __call__(self, x: float) -> float:
        self.calls += 1
        return float(self.data[:10].sum() * self.scale * x)

    def loglike(self, x: float) -> float:
        return self(x)

    def dirty(self, x: float) -> float:
        """Changes its data in place, and tells what it found."""
        found = float(self.data[0])
        self.data[0] = x
        return found

    def count(self, _: Any) -> int:
        self.calls += 1
        return self.calls


def on_data(data: Any, x: float) -> float:
    return float(data[:10].sum() * x)


def dynesty_task(task: tuple[Likelihood, float]) -> float:
    likelihood, x = task
    return likelihood(x)


def identity_of_data(task: tuple[Likelihood, float]) -> float:
    return float(task[0].data[-1])


def text_length(text: Any, x: int) -> int:
    return len(text) + x


@pytest.fixture
def counted(fresh: Any, kind: PoolKind) -> Iterator[Any]:
    """A pool, and a function that tells how many bytes went to the workers since it was last asked."""
    kind.needs("statistics", "pickling")
    pool = fresh(2)
    pool.map(abs, range(4))
    last = [pool.statistics().bytes_in]

    def sent() -> int:
        now = pool.statistics().bytes_in
        delta = now - last[0]
        last[0] = now
        return int(delta)

    yield pool, sent


class TestFunction:
    def check(self, counted: Any, func: Any, expected: Any) -> None:
        pool, sent = counted
        assert pool.map(func, [1.0, 2.0] * 8) == expected
        first = sent()
        assert BIG <= first <= 1.1 * BIG + SLACK, first
        for _ in range(5):
            assert pool.map(func, [1.0, 2.0] * 8) == expected
        assert sent() <= SLACK

    def test_callable_object(self, counted: Any) -> None:
        likelihood = Likelihood()
        self.check(counted, likelihood, [likelihood(1.0), likelihood(2.0)] * 8)

    def test_bound_method(self, counted: Any) -> None:
        likelihood = Likelihood()
        expected = [likelihood(1.0), likelihood(2.0)] * 8
        self.check(counted, likelihood.loglike, expected)

    def test_partial_over_an_array(self, counted: Any) -> None:
        data = Likelihood().data
        self.check(counted, functools.partial(on_data, data), [on_data(data, 1.0), on_data(data, 2.0)] * 8)

    def test_closure_over_an_array(self, counted: Any) -> None:
        pytest.importorskip("cloudpickle")
        data = Likelihood().data
        self.check(counted, lambda x: on_data(data, x), [on_data(data, 1.0), on_data(data, 2.0)] * 8)

    def test_data_that_is_no_array(self, counted: Any) -> None:
        text = "x" * BIG
        pool, sent = counted
        func = functools.partial(text_length, text)
        assert pool.map(func, range(16)) == [BIG + n for n in range(16)]
        assert BIG <= sent() <= 1.1 * BIG + SLACK
        for _ in range(5):
            assert pool.map(func, range(16)) == [BIG + n for n in range(16)]
        assert sent() <= SLACK

    def test_a_new_but_equal_object_each_map(self, counted: Any) -> None:
        """emcee builds its wrapper anew after unpickling; what counts is the content."""
        pool, sent = counted
        data = Likelihood().data
        for _ in range(5):
            assert pool.map(functools.partial(on_data, data), [1.0] * 4) == [on_data(data, 1.0)] * 4
        assert sent() <= 1.1 * BIG + SLACK

    def test_two_functions_in_turn(self, counted: Any) -> None:
        """A sampler maps prior and likelihood alternately: neither may push the other out."""
        pool, sent = counted
        one, two = Likelihood(1), Likelihood(2)
        for _ in range(6):
            assert pool.map(one, [1.0] * 4) == [one(1.0)] * 4
            assert pool.map(two, [1.0] * 4) == [two(1.0)] * 4
        assert sent() <= 2.2 * BIG + 2 * SLACK


class TestChange:
    def test_small_change_beside_the_data(self, counted: Any) -> None:
        pool, sent = counted
        likelihood = Likelihood()
        pool.map(likelihood, [1.0] * 4)
        sent()
        for scale in (2.0, 3.0, 2.0):
            likelihood.scale = scale
            assert pool.map(likelihood, [1.0] * 4) == [likelihood(1.0)] * 4
        assert sent() <= 3 * BIG * 1.1 + SLACK

    @pytest.mark.parametrize("where", [0, BIG // 16, -1])
    def test_change_inside_the_data(self, counted: Any, where: int) -> None:
        """One number of 1.25 million, in place: the object's identity and size tell nothing."""
        pool, _ = counted
        likelihood = Likelihood()
        task = (likelihood, 1.0)
        for value in (5.0, 6.0, 6.0, 5.0):
            likelihood.data[where] = value
            assert pool.map(functools.partial(_item, likelihood, where), range(4)) == [value] * 4
            likelihood.data[-1] = value
            assert pool.map(identity_of_data, [task] * 4) == [value] * 4

    def test_data_replaced_by_an_equal_copy(self, counted: Any) -> None:
        pool, sent = counted
        likelihood = Likelihood()
        pool.map(likelihood, [1.0] * 4)
        sent()
        likelihood.data = likelihood.data.copy()
        assert pool.map(likelihood, [1.0] * 4) == [likelihood(1.0)] * 4
        assert sent() <= SLACK

    def test_what_a_task_changed_is_gone_in_the_next_map(self, counted: Any) -> None:
        pool, _ = counted
        likelihood = Likelihood()
        original = float(likelihood.data[0])
        for n in range(4):
            found = pool.map(likelihood.dirty, [100.0 + n] * 8, chunksize=1)
            assert original in found
            assert set(found) <= {original, 100.0 + n}, "a value written by an earlier map"
        assert float(likelihood.data[0]) == original

    def test_counter_in_the_callable_starts_anew(self, counted: Any) -> None:
        pool, _ = counted
        likelihood = Likelihood()
        for _ in range(4):
            counts = pool.map(likelihood.count, range(8), chunksize=1)
            assert max(counts) <= 8
        assert likelihood.calls == 0


def _item(likelihood: Likelihood, where: int, _: Any) -> float:
    return float(likelihood.data[where])


class TestInsideTasks:
    """dynesty's shape: the same big object in every task of every map."""

    def test_once_for_all_maps(self, counted: Any) -> None:
        pool, sent = counted
        likelihood = Likelihood()
        expected = [likelihood(float(n)) for n in range(4)]
        for _ in range(6):
            assert pool.map(dynesty_task, [(likelihood, float(n)) for n in range(4)]) == expected
        assert sent() <= 1.2 * BIG + SLACK

    def test_whatever_the_chunksize(self, counted: Any) -> None:
        pool, sent = counted
        likelihood = Likelihood()
        for chunksize in (1, 3, 16):
            work = [(likelihood, float(n)) for n in range(16)]
            assert pool.map(dynesty_task, work, chunksize=chunksize) == [likelihood(float(n)) for n in range(16)]
        assert sent() <= 1.2 * BIG + SLACK

    def test_two_objects(self, counted: Any) -> None:
        pool, sent = counted
        both = [Likelihood(1), Likelihood(2)]
        for _ in range(4):
            work = [(both[n % 2], float(n)) for n in range(8)]
            assert pool.map(dynesty_task, work) == [both[n % 2](float(n)) for n in range(8)]
        assert sent() <= 2.4 * BIG + SLACK

    def test_changed_by_a_task(self, counted: Any) -> None:
        """State left by the tasks of one map is not seen by the next."""
        pool, _ = counted
        likelihood = Likelihood()
        original = float(likelihood.data[0])
        for n in range(4):
            found = pool.map(_dirty_task, [(likelihood, 100.0 + n)] * 8, chunksize=1)
            assert original in found
            assert set(found) <= {original, 100.0 + n}
        assert float(likelihood.data[0]) == original

    def test_many_different_objects_are_not_kept_for_ever(self, counted: Any) -> None:
        """A bounded cache: 30 objects of 10 MB, each in two maps. An MPI library may hold 100 MB and more by itself."""
        pool, _ = counted
        before = max(pool.map(_resident_mb, range(8), chunksize=1))
        for seed in range(30):
            likelihood = Likelihood(seed % 3)
            likelihood.data[5] = seed
            for _ in range(2):
                assert pool.map(dynesty_task, [(likelihood, 1.0)] * 2) == [likelihood(1.0)] * 2
        assert max(pool.map(_resident_mb, range(8), chunksize=1)) < before + 150


def _dirty_task(task: tuple[Likelihood, float]) -> float:
    return task[0].dirty(task[1])


def _resident_mb(_: Any) -> float:
    """Private memory of this worker [MB]: shared pages are the master's."""
    total = 0
    with open("/proc/self/smaps_rollup") as f:
        for line in f:
            if line.startswith(("Private_Dirty", "Private_Clean")):
                total += int(line.split()[1])
    return total / 1000


class TestReplacedWorkers:
    def test_a_new_worker_gets_what_the_old_one_had(self, counted: Any, kind: PoolKind) -> None:
        kind.needs("deaths")
        pool, _ = counted
        likelihood = Likelihood()
        expected = [likelihood(float(n)) for n in range(6)]
        for _ in range(3):
            assert pool.map(likelihood, [float(n) for n in range(6)]) == expected
            assert pool.map(dynesty_task, [(likelihood, float(n)) for n in range(6)]) == expected
            with pytest.raises(RuntimeError):
                pool.map(_exit, [1])


def _exit(code: int) -> None:
    import os

    os._exit(code)
