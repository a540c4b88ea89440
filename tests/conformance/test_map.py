"""map, starmap and batched_map: results, order, chunks, callbacks."""

from __future__ import annotations

import functools
import gc
import threading
import weakref
from typing import Any

import pytest
from helpers import tasks
from helpers.gates import Gate, pass_gate_if
from pools_under_test import PoolKind


def test_results_in_input_order(pool: Any) -> None:
    assert list(pool.map(tasks.square, range(1000))) == [n * n for n in range(1000)]


def test_what_map_returns(pool: Any, kind: PoolKind) -> None:
    made = pool.map(tasks.square, [1, 2])
    if kind.has("eager map"):
        assert type(made) is list
    else:
        assert next(made) == 1  # lazy, single pass
        assert list(made) == [4]
        assert list(made) == []


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 64, 65, 1000])
def test_any_number_of_tasks(pool: Any, n: int) -> None:
    assert list(pool.map(tasks.negate, list(range(n)))) == [-i for i in range(n)]


def test_no_tasks_no_callback(pool: Any) -> None:
    seen: list[Any] = []
    assert list(pool.map(tasks.square, [], callback=seen.append)) == []
    assert pool.map(tasks.square, iter(()), callback=seen.append, return_results=False) is None
    assert pool.starmap(tasks.add, []) == []
    assert seen == []


@pytest.mark.parametrize("chunksize", [1, 2, 3, 7, 100, 10**6])
def test_every_chunksize_gives_the_same(pool: Any, chunksize: int) -> None:
    assert list(pool.map(tasks.square, range(100), chunksize=chunksize)) == [n * n for n in range(100)]
    assert pool.starmap(tasks.add, [(n, 1) for n in range(20)], chunksize=chunksize) == list(range(1, 21))


def test_chunksize_is_obeyed(fresh: Any, kind: PoolKind) -> None:
    """Each run of five neighbours is done by one worker: the tasks of a chunk stay together."""
    kind.needs("workers")
    pool = fresh(2)
    pids = pool.map(tasks.pid, range(40), chunksize=5)
    for start in range(0, 40, 5):
        assert len(set(pids[start:start + 5])) == 1, pids


def test_chunksize_one_shares_the_work(pool: Any, kind: PoolKind, gate: Gate) -> None:
    """While one worker is stuck in a task, the other does all the rest."""
    kind.needs("parallel")
    job = pool.map_async(functools.partial(pass_gate_if, gate.path, (0,)), range(20), chunksize=1)
    gate.wait_started()
    assert not job.ready()
    gate.open()
    assert job.get(20) == list(range(20))


def test_starmap_spreads_the_arguments(pool: Any) -> None:
    assert pool.starmap(tasks.show, [(1, 2), [3], "ab", ()]) == [((1, 2), {}), ((3,), {}), (("a", "b"), {}), ((), {})]
    assert type(pool.starmap(tasks.add, [(1, 2)])) is list


def test_starmap_task_that_is_no_sequence(pool: Any) -> None:
    with pytest.raises(TypeError):
        pool.starmap(tasks.add, [(1, 2), 3])


class TestCallback:
    def test_once_per_result_in_input_order(self, pool: Any, kind: PoolKind) -> None:
        seen: list[int] = []
        made = pool.map(tasks.square, range(100), callback=seen.append, **kind.in_order)
        assert seen == [n * n for n in range(100)]  # before anybody iterated
        assert type(made) is list
        assert made == seen

    def test_on_the_callers_thread(self, pool: Any) -> None:
        threads = set()
        pool.map(tasks.square, range(10), callback=lambda _: threads.add(threading.get_ident()))
        assert threads == {threading.get_ident()}

    def test_its_result_is_ignored(self, pool: Any) -> None:
        assert pool.map(tasks.square, [1, 2], callback=lambda r: "other") == [1, 4]

    def test_once_per_result_in_any_order(self, pool: Any) -> None:
        seen: list[int] = []
        pool.map(tasks.square, range(100), callback=seen.append)
        assert sorted(seen) == [n * n for n in range(100)]

    def test_starmap_and_batched_map(self, pool: Any, kind: PoolKind) -> None:
        seen: list[Any] = []
        assert pool.starmap(tasks.add, [(1, 2), (3, 4)], callback=seen.append, **kind.in_order) == [3, 7]
        assert seen == [3, 7]
        seen.clear()
        batches = pool.batched_map(tasks.batch_sum, [1, 2, 3], callback=seen.append, **kind.in_order)
        assert list(batches) == seen
        assert sum(s for _, s in seen) == 6

    def test_without_results(self, pool: Any, kind: PoolKind) -> None:
        seen: list[int] = []
        assert pool.map(tasks.square, range(50), callback=seen.append, return_results=False, **kind.in_order) is None
        assert seen == [n * n for n in range(50)]
        assert pool.map(tasks.square, range(50), return_results=False) is None

    def test_without_results_the_tasks_still_run(self, pool: Any, tmp_path: Any) -> None:
        func = functools.partial(tasks.append_line, str(tmp_path / "trace"))
        assert pool.map(func, range(5), return_results=False) is None
        assert sorted(tasks.lines(str(tmp_path / "trace"))) == list("01234")

    def test_nothing_is_kept_after_its_callback(self, pool: Any) -> None:
        """Without results, at most a few chunks are alive at any time."""
        alive: weakref.WeakSet[Any] = weakref.WeakSet()
        most = 0

        def look(p: Any) -> None:
            nonlocal most
            alive.add(p)
            most = max(most, len(alive))

        pool.map(functools.partial(tasks.Point, 1), range(400), chunksize=4, callback=look, return_results=False)
        gc.collect()
        assert len(alive) == 0
        assert most <= 100

    def test_results_stream(self, pool: Any, kind: PoolKind, gate: Gate) -> None:
        """The callback of an early result runs while a later task has not even finished: it opens that task's gate."""
        kind.needs("prompt")
        seen: list[int] = []

        def callback(value: int) -> None:
            seen.append(value)
            if value == 0:
                gate.open(3)

        func = functools.partial(pass_gate_if, gate.path, (1, 2, 3))
        assert pool.map(func, range(4), chunksize=1, callback=callback, **kind.in_order) == [0, 1, 2, 3]
        assert seen == [0, 1, 2, 3]

    def test_input_order_holds_back(self, pool: Any, kind: PoolKind, gate: Gate) -> None:
        kind.needs("parallel")
        seen: list[int] = []
        func = functools.partial(pass_gate_if, gate.path, (0,))
        opener = threading.Thread(target=lambda: (gate.wait_started(), gate.open()))
        opener.start()
        pool.map(func, range(10), chunksize=1, callback=seen.append, callback_order="input")
        opener.join()
        assert seen == list(range(10))

    def test_completion_order_does_not(self, pool: Any, kind: PoolKind, gate: Gate) -> None:
        kind.needs("parallel", "prompt")
        seen: list[int] = []

        def callback(value: int) -> None:
            seen.append(value)
            if len(seen) == 9:
                gate.open()

        func = functools.partial(pass_gate_if, gate.path, (0,))
        made = pool.map(func, range(10), chunksize=1, callback=callback, callback_order="completion")
        assert made == list(range(10))
        assert seen[-1] == 0
        assert sorted(seen) == list(range(10))

    def test_map_within_a_callback(self, pool: Any, kind: PoolKind) -> None:
        """Right, or a RuntimeError; never another call's results."""
        inner: list[Any] = []

        def callback(value: int) -> None:
            try:
                inner.append(list(pool.map(tasks.negate, [value, value + 1])))
            except RuntimeError as error:
                inner.append(error)

        assert pool.map(tasks.square, range(5), callback=callback, **kind.in_order) == [0, 1, 4, 9, 16]
        assert len(inner) == 5
        for n, got in enumerate(inner):
            assert isinstance(got, RuntimeError) or got == [-n * n, -n * n - 1]
        assert list(pool.map(tasks.square, [7])) == [49]


class TestBatchedMap:
    def test_labels_and_data(self, pool: Any, kind: PoolKind) -> None:
        batches = list(pool.batched_map(tasks.identity, list("abcde")))
        assert len(batches) == kind.workers
        expected = [((0, 3), ["a", "b", "c"]), ((3, 5), ["d", "e"])] if kind.workers == 2 else [((0, 5), list("abcde"))]
        assert batches == expected

    def test_more_workers_than_tasks(self, fresh: Any, kind: PoolKind) -> None:
        kind.needs("size")
        pool = fresh(5)
        assert list(pool.batched_map(tasks.batch_sum, [4, 5])) == [((0, 1), 4), ((1, 2), 5)]

    def test_no_tasks(self, pool: Any) -> None:
        with pytest.raises(ValueError, match="n_batches and n_tasks must be > 0"):
            pool.batched_map(tasks.batch_sum, [])


class TestApply:
    def test_arguments(self, pool: Any) -> None:
        assert pool.apply(tasks.show, (1, 2), {"key": 3}) == ((1, 2), {"key": 3})
        assert pool.apply(tasks.show, args=[1], kwds={"a": 2}) == ((1,), {"a": 2})
        assert pool.apply(tasks.show) == ((), {})

    def test_error(self, pool: Any) -> None:
        with pytest.raises(ValueError, match="boom 3"):
            pool.apply(tasks.boom, (3,))


class TestBroadcast:
    def test_once_on_every_worker(self, fresh: Any, kind: PoolKind) -> None:
        pool = fresh(5)
        places = pool.broadcast(tasks.place)
        assert len(places) == pool._processes
        assert len(set(places)) == pool._processes

    def test_arguments_and_type(self, pool: Any) -> None:
        made = pool.broadcast(tasks.add, 1, 2, 3, scale=10)
        assert made == [60] * pool._processes
        assert type(made) is list

    def test_what_it_leaves_is_seen_by_later_tasks(self, fresh: Any) -> None:
        pool = fresh(2)
        pool.broadcast(tasks.remember, "broadcast", 42)
        assert set(pool.map(tasks.recall, ["broadcast"] * 20)) == {42}
        pool.broadcast(tasks.remember, "broadcast", None)

    def test_error(self, pool: Any) -> None:
        with pytest.raises(ValueError, match="boom here"):
            pool.broadcast(tasks.boom, "here")
        assert list(pool.map(tasks.square, range(5))) == [0, 1, 4, 9, 16]
