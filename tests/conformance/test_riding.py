"""Objects that ride in every task: who sees which changes, what is the same object where, and into how many chunks they are cut."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from helpers import riding, tasks
from pools_under_test import PoolKind
from schwimmbad_go import error

np = pytest.importorskip("numpy")

BIG = 40_000  # float64: out of band, and shared within a map
SIZES = pytest.mark.parametrize("data", ["big", "small", "list"])


def rider(data: str, value: float = 1.0, cls: Any = riding.Rider) -> Any:
    n = {"big": BIG, "small": 100, "list": 500}[data]
    return cls([value] * n if data == "list" else np.full(n, value))


@SIZES
class TestChanges:
    def test_between_two_maps_are_seen(self, pool: Any, data: str) -> None:
        one = rider(data)
        n = len(one.data)
        for change in range(5):
            one.data[-1] = change
            assert list(pool.map(riding.total, [(one, i) for i in range(16)])) == [(i, n - 1 + change) for i in range(16)]
        one.data = rider(data, 2.0).data
        assert list(pool.map(riding.total, [(one, i) for i in range(16)])) == [(i, 2.0 * n) for i in range(16)]

    def test_by_tasks_end_with_the_map(self, pool: Any, kind: PoolKind, data: str) -> None:
        """What a task sees of another's changes is at most what others of the same map and worker left. The caller sees nothing."""
        kind.needs("pickling")
        one = rider(data)
        n = len(one.data)
        for _ in range(5):
            found = list(pool.map(riding.change, [(one, i) for i in range(16)]))
            assert [i for i, _, _ in found] == list(range(16))
            assert found[0] == (0, n, 0), "the first task of a map sees what an earlier map left"
            assert all(n <= total < n + 16 and calls < 16 for _, total, calls in found)
            assert one.total() == n
            assert one.calls == 0

    def test_are_shared_within_a_chunk(self, pool: Any, kind: PoolKind, data: str) -> None:
        kind.needs("pickling")
        one = rider(data)
        found = list(pool.map(riding.change, [(one, i) for i in range(6)], chunksize=3))
        assert [calls for _, _, calls in found] == [0, 1, 2] * 2

    def test_to_what_a_worker_kept_stay_there(self, pool: Any, kind: PoolKind, data: str) -> None:
        kind.needs("pickling")
        one = rider(data)
        try:
            for i in range(6):
                assert all(pool.map(riding.keep, [(one, 10 * i + k) for k in range(8)], chunksize=8))
                assert one.total() == len(one.data)
        finally:
            pool.broadcast(tasks.forget)


@SIZES
class TestIdentity:
    def test_within_a_task(self, pool: Any, data: str) -> None:
        one = rider(data)
        for _ in range(3):
            assert list(pool.map(riding.same, [(one, one, one.data)] * 16)) == [True] * 16

    def test_of_equal_objects_is_their_own(self, pool: Any, data: str) -> None:
        one, other = rider(data), rider(data)
        for _ in range(3):
            assert list(pool.map(riding.same, [(one, other, one.data)] * 16)) == [False] * 16

    def test_another_object_of_the_same_value_later(self, pool: Any, data: str) -> None:
        """Its buffer may lie where the last one lay."""
        for value in range(6):
            one = rider(data, value)
            assert list(pool.map(riding.total, [(one, i) for i in range(12)])) == [(i, one.total()) for i in range(12)]
            del one


@SIZES
def test_reduce_and_state(pool: Any, kind: PoolKind, data: str) -> None:
    kind.needs("pickling")
    one = rider(data, cls=riding.Guarded)
    for extra in ("a", "b"):
        one.extra = extra
        want = [(i, extra, 100, "Guarded") for i in range(16)]
        assert list(pool.map(riding.state, [(one, i) for i in range(16)])) == want


@SIZES
def test_a_task_that_does_not_pickle_fails_alone(pool: Any, kind: PoolKind, data: str) -> None:
    kind.needs("pickling")
    one = rider(data)
    work = [(one, riding.Stubborn() if i in (3, 11) else i) for i in range(16)]
    for _ in range(3):
        found = list(pool.map(riding.total, work, return_exceptions=True))
        assert [i for i, r in enumerate(found) if isinstance(r, error.PicklingError)] == [3, 11]
        assert [r for i, r in enumerate(found) if i not in (3, 11)] == [(i, len(one.data)) for i in range(16) if i not in (3, 11)]
    one.extra = riding.Stubborn()  # then all of them do not
    with pytest.raises(error.PicklingError, match="stubborn"):
        pool.map(riding.total, work)


@SIZES
def test_threads_with_riders_of_their_own(pool: Any, data: str) -> None:
    shared = rider(data, 7.0)
    wrong: list[Any] = []

    def work(value: float) -> None:
        try:
            own = rider(data, value)
            n = len(own.data)
            for step in range(6):
                own.data[0] = step
                pairs = [(own if i % 2 else shared, i) for i in range(12)]
                want = [(i, (n - 1) * value + step if i % 2 else 7.0 * n) for i in range(12)]
                found = list(pool.map(riding.total, pairs))
                if found != want:
                    wrong.append((value, step, found))
        except BaseException as why:
            wrong.append(why)

    threads = [threading.Thread(target=work, args=(v,)) for v in (1.0, 2.0, 3.0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class TestChunks:
    def test_are_few_where_much_rides_in_each(self, fresh: Any, kind: PoolKind) -> None:
        """A long list takes milliseconds to rebuild in each chunk, its tasks a few microseconds: by the time per task alone there would
        be chunks of one task for ever. A busy machine may need some more maps to learn it."""
        kind.needs("statistics")
        pool = fresh(2)
        pairs = [(riding.Rider([float(i) for i in range(50_000)]), 0)] * 16
        pool.map(riding.state, pairs)
        counts: list[int] = []
        while len(counts) < 20 and min(counts, default=16) > pool._processes:
            before = pool.statistics().chunks
            pool.map(riding.state, pairs)
            counts.append(pool.statistics().chunks - before)
        assert min(counts) <= pool._processes, counts  # one, where nothing is rebuilt and the tasks are too short for two

    def test_of_results_that_pickle_slowly(self, pool: Any) -> None:
        one = rider("big")
        for size in (None, 1, 5, 40):
            found = pool.map(riding.slow, [(one, i) for i in range(40)], chunksize=size)
            assert [r.value for r in found] == [(i, BIG) for i in range(40)]

    def test_of_results_that_pickle_slowly_and_a_death(self, pool: Any, kind: PoolKind) -> None:
        kind.needs("pickling", "deaths")
        one = rider("big")
        work = [(one, "die" if i == 17 else i) for i in range(40)]
        found = list(pool.map(riding.slow_or_die, work, return_exceptions=True))
        assert [i for i, r in enumerate(found) if isinstance(r, error.WorkerLost)] == [17]
        assert [r.value for i, r in enumerate(found) if i != 17] == [(i, BIG) for i in range(40) if i != 17]
