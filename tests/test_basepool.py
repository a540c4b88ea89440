"""BasePool's methods on pools of somebody else's, which override `map` alone; and on a scripted stream."""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import pytest
from schwimmbad_go._call import MISSING, Call
from schwimmbad_go._results import AsyncResult
from schwimmbad_go.error import PoolTimeout, PoolUnavailable
from schwimmbad_go.pool import BasePool, _callback_wrapper

LIMIT = 20  # seconds: a hang guard


def double(x: int) -> int:
    if x == 13:
        raise ValueError("13")
    return 2 * x


class OldPool(BasePool):
    """As one would have written it for schwimmbad: no constructor of the base class called, no options."""

    def __init__(self) -> None:
        self.size = 3

    def map(self, func: Callable[[Any], Any], tasks: Iterable[Any], callback: Any = None) -> Any:
        return self._call_callback(callback, map(func, tasks))


class TestPoolWithMapAlone:
    def test_is_abstract_without_it(self) -> None:
        with pytest.raises(TypeError, match="abstract"):
            BasePool()  # type: ignore[abstract]

    def test_attributes(self) -> None:
        pool = OldPool()
        assert (pool.rank, pool.size, pool._processes) == (0, 3, 3)
        assert pool.is_master()
        assert not OldPool.enabled()
        pool._processes = 7
        assert pool._processes == 7
        with pool as same:
            assert same is pool

    def test_maps(self) -> None:
        pool = OldPool()
        assert pool.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]
        assert pool.starmap(double, [(1,), (13,)], return_exceptions=True)[0] == 2
        assert pool.apply(int, ("11",), {"base": 2}) == 3
        assert list(pool.batched_map(lambda batch: batch, "abcd")) == [
            ((0, 2), ["a", "b"]), ((2, 3), ["c"]), ((3, 4), ["d"]),
        ]  # fmt: skip
        seen: list[int] = []
        assert pool.starmap(double, [(1,), (2,)], callback=seen.append, return_results=False) is None
        assert seen == [2, 4]
        assert list(pool.map(double, [1], callback=seen.append)) == [2]

    def test_iterators(self) -> None:
        drawn = itertools.count()
        results = OldPool().imap(double, drawn)
        assert [next(results) for _ in range(4)] == [0, 2, 4, 6]
        assert next(drawn) <= 7  # a few tasks ahead of the results, not more
        assert sorted(OldPool().imap_unordered(double, range(5))) == [0, 2, 4, 6, 8]
        assert list(OldPool().imap(double, [])) == []

    def test_iterator_goes_on_after_a_failure(self) -> None:
        results = OldPool().imap(double, [1, 13, 2])
        assert next(results) == 2
        with pytest.raises(ValueError, match="13"):
            next(results)
        assert list(results) == [4]

    def test_background(self) -> None:
        pool = OldPool()
        assert pool.map_async(double, [1, 2]).get() == [2, 4]
        assert pool.starmap_async(double, iter([(1,)])).get() == [2]
        assert pool.apply_async(double, (4,)).get() == 8
        failed = pool.map_async(double, [13])
        assert not failed.successful()

    def test_retries(self) -> None:
        left = [1]

        def moody(x: int) -> int:
            if left[0]:
                left[0] -= 1
                raise OSError
            return x

        assert OldPool().starmap(moody, [(5,)], retries=1) == [5]

    def test_what_it_cannot(self) -> None:
        with pytest.raises(PoolUnavailable, match="OldPool has no timeout per task"):
            OldPool().starmap(double, [(1,)], timeout=1)
        with pytest.raises(NotImplementedError, match="OldPool has no hold on single workers"):
            OldPool().broadcast(double, 1)

    def test_callback_wrapper(self) -> None:
        seen: list[int] = []
        assert list(_callback_wrapper(seen.append, [1, 2])) == seen == [1, 2]


class Scripted(BasePool):
    """A pool whose stream delivers what the test wrote down."""

    _runs_ahead = True

    def __init__(self, script: Sequence[tuple[int, list[Any]]]) -> None:
        self.script = script
        self.closed = False
        self.calls: list[Call] = []
        self.deadlines: list[float | None] = []

    def map(self, *args: Any, **kwargs: Any) -> Any:
        func, iterable = args
        callback, keep, order = (
            kwargs.get(name) for name in ("callback", "return_results", "callback_order")
        )
        keep = keep is not False
        return self._map(0, func, iterable, None, callback, keep, order, False, 0, None, MISSING, MISSING)

    def _stream(self, call: Call) -> Generator[tuple[int, list[Any]], None, None]:
        self.calls.append(call)
        try:
            for first, values in self.script:
                self.deadlines.append(call.deadline)
                yield first, list(values)
        finally:
            self.closed = True


class TestDelivery:
    SCRIPT = ((4, ["e"]), (0, ["a", "b"]), (2, []), (2, ["c", "d"]))

    def test_collects_by_index(self) -> None:
        assert Scripted(self.SCRIPT).map(len, "abcde") == list("abcde")

    def test_callbacks_in_order_of_completion(self) -> None:
        seen: list[str] = []
        pool = Scripted(self.SCRIPT)
        assert pool.map(len, "abcde", callback=seen.append, callback_order="completion") == list("abcde")
        assert seen == ["e", "a", "b", "c", "d"]
        assert not pool.calls[0].ordered

    def test_input_order_is_the_streams_work(self) -> None:
        pool = Scripted([])
        pool.map(len, "", callback=print)
        pool.map(len, "", return_results=False)
        assert [call.ordered for call in pool.calls] == [True, False]

    def test_error_in_a_callback_cuts_off(self) -> None:
        pool = Scripted(self.SCRIPT)
        with pytest.raises(KeyError):
            pool.map(len, "abcde", callback={}.__getitem__)
        assert pool.closed

    def test_callback_runs_here(self) -> None:
        threads: list[Any] = []
        Scripted([(0, [1])]).map(len, "a", callback=lambda _: threads.append(threading.current_thread()))
        assert threads == [threading.current_thread()]


class TestIterator:
    def test_work_begins_at_the_call(self) -> None:
        pool = Scripted([(0, []), (0, ["a"])])
        results = pool.imap(len, "a")
        assert pool.deadlines == [0.0]
        assert list(results) == ["a"]
        assert pool.deadlines == [0.0, None]

    def test_timeout(self) -> None:
        pool = Scripted([(0, []), (0, []), (0, ["a"])])
        results = pool.imap(len, "a")
        with pytest.raises(multiprocessing.TimeoutError):
            results.next(timeout=0)
        assert results.next(timeout=LIMIT) == "a"
        with pytest.raises(StopIteration):
            results.next()
        with pytest.raises(StopIteration):
            next(results)

    def test_dropping_it_cuts_off(self) -> None:
        pool = Scripted([(0, ["a"]), (1, ["b"])])
        results = pool.imap(len, "ab")
        assert not pool.closed
        results.close()
        assert pool.closed
        assert list(results) == []
        results.close()
        other = Scripted([(0, ["a"]), (1, ["b"])])
        del results
        assert next(other.imap(len, "ab")) == "a"
        assert other.closed

    def test_error_of_the_stream_ends_it(self) -> None:
        class Broken(Scripted):
            def _stream(self, call: Call) -> Generator[tuple[int, list[Any]], None, None]:
                yield 0, ["a"]
                raise OSError("the tasks' own iterator")

        results = Broken([]).imap(len, "a")
        assert next(results) == "a"
        with pytest.raises(OSError, match="own iterator"):
            next(results)
        assert list(results) == []

    def test_order_and_laziness_reach_the_stream(self) -> None:
        pool = Scripted([])
        pool.imap(len, "a", 5)
        pool.imap_unordered(len, "a", None, return_exceptions=True)
        first, second = pool.calls
        assert (first.ordered, first.lazy, first.chunksize, first.failed) == (True, True, 5, set())
        assert (second.ordered, second.lazy, second.chunksize, second.failed) == (False, True, None, None)


class TestAsyncResult:
    def test_settles_once(self) -> None:
        seen: list[Any] = []
        result: AsyncResult[list[int]] = AsyncResult(seen.append, seen.append)
        assert "pending" in repr(result)
        result._complete([1])
        result._complete([2])
        result._fail(OSError())
        assert (result.get(), seen) == ([1], [[1]])
        assert "done" in repr(result)

    def test_callback_has_returned_before_get(self) -> None:
        inside, go = threading.Event(), threading.Event()

        def callback(_: Any) -> None:
            inside.set()
            assert go.wait(LIMIT)

        result: AsyncResult[list[int]] = AsyncResult(callback)
        thread = threading.Thread(target=result._complete, args=([1],))
        thread.start()
        assert inside.wait(LIMIT)
        assert not result.ready()
        with pytest.raises(PoolTimeout):
            result.get(timeout=0)
        with pytest.raises(ValueError, match="not ready"):
            result.successful()
        go.set()
        assert result.get(LIMIT) == [1]
        thread.join()

    def test_single(self) -> None:
        result: AsyncResult[int] = AsyncResult(single=True)
        result._complete([5])
        assert result.get() == 5

    def test_failure(self) -> None:
        seen: list[BaseException] = []
        result: AsyncResult[int] = AsyncResult(None, seen.append)
        error = OSError("x")
        result._fail(error)
        assert seen == [error]
        assert not result.successful()
        assert "failed: OSError('x')" in repr(result)
        for _ in range(2):
            with pytest.raises(OSError, match="x"):
                result.get()

    def test_error_in_a_callback_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reported: list[Any] = []
        monkeypatch.setattr(sys, "excepthook", lambda *args: reported.append(args[0]))
        monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_type))
        here: AsyncResult[list[int]] = AsyncResult({}.__getitem__)
        here._complete([1])
        assert here.get() == [1]
        for error in (KeyError, SystemExit):
            there: AsyncResult[list[int]] = AsyncResult(lambda _, error=error: (_ for _ in ()).throw(error))
            thread = threading.Thread(target=there._complete, args=([2],))
            thread.start()
            thread.join()
            assert there.get(LIMIT) == [2]
        assert reported == [TypeError, KeyError, SystemExit]

    def test_interrupt_in_a_callback_on_the_callers_stack(self) -> None:
        def interrupt(_: Any) -> None:
            raise KeyboardInterrupt

        result: AsyncResult[list[int]] = AsyncResult(interrupt)
        with pytest.raises(KeyboardInterrupt):
            result._complete([1])
        assert result.get() == [1]


class TestArguments:
    """The checks that every method shares."""

    @pytest.mark.parametrize(
        ("options", "error", "match"),
        [
            ({"chunksize": 0}, ValueError, r"^Chunksize must be 1\+, not 0$"),
            ({"chunksize": -3}, ValueError, r"^Chunksize must be 1\+, not -3$"),
            ({"chunksize": 2.0}, TypeError, "chunksize must be"),
            ({"retries": -1}, ValueError, "retries must be 0 or more, not -1"),
            ({"retries": "2"}, TypeError, "retries must be an integer, not '2' of type str"),
            ({"timeout": 0}, ValueError, "timeout must be a number of seconds > 0, not 0"),
            ({"timeout": float("nan")}, ValueError, "timeout"),
            ({"timeout": "1"}, TypeError, "timeout must be a number of seconds, not '1' of type str"),
            ({"timeout": None, "worker": len}, TypeError, "got both 'func' and 'worker'"),
            ({"tasks": []}, TypeError, "got both 'iterable' and 'tasks'"),
        ],
    )
    @pytest.mark.parametrize("method", ["starmap", "imap", "imap_unordered", "map_async", "starmap_async"])
    def test_wrong(self, method: str, options: dict[str, Any], error: type[Exception], match: str) -> None:
        pool = Scripted([])
        with pytest.raises(error, match=match):
            getattr(pool, method)(double, [], **options)
        assert pool.calls == []

    def test_missing(self) -> None:
        pool: Any = Scripted([])
        with pytest.raises(TypeError, match="missing required argument: 'func'"):
            pool.starmap()
        with pytest.raises(TypeError, match="missing required argument: 'iterable'"):
            pool.imap(double)
        with pytest.raises(TypeError, match="'NoneType' object is not iterable"):
            pool.batched_map(double, None)

    def test_both_sets_of_names(self) -> None:
        pool = OldPool()
        assert pool.starmap(worker=pow, tasks=[(2, 3)]) == pool.starmap(func=pow, iterable=[(2, 3)]) == [8]
        assert list(pool.imap(worker=double, tasks=[1])) == [2]
        assert pool.map_async(worker=double, iterable=[1]).get() == [2]
        assert list(pool.batched_map(func=len, iterable="ab")) == [2, 2]

    def test_chunksize_and_callback_may_change_places(self) -> None:
        np = pytest.importorskip("numpy")
        pool = Scripted([])
        pool.starmap(double, [], print, np.int64(3))
        assert pool.calls[0].chunksize == 3
        for wrong in ((3, 4), (print, print)):
            with pytest.raises(TypeError, match="got two"):
                pool.starmap(double, [], *wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="callback must be callable, not 'x' of type str"):
            pool.starmap(double, [], None, "x")  # type: ignore[call-overload]

    def test_endless_timeout_is_none(self) -> None:
        pool = Scripted([])
        pool.starmap(double, [], timeout=float("inf"))
        assert pool.calls[0].timeout is None

    def test_callback_order(self) -> None:
        with pytest.raises(ValueError, match='must be "input" or "completion", not \'soon\''):
            Scripted([]).starmap(double, [], callback_order="soon")
