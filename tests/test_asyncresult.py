"""map_async, starmap_async, apply_async and the object they return, as multiprocessing users know it."""

from __future__ import annotations

import functools
import multiprocessing
import sys
import threading
from typing import Any

import pytest
from helpers import tasks
from helpers.gates import Gate, pass_gate, pass_gate_if
from pools_under_test import PoolKind

LIMIT = 20  # seconds: a hang guard, not an expectation


def test_values(pool: Any) -> None:
    assert pool.map_async(tasks.square, range(10)).get(LIMIT) == [n * n for n in range(10)]
    assert pool.starmap_async(tasks.add, [(1, 2), (3, 4)]).get(LIMIT) == [3, 7]
    assert pool.apply_async(tasks.show, (1,), {"a": 2}).get(LIMIT) == ((1,), {"a": 2})
    assert pool.apply_async(tasks.show, args=(1,), kwds={"a": 2}).get(timeout=LIMIT) == ((1,), {"a": 2})
    assert pool.map_async(tasks.square, []).get(LIMIT) == []


def test_chunksize_is_third(pool: Any) -> None:
    assert pool.map_async(tasks.square, range(10), 3).get(LIMIT) == [n * n for n in range(10)]
    assert pool.starmap_async(tasks.add, [(1, 2)], 3).get(LIMIT) == [3]


def test_returns_at_once(pool: Any, kind: PoolKind, gate: Gate) -> None:
    kind.needs("parallel")
    job = pool.apply_async(pass_gate, (gate.path, 5))
    gate.wait_started()
    assert not job.ready()
    with pytest.raises(ValueError, match="not ready"):
        job.successful()
    assert job.wait(0) is None
    gate.open()
    assert job.wait(LIMIT) is None
    assert job.ready()
    assert job.successful() is True
    assert job.get() == 5
    assert job.get() == 5  # again


def test_without_workers_is_done_at_once(pool: Any, kind: PoolKind) -> None:
    if kind.has("parallel"):
        pytest.skip(f"{kind.name}: returns before the task has run")
    job = pool.map_async(tasks.square, [2])
    assert job.ready()
    assert job.successful()


def test_two_run_side_by_side(pool: Any, kind: PoolKind, gate: Gate) -> None:
    kind.needs("parallel")
    jobs = [pool.apply_async(pass_gate, (gate.path, n)) for n in range(2)]
    gate.wait_started(2)
    gate.open(2)
    assert [job.get(LIMIT) for job in jobs] == [0, 1]


def test_many_jobs_in_flight(pool: Any) -> None:
    jobs = [pool.apply_async(tasks.square, (n,)) for n in range(200)]
    assert [job.get(LIMIT) for job in jobs] == [n * n for n in range(200)]


def test_a_map_beside_an_async_job(pool: Any, kind: PoolKind, gate: Gate) -> None:
    kind.needs("parallel", "prompt")
    job = pool.apply_async(pass_gate, (gate.path, "late"))
    gate.wait_started()
    assert list(pool.map(tasks.square, range(20))) == [n * n for n in range(20)]
    gate.open()
    assert job.get(LIMIT) == "late"


def test_timeout_is_every_timeout_error(pool: Any, kind: PoolKind, gate: Gate) -> None:
    kind.needs("parallel")
    multiprocess = pytest.importorskip("multiprocess")
    job = pool.map_async(functools.partial(pass_gate, gate.path), [1])
    for timeout in (0, 0.02):
        with pytest.raises(TimeoutError) as caught:
            job.get(timeout)
        assert isinstance(caught.value, multiprocessing.TimeoutError)
        assert isinstance(caught.value, multiprocess.TimeoutError)
    gate.open()
    job.get(LIMIT)


class TestCallbacks:
    def test_map_async_gets_the_whole_list_once(self, pool: Any) -> None:
        calls: list[Any] = []
        errors: list[Any] = []
        job = pool.map_async(tasks.square, range(4), callback=calls.append, error_callback=errors.append)
        job.get(LIMIT)
        assert calls == [[0, 1, 4, 9]]
        job = pool.starmap_async(tasks.add, [(1, 2)], callback=calls.append, error_callback=errors.append)
        job.get(LIMIT)
        assert calls == [[0, 1, 4, 9], [3]]
        assert errors == []

    def test_apply_async_gets_the_result(self, pool: Any) -> None:
        calls: list[Any] = []
        pool.apply_async(tasks.square, (3,), {}, calls.append).get(LIMIT)
        assert calls == [9]

    def test_error_callback(self, pool: Any) -> None:
        calls: list[Any] = []
        errors: list[Any] = []
        for job in (
            pool.map_async(functools.partial(tasks.boom_on, 2), range(4), None, calls.append, errors.append),
            pool.apply_async(tasks.boom, (9,), {}, calls.append, errors.append),
        ):
            with pytest.raises(ValueError, match="boom"):
                job.get(LIMIT)
            assert job.successful() is False
        assert calls == []
        assert sorted(str(e) for e in errors) == ["boom 2", "boom 9"]

    def test_has_returned_when_get_returns(self, pool: Any) -> None:
        done = []
        for n in range(20):
            pool.apply_async(tasks.square, (n,), callback=done.append).get(LIMIT)
            assert len(done) == n + 1

    def test_that_raises_is_reported_and_stops_nothing(self, pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        reported = []
        monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_value))
        monkeypatch.setattr(sys, "excepthook", lambda _type, value, _tb: reported.append(value))

        def callback(_: Any) -> None:
            raise KeyError("in a callback")

        assert pool.apply_async(tasks.square, (3,), callback=callback).get(LIMIT) == 9
        assert [type(error) for error in reported] == [KeyError]
        assert pool.map_async(tasks.square, [3]).get(LIMIT) == [9]

    def test_that_uses_the_pool(self, pool: Any) -> None:
        """From a callback one may start more work (waiting for it there is another matter)."""
        chained: list[Any] = []
        more = threading.Event()

        def callback(value: int) -> None:
            chained.append(pool.apply_async(tasks.negate, (value,)))
            more.set()

        assert pool.apply_async(tasks.square, (3,), callback=callback).get(LIMIT) == 9
        assert more.wait(LIMIT)
        assert chained[0].get(LIMIT) == -9


class TestErrors:
    def test_original_type_every_time(self, pool: Any) -> None:
        job = pool.map_async(tasks.boom, [1])
        for _ in range(2):
            with pytest.raises(ValueError, match="boom 1"):
                job.get(LIMIT)

    def test_tasks_are_checked_at_the_call(self, pool: Any) -> None:
        with pytest.raises(TypeError):
            pool.map_async(tasks.square, 5)

    def test_tasks_that_raise(self, pool: Any) -> None:
        def source() -> Any:
            yield 1
            raise LookupError("no more tasks")

        with pytest.raises(LookupError, match="no more tasks"):
            pool.map_async(tasks.square, source()).get(LIMIT)
        assert list(pool.map(tasks.square, [3])) == [9]

    def test_function_that_cannot_be_pickled(self, pool: Any, kind: PoolKind) -> None:
        kind.needs("pickling")
        with pytest.raises(Exception, match="pickle"):
            pool.apply_async(functools.partial(tasks.identity, threading.Lock())).get(LIMIT)
        assert list(pool.map(tasks.square, [3])) == [9]


class TestEnd:
    def test_close_lets_the_work_finish(self, fresh: Any, kind: PoolKind, gate: Gate) -> None:
        kind.needs("parallel", "closes")
        pool = fresh(2)
        job = pool.map_async(functools.partial(pass_gate_if, gate.path, (0,)), range(50), chunksize=1)
        gate.wait_started()
        pool.close()
        gate.open()
        pool.join()
        assert job.get(LIMIT) == list(range(50))

    def test_terminate_ends_the_work(self, fresh: Any, kind: PoolKind, gate: Gate) -> None:
        """multiprocessing leaves such a result pending for ever; here it fails."""
        kind.needs("parallel", "closes")
        pool = fresh(2)
        job = pool.apply_async(pass_gate, (gate.path,))
        gate.wait_started()
        pool.terminate()
        pool.join()
        with pytest.raises(Exception) as caught:
            job.get(LIMIT)
        assert not isinstance(caught.value, TimeoutError)

    def test_a_result_that_nobody_asks_for(self, clean: None, kind: PoolKind) -> None:
        with kind(2) as pool:
            pool.map_async(tasks.boom, range(10))
            pool.apply_async(tasks.square, (2,))
