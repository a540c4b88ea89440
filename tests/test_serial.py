"""What only SerialPool does; the conformance suite has the rest."""

from __future__ import annotations

import itertools
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from schwimmbad_go import SerialPool
from schwimmbad_go.error import TaskExit, TaskTimeout
from schwimmbad_go.pool import BasePool

LONG = 60  # seconds: what a test would take if a timeout did not work


def half(x: int) -> float:
    if x == 0:
        raise ZeroDivisionError("half of nothing")
    return x / 2


class TestLazyMap:
    def test_is_pythons_own(self) -> None:
        assert type(SerialPool().map(half, [1])) is map
        assert type(SerialPool().map(half, [1], retries=1, return_exceptions=True)) is map

    def test_runs_when_asked(self) -> None:
        done: list[int] = []
        results = SerialPool().map(done.append, itertools.count())
        assert done == []
        assert next(results) is None
        assert done == [0]

    def test_single_pass(self) -> None:
        results = SerialPool().map(half, [2])
        assert (list(results), list(results)) == ([1.0], [])

    def test_raises_in_its_turn(self) -> None:
        results = SerialPool().map(half, [2, 0, 4])
        assert next(results) == 1.0
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert list(results) == [2.0]  # as Python's map: it knows nothing of the failure

    def test_wrong_arguments_are_not_lazy(self) -> None:
        pool: Any = SerialPool()
        with pytest.raises(TypeError, match="'NoneType' object is not iterable"):
            pool.map(half, None)
        with pytest.raises(TypeError, match="must be callable, not 3 of type int"):
            pool.map(3, [1])
        with pytest.raises(ValueError, match=r"^Chunksize must be 1\+, not 0$"):
            pool.map(half, [1], chunksize=0)
        with pytest.raises(ValueError, match="callback_order"):
            pool.map(half, [1], callback_order="random")

    def test_third_position(self) -> None:
        seen: list[float] = []
        assert SerialPool().map(half, [2, 4], seen.append) == seen == [1.0, 2.0]
        assert list(SerialPool().map(half, [2, 4], 10)) == [1.0, 2.0]
        assert SerialPool().map(half, [2, 4], 10, seen.append) == [1.0, 2.0]

    def test_batched(self) -> None:
        results = SerialPool().batched_map(lambda batch: batch, "abc")
        assert type(results) is map
        assert list(results) == [((0, 3), ["a", "b", "c"])]


class TestEager:
    def test_callback_between_tasks(self) -> None:
        log: list[Any] = []

        def task(x: int) -> int:
            log.append(f"task {x}")
            return x

        SerialPool().map(task, [1, 2], callback=log.append, return_results=False)
        assert log == ["task 1", 1, "task 2", 2]

    def test_callbacks_before_a_failure(self) -> None:
        seen: list[float] = []
        with pytest.raises(ZeroDivisionError) as caught:
            SerialPool().map(half, [2, 4, 0, 6], callback=seen.append)
        assert seen == [1.0, 2.0]
        assert caught.value.__notes__ == ["task 2, in the calling process"]  # type: ignore[attr-defined]

    def test_nothing_is_kept(self) -> None:
        class Result:
            alive = 0

            def __init__(self, _: Any) -> None:
                type(self).alive += 1

            def __del__(self) -> None:
                type(self).alive -= 1

        most = 0

        def watch(_: Result) -> None:
            nonlocal most
            most = max(most, Result.alive)

        assert SerialPool().map(Result, range(10), callback=watch, return_results=False) is None
        assert most <= 2  # the one in the callback, and the one being made
        assert Result.alive == 0

    def test_starmap_is_a_list(self) -> None:
        assert SerialPool().starmap(pow, [(2, 3), (3, 2)]) == [8, 9]


class TestFailures:
    def test_retries(self) -> None:
        left = [2]

        def moody(x: int) -> int:
            if left[0]:
                left[0] -= 1
                raise OSError("not now")
            return x

        assert list(SerialPool().map(moody, [7], retries=2)) == [7]
        left[0] = 2
        with pytest.raises(OSError, match="not now"):
            SerialPool().starmap(moody, [(7,)], retries=1)

    def test_exceptions_in_place(self) -> None:
        results = SerialPool().starmap(half, [(2,), (0,), (4,)], return_exceptions=True)
        assert results[0::2] == [1.0, 2.0]
        assert type(results[1]) is ZeroDivisionError
        trace = results[1].__traceback__  # type: ignore[attr-defined]
        assert trace.tb_frame.f_code is half.__code__

    def test_exit_in_place(self) -> None:
        pool = SerialPool()
        (found,) = pool.map(sys.exit, [3], return_exceptions=True)
        assert type(found) is TaskExit
        assert found.exit_code == 3
        for call in (lambda: list(pool.map(sys.exit, [3])), lambda: list(pool.imap(sys.exit, [3]))):
            with pytest.raises(SystemExit) as caught:
                call()
            assert caught.value.code == 3

    def test_interrupt_is_the_callers(self) -> None:
        def interrupt(_: Any) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(SerialPool().map(interrupt, [1], return_exceptions=True))
        with pytest.raises(KeyboardInterrupt):
            SerialPool().map_async(interrupt, [1])

    def test_imap_goes_on_after_a_failure(self) -> None:
        results = SerialPool().imap(half, [2, 0, 4])
        assert next(results) == 1.0
        with pytest.raises(ZeroDivisionError):
            next(results)
        assert list(results) == [2.0]

    def test_an_exception_as_a_result(self) -> None:
        """A task may return an exception object: that is no failure."""
        assert [type(one) for one in SerialPool().imap(ValueError, ["a"])] == [ValueError]


@pytest.mark.timeout(0)  # pytest-timeout's own limit uses the timer that these tests are about
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this platform has no interval timer")
class TestTimeout:
    @pytest.fixture(autouse=True)
    def no_timer(self) -> Iterator[None]:
        """Whatever limits the test stands back, and takes over again if it was there."""
        left, interval = signal.setitimer(signal.ITIMER_REAL, 0)
        handler = signal.getsignal(signal.SIGALRM)
        yield
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
        assert signal.getsignal(signal.SIGALRM) is handler
        signal.setitimer(signal.ITIMER_REAL, left, interval)

    def test_interrupts(self) -> None:
        stuck = threading.Event()
        with pytest.raises(TaskTimeout, match=r"task 1 ran longer than 0.05 s") as caught:
            SerialPool().starmap(stuck.wait, [(0,), (LONG,)], timeout=0.05)
        assert (caught.value.index, caught.value.timeout) == (1, 0.05)

    def test_lazily_too(self) -> None:
        results = SerialPool().map(threading.Event().wait, [0, LONG, 0], timeout=0.05, return_exceptions=True)
        assert [type(one) for one in results] == [bool, TaskTimeout, bool]

    def test_swallowed_by_the_task(self) -> None:
        def stubborn(_: int) -> str:
            try:
                threading.Event().wait(LONG)
            except Exception:
                pass
            return "as if nothing had happened"

        with pytest.raises(TaskTimeout):
            SerialPool().starmap(stubborn, [(1,)], timeout=0.05)

    def test_task_in_time(self) -> None:
        assert SerialPool().starmap(half, [(2,)], timeout=LONG) == [1.0]

    def test_failure_in_time(self) -> None:
        with pytest.raises(ZeroDivisionError):
            SerialPool().starmap(half, [(0,)], timeout=LONG)

    def test_refused_while_the_timer_is_in_use(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, LONG)
        try:
            with pytest.raises(ValueError, match="interval timer is in use.*use MultiPool"):
                SerialPool().map(half, [2], timeout=1)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def test_refused_in_a_thread(self) -> None:
        found: list[BaseException] = []

        def body() -> None:
            try:
                SerialPool().map(half, [2], timeout=1)
            except ValueError as error:
                found.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        assert "not the main thread" in str(found[0])


class TestThePool:
    def test_initializer_runs_here_and_now(self) -> None:
        seen: list[int] = []
        SerialPool(initializer=seen.append, initargs=(1,))
        assert seen == [1]
        with pytest.raises(ZeroDivisionError):
            SerialPool(initializer=half, initargs=[0])
        with pytest.raises(TypeError, match="initializer must be callable"):
            SerialPool(initializer=3)  # type: ignore[arg-type]

    def test_takes_anything_by_name_and_nothing_by_position(self) -> None:
        SerialPool(processes=4, comm=None, use_dill=True, maxtasksperchild=3, context=None, whatever=1)
        with pytest.raises(TypeError):
            SerialPool(4)  # type: ignore[misc]

    def test_pickles(self) -> None:
        pool = pickle.loads(pickle.dumps(SerialPool()))
        assert type(pool) is SerialPool
        assert list(pool.map(half, [2])) == [1.0]

    def test_attributes(self) -> None:
        pool = SerialPool()
        assert (pool.size, pool._processes, pool.rank) == (0, 1, 0)
        assert isinstance(pool, BasePool)
        assert pool.is_master()
        assert not pool.is_worker()
        assert pool.wait(lambda: sys.exit(0)) is None
        assert pool.wait(callback=sys.exit) is None
        assert SerialPool.enabled()

    def test_assignment(self) -> None:
        pool: Any = SerialPool()
        pool.imap = pool.map
        assert next(pool.imap(half, [2])) == 1.0

    def test_works_after_close(self) -> None:
        with SerialPool() as pool:
            pool.join()
        pool.close()
        pool.terminate()
        pool.join()
        assert list(pool.map(half, [2])) == [1.0]
