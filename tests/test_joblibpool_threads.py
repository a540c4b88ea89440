"""Threads as workers: the same scheduler, but nothing is copied, nobody dies, and nobody can be killed."""

from __future__ import annotations

import functools
import gc
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import leaks, scripts, tasks
from helpers.gates import Gate, pass_gate, pass_gate_if
from schwimmbad_go import JoblibPool
from schwimmbad_go.error import PoolClosed, TaskExit, TaskInterrupt


@pytest.fixture(scope="module")
def pool() -> Iterator[JoblibPool]:
    with JoblibPool(2, backend="threading") as one:
        yield one


@pytest.fixture
def clean() -> Iterator[None]:
    with JoblibPool(2, backend="threading") as first:
        first.map(abs, [1])
    with leaks.nothing_left():
        yield


class Task:
    """Cannot be pickled."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __reduce__(self) -> Any:
        raise AssertionError("pickled")


class TestNothingIsCopied:
    def test_tasks_results_and_function_are_the_callers_own(self, pool: JoblibPool) -> None:
        seen: list[Task] = []

        def func(task: Task) -> Task:
            seen.append(task)
            return task

        given = [Task(n) for n in range(50)]
        for back in (pool.map(func, given), pool.map(func, iter(given)), list(pool.imap(func, given)), pool.starmap(func, zip(given))):
            assert all(a is b for a, b in zip(given, back, strict=True))
        assert len(seen) == 200

    def test_rows_are_views(self, pool: JoblibPool) -> None:
        np = pytest.importorskip("numpy")
        table = np.zeros((5, 3))
        pool.map(lambda row: row.fill(7.0), table)
        assert (table == 7.0).all()

    def test_nothing_is_kept(self, pool: JoblibPool) -> None:
        given = [Task(n) for n in range(10)]
        kept = [weakref.ref(task) for task in given]
        pool.map(lambda task: task, given)
        list(pool.imap_unordered(lambda task: task, given))
        pool.map(functools.partial(_fail_on, 3), given, return_exceptions=True)
        del given
        gc.collect()
        # A thread lets go of a chunk just after it has answered.
        assert leaks.poll(lambda: not any(ref() for ref in kept), 5.0) <= 5.0

    def test_of_a_call_that_was_given_up(self, pool: JoblibPool) -> None:
        given = [Task(n) for n in range(100)]
        kept = [weakref.ref(task) for task in given]
        with pytest.raises(ValueError, match="task 3"):
            pool.map(functools.partial(_fail_on, 3), given, chunksize=2)
        pool.map(abs, range(100))
        del given
        gc.collect()
        assert leaks.poll(lambda: not any(ref() for ref in kept), 5.0) <= 5.0


def _fail_on(bad: int, task: Task) -> int:
    if task.n == bad:
        raise ValueError(f"task {bad}")
    return task.n


class TestErrors:
    def test_the_exception_itself(self, pool: JoblibPool) -> None:
        error = ValueError("mine")

        def fail(n: int) -> None:
            if n == 2:
                raise error

        with pytest.raises(ValueError, match="mine") as caught:
            pool.map(fail, [1, 2, 3])
        assert caught.value is error
        assert any("thread of pid" in note for note in error.__notes__) if sys.version_info >= (3, 11) else True
        files = [frame.path for frame in caught.traceback]
        assert str(files[-1]) == __file__
        assert not any(str(path).endswith("_worker.py") for path in files)

    @pytest.mark.parametrize(("error", "kind"), [(SystemExit(3), TaskExit), (KeyboardInterrupt(), TaskInterrupt)])
    def test_what_would_end_the_caller_is_the_tasks(self, pool: JoblibPool, error: BaseException, kind: type) -> None:
        def fail(n: int) -> int:
            if n == 2:
                raise error
            return n

        with pytest.raises(kind) as caught:
            pool.map(fail, range(5))
        assert caught.value.index == 2
        assert caught.value.__cause__ is error
        results = pool.map(fail, range(5), return_exceptions=True)
        assert type(results[2]) is kind
        assert results[:2] + results[3:] == [0, 1, 3, 4]
        assert pool.map(abs, [-1]) == [1]

    def test_retries(self, pool: JoblibPool) -> None:
        failed: set[int] = set()

        def once(n: int) -> int:
            if n % 7 == 0 and n not in failed:
                failed.add(n)
                raise ValueError(n)
            return n

        assert pool.map(once, range(50), retries=1) == list(range(50))
        assert len(failed) == 8

    def test_stop_iteration_is_an_error(self, pool: JoblibPool) -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            pool.map(tasks.stop_iteration, range(5))


class TestScheduling:
    def test_two_at_once(self, pool: JoblibPool, gate: Gate) -> None:
        job = pool.map_async(pass_gate, [gate.path] * 2, chunksize=1)
        gate.wait_started(2)
        gate.open(2)
        assert job.get(20) == [None, None]

    def test_every_task_once_in_uneven_work(self, pool: JoblibPool) -> None:
        ran: list[int] = []
        costs = [(n * 7919) % 500 for n in range(2000)]
        pool.map(lambda n: ran.append(n) or tasks.spin(costs[n]), range(2000))
        assert sorted(ran) == list(range(2000))

    def test_from_several_threads(self, pool: JoblibPool) -> None:
        found: dict[int, Any] = {}

        def caller(k: int) -> None:
            found[k] = [pool.map(functools.partial(tasks.add, k), range(n)) for n in range(30)]

        callers = [threading.Thread(target=caller, args=(k,)) for k in range(5)]
        for one in callers:
            one.start()
        for one in callers:
            one.join(60)
        assert found == {k: [[k + i for i in range(n)] for n in range(30)] for k in range(5)}

    def test_broadcast_reaches_each_thread_once(self, pool: JoblibPool) -> None:
        for _ in range(20):
            assert len(set(pool.broadcast(threading.get_ident))) == 2

    def test_statistics(self, clean: None) -> None:
        with JoblibPool(3, backend="threading") as pool:
            pool.map(time.sleep, [0.01] * 6, chunksize=1)
            counted = pool.statistics()
        assert (counted.workers, counted.tasks, counted.chunks, counted.bytes_in, counted.bytes_out) == (3, 6, 6, 0, 0)
        assert counted.busy_seconds >= 0.03  # a thread counts a chunk just after its answer


class TestStart:
    def test_initializer_on_each_thread(self, clean: None) -> None:
        local = threading.local()

        def set_up(value: int) -> None:
            local.value = value

        with JoblibPool(3, backend="threading", initializer=set_up, initargs=(5,)) as pool:
            assert pool.broadcast(lambda: local.value) == [5, 5, 5]

    def test_initializer_that_fails(self, clean: None) -> None:
        with JoblibPool(2, backend="threading", initializer=tasks.boom, initargs=("here",)) as pool:
            for _ in range(3):
                with pytest.raises(ValueError, match="boom here") as caught:
                    pool.map(abs, [1])
                if sys.version_info >= (3, 11):
                    assert any("initializer" in note for note in caught.value.__notes__)

    def test_initializer_that_fails_once(self, clean: None) -> None:
        calls: list[int] = []

        def set_up() -> None:
            calls.append(1)
            if len(calls) == 1:
                raise ValueError("first")

        with JoblibPool(2, backend="threading", initializer=set_up) as pool:
            with pytest.raises(ValueError, match="first"):
                pool.map(abs, [1])
            assert pool.map(abs, [-1, -2]) == [1, 2]
            assert len(set(pool.broadcast(threading.get_ident))) == 2

    def test_no_thread_can_be_started(self, clean: None, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: Any) -> None:
            raise RuntimeError("can't start new thread")

        with JoblibPool(2, backend="threading") as pool:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    pool.map(abs, [1])
            assert pool.map(abs, [-1]) == [1]


class TestEnd:
    def test_terminate_does_not_wait_for_a_task(self, clean: None, gate: Gate) -> None:
        pool = JoblibPool(2, backend="threading")
        job = pool.map_async(pass_gate, [gate.path] * 10, chunksize=1)
        gate.wait_started(2)
        pool.terminate()
        pool.join()
        with pytest.raises(PoolClosed):
            job.get(20)
        assert pool.map(abs, [-1]) == [1]  # on new threads
        pool.close()
        gate.open(2)  # the old ones leave now, and run none of the other eight

    def test_a_map_in_another_thread_is_told(self, clean: None, gate: Gate) -> None:
        pool = JoblibPool(2, backend="threading")
        told: list[BaseException] = []

        def caller() -> None:
            try:
                pool.map(pass_gate, [gate.path] * 2)
            except PoolClosed as error:
                told.append(error)

        thread = threading.Thread(target=caller)
        thread.start()
        gate.wait_started(1)
        pool.terminate()
        thread.join(20)
        assert len(told) == 1
        gate.open(2)

    def test_terminate_within_a_task(self, clean: None) -> None:
        pool = JoblibPool(2, backend="threading")
        with pytest.raises(PoolClosed):
            pool.map(lambda n: pool.terminate() if n == 3 else n, range(2000), chunksize=1)
        assert pool.map(abs, [-1]) == [1]
        pool.terminate()

    def test_a_task_beyond_its_limit_holds_nobody_up(self, clean: None, gate: Gate) -> None:
        with JoblibPool(2, backend="threading") as pool:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    pool.map(pass_gate, [gate.path] * 2, timeout=0.05)
                assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]
        gate.open(6)

    def test_an_endless_task_does_not_keep_the_program(self, tmp_path: Path, gate: Gate) -> None:
        source = """
            import sys
            from schwimmbad_go import JoblibPool
            from helpers.gates import pass_gate
            pool = JoblibPool(2, backend="threading")
            job = pool.apply_async(pass_gate, (sys.argv[1],))
            print("end", flush=True)
        """
        with scripts.start(tmp_path, source, gate.path) as script:
            assert script.read_line() == "end"
            assert script.finish(20)[0::2] == (0, "")


def test_one_slow_task_among_many(pool: JoblibPool, gate: Gate) -> None:
    results = pool.imap_unordered(functools.partial(pass_gate_if, gate.path, [0]), range(200))
    assert sorted(next(results) for _ in range(199)) == list(range(1, 200))
    gate.open()
    assert list(results) == [0]
