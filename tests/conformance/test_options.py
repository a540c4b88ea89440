"""return_exceptions, retries, timeout, initializer, maxtasksperchild, statistics; and what an error carries."""

from __future__ import annotations

import dataclasses
import functools
import os
import traceback
from pathlib import Path
from typing import Any

import pytest
import schwimmbad_go
from helpers import tasks
from helpers.gates import Gate, pass_gate_if
from pools_under_test import PoolKind
from schwimmbad_go.error import RemoteTraceback, TaskTimeout


def fail_first(path: str, times: int, x: int) -> int:
    """Fails on its first `times` calls for 1; every call leaves a line."""
    tasks.append_line(path, x)
    if x == 1 and tasks.lines(path).count("1") <= times:
        raise OSError("not yet")
    return x


def die_first(path: str, times: int, x: int) -> int:
    tasks.append_line(path, x)
    if x == 1 and tasks.lines(path).count("1") <= times:
        os._exit(9)
    return x


class TestAnError:
    def test_keeps_type_and_message(self, pool: Any) -> None:
        for call in (
            lambda f: list(pool.map(f, range(5))), lambda f: pool.starmap(f, [(n,) for n in range(5)]),
            lambda f: list(pool.imap(f, range(5))), lambda f: pool.map_async(f, range(5)).get(20),
            lambda f: pool.map(f, range(5), callback=lambda _: None), lambda f: pool.map(f, range(5), return_results=False),
        ):
            with pytest.raises(ValueError, match="boom 3") as caught:
                call(functools.partial(tasks.boom_on, 3))
            assert str(caught.value) == "boom 3"

    def test_carries_the_workers_traceback(self, pool: Any, kind: PoolKind) -> None:
        kind.needs("workers")
        with pytest.raises(ValueError, match="boom 3") as caught:
            pool.map(functools.partial(tasks.boom_on, 3), range(5))
        cause = caught.value.__cause__
        assert isinstance(cause, RemoteTraceback)
        assert "Traceback (most recent call last)" in str(cause)
        assert "in boom_on" in str(cause)
        assert "ValueError: boom 3" in str(cause)
        printed = "".join(traceback.format_exception(caught.value))
        assert "in boom_on" in printed

    def test_carries_the_task_index(self, pool: Any, kind: PoolKind) -> None:
        kind.needs("workers")
        with pytest.raises(ValueError, match="boom 33") as caught:
            pool.map(functools.partial(tasks.boom_on, 33), range(50))
        notes = getattr(caught.value, "__notes__", [])
        assert any("task 33" in note and "pid" in note for note in notes), notes

    def test_chain_of_causes_is_in_the_text(self, pool: Any, kind: PoolKind) -> None:
        kind.needs("workers")
        with pytest.raises(ValueError, match="chained") as caught:
            pool.map(tasks.boom_by_chain, [1])
        assert "KeyError: 'missing'" in str(caught.value.__cause__)
        assert "direct cause" in str(caught.value.__cause__)

    def test_first_of_several(self, pool: Any) -> None:
        with pytest.raises(ValueError, match=r"^boom \d+"):
            list(pool.map(tasks.boom, range(100)))
        assert list(pool.map(tasks.square, range(3))) == [0, 1, 4]

    def test_callbacks_of_earlier_results_only(self, pool: Any, kind: PoolKind) -> None:
        seen: list[int] = []
        with pytest.raises(ValueError, match="boom 5"):
            pool.map(functools.partial(tasks.boom_on, 5), range(10), callback=seen.append, **kind.in_order)
        assert seen == list(range(len(seen)))
        assert len(seen) <= 5


class TestReturnExceptions:
    def test_every_method(self, pool: Any) -> None:
        func = functools.partial(tasks.boom_on, 2)
        for results in (
            list(pool.map(func, range(5), return_exceptions=True)),
            pool.starmap(func, [(n,) for n in range(5)], return_exceptions=True),
            list(pool.imap(func, range(5), return_exceptions=True)),
            pool.map(func, range(5), return_exceptions=True, callback=lambda _: None),
            pool.map_async(func, range(5), return_exceptions=True).get(20),
        ):
            assert type(results[2]) is ValueError
            assert str(results[2]) == "boom 2"
            assert [r for r in results if isinstance(r, int)] == [0, 1, 3, 4]

    def test_all_fail(self, pool: Any) -> None:
        results = list(pool.map(tasks.boom, range(30), return_exceptions=True))
        assert [str(r) for r in results] == [f"boom {n}" for n in range(30)]

    def test_callback_gets_the_exception(self, pool: Any, kind: PoolKind) -> None:
        seen: list[Any] = []
        pool.map(functools.partial(tasks.boom_on, 1), range(3), callback=seen.append, return_exceptions=True, **kind.in_order)
        assert [type(s) for s in seen] == [int, ValueError, int]

    def test_remote_details_are_there(self, pool: Any, kind: PoolKind) -> None:
        kind.needs("workers")
        results = pool.map(tasks.boom, range(3), return_exceptions=True)
        for n, error in enumerate(results):
            assert isinstance(error.__cause__, RemoteTraceback)
            assert any(f"task {n}" in note for note in error.__notes__)

    @pytest.mark.parametrize("chunksize", [1, 4, 100])
    def test_failures_inside_chunks(self, pool: Any, chunksize: int) -> None:
        func = functools.partial(tasks.boom_on, 13)
        results = list(pool.map(func, range(50), chunksize=chunksize, return_exceptions=True))
        assert [r for r in results if isinstance(r, int)] == [n for n in range(50) if n != 13]
        assert str(results[13]) == "boom 13"


class TestRetries:
    def test_until_it_works(self, pool: Any, tmp_path: Path) -> None:
        path = str(tmp_path / "trace")
        assert list(pool.map(functools.partial(fail_first, path, 2), range(5), retries=2)) == list(range(5))
        assert tasks.lines(path).count("1") == 3
        assert all(tasks.lines(path).count(str(n)) == 1 for n in (0, 2, 3, 4))

    def test_not_more_often_than_allowed(self, pool: Any, tmp_path: Path) -> None:
        path = str(tmp_path / "trace")
        with pytest.raises(OSError, match="not yet"):
            list(pool.map(functools.partial(fail_first, path, 9), range(5), retries=2))
        assert tasks.lines(path).count("1") == 3

    def test_not_without_being_asked(self, pool: Any, tmp_path: Path) -> None:
        path = str(tmp_path / "trace")
        with pytest.raises(OSError, match="not yet"):
            list(pool.map(functools.partial(fail_first, path, 9), range(5)))
        assert tasks.lines(path).count("1") == 1

    def test_after_a_death(self, pool: Any, kind: PoolKind, tmp_path: Path) -> None:
        kind.needs("deaths")
        path = str(tmp_path / "trace")
        assert pool.map(functools.partial(die_first, path, 1), range(6), retries=1) == list(range(6))
        assert tasks.lines(path).count("1") == 2

    def test_a_task_that_kills_each_worker_it_meets(self, pool: Any, kind: PoolKind, tmp_path: Path) -> None:
        kind.needs("deaths")
        path = str(tmp_path / "trace")
        results = pool.map(functools.partial(die_first, path, 9), range(6), retries=2, return_exceptions=True)
        assert isinstance(results[1], schwimmbad_go.error.WorkerLost)
        assert results[1].index == 1
        assert [r for r in results if isinstance(r, int)] == [0, 2, 3, 4, 5]
        assert tasks.lines(path).count("1") == 3
        assert list(pool.map(tasks.square, [3])) == [9]

    def test_a_death_is_not_retried_silently(self, pool: Any, kind: PoolKind, tmp_path: Path) -> None:
        kind.needs("deaths")
        path = str(tmp_path / "trace")
        with pytest.raises(schwimmbad_go.error.WorkerLost):
            pool.map(functools.partial(die_first, path, 1), range(6))
        assert tasks.lines(path).count("1") == 1


class TestTimeout:
    def test_only_the_slow_task_fails(self, fresh: Any, kind: PoolKind, gate: Gate) -> None:
        kind.needs("task timeout")
        pool = fresh(2)
        func = functools.partial(pass_gate_if, gate.path, (3,))
        with pytest.raises(TaskTimeout) as caught:
            pool.map(func, range(8), timeout=0.2)
        assert caught.value.index == 3
        assert caught.value.timeout == 0.2
        assert isinstance(caught.value, TimeoutError)
        results = pool.map(func, range(8), timeout=0.2, return_exceptions=True)
        assert isinstance(results[3], TaskTimeout)
        assert [r for r in results if isinstance(r, int)] == [0, 1, 2, 4, 5, 6, 7]
        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]

    def test_is_per_task_not_per_map(self, pool: Any, kind: PoolKind) -> None:
        kind.needs("task timeout")
        n = 40_000  # each some milliseconds; together more than the limit
        assert pool.map(tasks.spin, [n] * 300, timeout=0.5) == [tasks.spin(n)] * 300

    def test_all_time_out(self, fresh: Any, kind: PoolKind, gate: Gate) -> None:
        kind.needs("task timeout")
        pool = fresh(2)
        results = pool.map(functools.partial(pass_gate_if, gate.path, range(4)), range(4), timeout=0.1, return_exceptions=True)
        assert [type(r) for r in results] == [TaskTimeout] * 4
        assert [r.index for r in results] == [0, 1, 2, 3]
        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]

    def test_with_retries(self, fresh: Any, kind: PoolKind, gate: Gate) -> None:
        """A second try gets through the gate that was opened for one."""
        kind.needs("task timeout")
        pool = fresh(2)
        func = functools.partial(pass_gate_if, gate.path, (1,))
        job = pool.map_async(func, range(4), timeout=0.3, retries=1, chunksize=1)
        gate.wait_started(2)
        gate.open()
        assert job.get(20) == [0, 1, 2, 3]


class TestInitializer:
    def test_before_the_first_task_on_each_worker(self, fresh: Any) -> None:
        pool = fresh(2, initializer=tasks.remember, initargs=("initialized", 5))
        assert set(pool.map(tasks.recall, ["initialized"] * 50)) == {5}

    def test_once_per_worker(self, fresh: Any, kind: PoolKind) -> None:
        pool = fresh(2, initializer=tasks.count_up, initargs=("starts",))
        list(pool.map(tasks.square, range(100)))
        each = 1 if kind.has("own state") else 2
        assert pool.broadcast(tasks.recall, "starts") == [each] * pool._processes

    def test_on_replacement_workers_too(self, fresh: Any, kind: PoolKind) -> None:
        kind.needs("deaths")
        pool = fresh(2, initializer=tasks.remember, initargs=("initialized", 5))
        with pytest.raises(schwimmbad_go.error.WorkerLost):
            pool.map(os._exit, [3])
        assert set(pool.map(tasks.recall, ["initialized"] * 50)) == {5}
        assert pool.broadcast(tasks.recall, "initialized") == [5, 5]

    def test_a_lambda(self, fresh: Any, kind: PoolKind) -> None:
        if not kind.has("inherits"):
            pytest.importorskip("cloudpickle")
        pool = fresh(2, initializer=lambda: tasks.STATE.update(by="lambda"))
        assert set(pool.map(tasks.recall, ["by"] * 20)) == {"lambda"}


class TestMaxTasksPerChild:
    def test_replaces_workers(self, fresh: Any, kind: PoolKind) -> None:
        kind.needs("recycles")
        pool = fresh(2, maxtasksperchild=3)
        pids = pool.map(tasks.pid, range(24 if kind.cheap else 9), chunksize=1)
        assert max(pids.count(p) for p in pids) <= 3
        assert pool.map(tasks.square, range(10)) == [n * n for n in range(10)]

    def test_bad_values(self, clean: None, kind: PoolKind) -> None:
        kind.needs("recycles")
        for bad in (0, -1):
            with pytest.raises(ValueError, match="maxtasksperchild"):
                kind(1, maxtasksperchild=bad)
        with pytest.raises((TypeError, ValueError)):
            kind(1, maxtasksperchild=2.5)

    def test_no_task_is_lost(self, fresh: Any, kind: PoolKind) -> None:
        kind.needs("recycles")
        pool = fresh(2, maxtasksperchild=20)
        n = 500 if kind.cheap else 60
        assert pool.map(tasks.square, range(n)) == [i * i for i in range(n)]


class TestWorkersIdentity:
    def test_names_and_numbers(self, fresh: Any, kind: PoolKind) -> None:
        kind.needs("handles")
        pool = fresh(3)
        found = sorted(pool.broadcast(tasks.worker_identity), key=lambda f: f[1])
        assert [identity for _, identity, _ in found] == [(1,), (2,), (3,)]
        assert [name.rpartition("-")[2] for name, _, _ in found] == ["1", "2", "3"]
        assert all("PoolWorker-" in name for name, _, _ in found)
        assert [p._identity for p in pool._pool] == [(1,), (2,), (3,)]
        assert [p.pid for p in pool._pool] == [pid for _, _, pid in found]
        assert [p.name for p in pool._pool] == [name for name, _, _ in found]
        assert all(p.is_alive() and p.exitcode is None for p in pool._pool)

    def test_multiprocess_agrees(self, fresh: Any, kind: PoolKind) -> None:
        kind.needs("handles")
        pytest.importorskip("multiprocess")
        pool = fresh(2)
        found = pool.broadcast(tasks.dill_worker_identity)
        assert sorted(identity for _, identity in found) == [(1,), (2,)]

    def test_tasks_run_on_the_main_thread_elsewhere(self, pool: Any, kind: PoolKind) -> None:
        kind.needs("workers")
        assert pool.apply(tasks.main_pid) is True
        assert os.getpid() not in pool.map(tasks.pid, range(20))


class TestStatistics:
    def test_is_frozen_and_counts(self, fresh: Any, kind: PoolKind) -> None:
        kind.needs("statistics")
        pool = fresh(2)
        before = pool.statistics()
        pool.map(tasks.square, range(100))
        after = pool.statistics()
        assert dataclasses.is_dataclass(after)
        with pytest.raises(dataclasses.FrozenInstanceError):
            after.tasks = 0
        assert after.tasks - before.tasks == 100
        assert 1 <= after.chunks - before.chunks <= 100
        assert after.workers == 2
        assert (after.bytes_in > before.bytes_in) is kind.has("pickling")
        assert (after.bytes_out > before.bytes_out) is kind.has("pickling")
        assert after.busy_seconds >= before.busy_seconds >= 0

    def test_counts_losses_and_retries(self, fresh: Any, kind: PoolKind, tmp_path: Path) -> None:
        kind.needs("statistics", "deaths")
        pool = fresh(2)
        pool.map(functools.partial(die_first, str(tmp_path / "trace"), 1), range(4), retries=1)
        assert pool.statistics().lost_workers == 1
        assert pool.statistics().retries == 1
