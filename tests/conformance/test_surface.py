"""Names, attributes, argument errors and the life of a pool."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import schwimmbad_go
from helpers import tasks
from pools_under_test import PoolKind

METHODS = (
    "map starmap imap imap_unordered map_async starmap_async apply apply_async batched_map broadcast "
    "close terminate join wait is_master is_worker enabled"
).split()

MAPS = ("map", "starmap", "imap", "imap_unordered", "map_async", "starmap_async", "batched_map")


def run(pool: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    """The call, and whatever iterating its result does."""
    made = getattr(pool, method)(*args, **kwargs)
    if method in ("map", "imap", "imap_unordered"):
        return list(made)
    return made.get(20) if method.endswith("_async") else made


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_there(pool: Any, name: str) -> None:
    assert callable(getattr(pool, name))


def test_is_a_base_pool_of_exactly_its_class(pool: Any, kind: PoolKind) -> None:
    assert isinstance(pool, schwimmbad_go.pool.BasePool)
    assert type(pool) is getattr(schwimmbad_go, kind.cls)
    assert pool.__class__.__name__ == kind.cls


def test_master_side_attributes(pool: Any, kind: PoolKind) -> None:
    assert pool.rank == 0
    assert pool.is_master() is True
    assert pool.is_worker() is False
    assert type(pool).enabled() is True
    assert pool.size == (2 if kind.has("tells size") else 0)
    assert type(pool._processes) is int
    assert pool._processes == kind.workers


@pytest.mark.parametrize("n", [1, 2, 5])
def test_size_is_the_number_of_processes(fresh: Any, kind: PoolKind, n: int) -> None:
    kind.needs("size")
    pool = fresh(n)
    assert (pool.size, pool._processes) == (n if kind.has("tells size") else 0, n)


def test_wait_returns_at_once_on_the_master(pool: Any) -> None:
    def never() -> None:
        raise AssertionError("called on the master")

    assert pool.wait() is None
    assert pool.wait(never) is None
    assert pool.wait(callback=never) is None


def test_methods_can_be_reassigned_and_passed_around(fresh: Any) -> None:
    pool = fresh()
    mapper = pool.map
    assert list(mapper(tasks.square, [1, 2])) == [1, 4]
    pool.imap = pool.map
    assert list(pool.imap(tasks.square, [3])) == [9]
    pool.note = "users hang things on pools"
    assert pool.note


def test_repr_tells_class_state_and_size(fresh: Any, kind: PoolKind) -> None:
    kind.needs("closes", "state")
    pool = fresh()
    assert repr(pool) == f"<{type(pool).__module__}.{kind.cls} state=RUN pool_size=2>"
    pool.close()
    assert "state=CLOSE" in repr(pool)
    pool.terminate()
    assert "state=TERMINATE" in repr(pool)


def test_state_attribute(fresh: Any, kind: PoolKind) -> None:
    kind.needs("closes", "state")
    pool = fresh()
    assert pool._state == "RUN"
    with pool as entered:
        assert entered is pool
    assert pool._state == "TERMINATE"


@pytest.mark.parametrize("method", MAPS)
def test_none_as_tasks_is_a_type_error_at_the_call(pool: Any, method: str) -> None:
    with pytest.raises(TypeError, match="'NoneType' object is not iterable"):
        getattr(pool, method)(tasks.identity, None)


@pytest.mark.parametrize("method", MAPS)
def test_number_as_tasks_is_a_type_error_at_the_call(pool: Any, method: str) -> None:
    with pytest.raises(TypeError, match="not iterable"):
        getattr(pool, method)(tasks.identity, 7)


@pytest.mark.parametrize("method", MAPS)
def test_function_that_cannot_be_called_is_a_type_error(pool: Any, method: str) -> None:
    with pytest.raises(TypeError):
        run(pool, method, 5, [(1,)])


def test_uncallable_function_in_apply_and_broadcast(pool: Any) -> None:
    with pytest.raises(TypeError):
        pool.apply("not a function", (1,))
    with pytest.raises(TypeError):
        pool.apply_async(None, (1,)).get(20)
    with pytest.raises(TypeError):
        pool.broadcast(3)


@pytest.mark.parametrize("method", MAPS)
@pytest.mark.parametrize("chunksize", [0, -1])
def test_chunksize_below_one_is_a_value_error(pool: Any, method: str, chunksize: int) -> None:
    with pytest.raises(ValueError, match=rf"Chunksize must be 1\+, not {chunksize}"):
        getattr(pool, method)(tasks.identity, [(1,)], chunksize=chunksize)


@pytest.mark.parametrize("method", ("map", "starmap", "imap"))
@pytest.mark.parametrize("chunksize", ["2", 2.5])
def test_chunksize_of_another_type_is_a_type_error(pool: Any, method: str, chunksize: Any) -> None:
    with pytest.raises(TypeError):
        getattr(pool, method)(tasks.identity, [(1,)], chunksize=chunksize)


@pytest.mark.parametrize("bad", [
    {"retries": -1}, {"timeout": 0}, {"timeout": -1.0}, {"callback_order": "random"},
])
def test_bad_option_values_are_value_errors_at_the_call(pool: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        pool.map(tasks.identity, [1], callback=tasks.nothing, **bad)


def test_unknown_option_is_a_type_error(pool: Any) -> None:
    with pytest.raises(TypeError):
        pool.map(tasks.identity, [1], chunk_size=3)


def test_callback_that_cannot_be_called_is_a_type_error(pool: Any) -> None:
    with pytest.raises(TypeError):
        pool.map(tasks.identity, [1], callback="print")


class TestArgumentNames:
    def test_func_and_iterable(self, pool: Any) -> None:
        assert list(pool.map(func=tasks.square, iterable=[2, 3])) == [4, 9]

    def test_worker_and_tasks(self, pool: Any) -> None:
        assert list(pool.map(worker=tasks.square, tasks=[2, 3])) == [4, 9]

    def test_starmap_and_batched_map_too(self, pool: Any) -> None:
        assert pool.starmap(worker=tasks.add, tasks=[(1, 2)]) == [3]
        assert pool.starmap(func=tasks.add, iterable=[(1, 2)]) == [3]
        assert sum(s for _, s in pool.batched_map(worker=tasks.batch_sum, tasks=[1, 2, 3])) == 6

    @pytest.mark.parametrize("extra", [{"func": tasks.square}, {"worker": tasks.square}])
    def test_function_given_twice(self, pool: Any, extra: dict[str, Any]) -> None:
        with pytest.raises(TypeError):
            pool.map(tasks.square, [1], **extra)

    @pytest.mark.parametrize("extra", [{"iterable": [1]}, {"tasks": [1]}])
    def test_tasks_given_twice(self, pool: Any, extra: dict[str, Any]) -> None:
        with pytest.raises(TypeError):
            pool.map(tasks.square, [1], **extra)

    def test_both_names_at_once(self, pool: Any) -> None:
        with pytest.raises(TypeError):
            pool.map(func=tasks.square, worker=tasks.square, iterable=[1])
        with pytest.raises(TypeError):
            pool.map(func=tasks.square, tasks=[1], iterable=[1])

    def test_missing_arguments(self, pool: Any) -> None:
        with pytest.raises(TypeError):
            pool.map()
        with pytest.raises(TypeError):
            pool.map(tasks.square)

    def test_third_position_takes_a_callback_or_a_chunksize(self, pool: Any) -> None:
        seen: list[int] = []
        assert list(pool.map(tasks.square, [1, 2, 3], seen.append)) == [1, 4, 9]
        assert sorted(seen) == [1, 4, 9]
        assert list(pool.map(tasks.square, [1, 2, 3], 2)) == [1, 4, 9]


class TestLife:
    def test_close_then_map(self, fresh: Any, kind: PoolKind) -> None:
        pool = fresh()
        assert list(pool.map(tasks.square, [3])) == [9]
        assert pool.close() is None
        if not kind.has("closes"):
            assert list(pool.map(tasks.square, [3])) == [9]
            return
        for method in MAPS:
            with pytest.raises(ValueError, match="^Pool not running"):
                getattr(pool, method)(tasks.square, [(1,)])
        for method in ("apply", "apply_async", "broadcast"):
            with pytest.raises(ValueError, match="^Pool not running"):
                getattr(pool, method)(tasks.pid)
        with pytest.raises(ValueError, match="^Pool not running"), pool:
            pass

    def test_use_after_terminate(self, fresh: Any, kind: PoolKind) -> None:
        kind.needs("closes")
        pool = fresh()
        pool.terminate()
        with pytest.raises(schwimmbad_go.error.PoolClosed, match="^Pool not running"):
            pool.map(tasks.square, [1])

    def test_ending_is_repeatable_in_any_order(self, fresh: Any) -> None:
        pool = fresh()
        for end in ("close", "close", "join", "join", "terminate", "terminate", "join", "close"):
            assert getattr(pool, end)() is None

    def test_terminate_without_close(self, fresh: Any) -> None:
        pool = fresh()
        pool.terminate()
        pool.join()

    def test_join_before_close(self, fresh: Any, kind: PoolKind) -> None:
        pool = fresh()
        if not kind.has("closes"):
            assert pool.join() is None
            return
        with pytest.raises(ValueError, match="Pool is still running"):
            pool.join()

    def test_unused_pool_ends(self, clean: None, kind: PoolKind) -> None:
        pool = kind(2)
        pool.close()
        pool.join()

    def test_with_block_leaves_nothing(self, clean: None, kind: PoolKind) -> None:
        with kind(2) as pool:
            assert list(pool.map(tasks.square, range(10))) == [n * n for n in range(10)]

    def test_exception_leaves_the_with_block_as_it_is(self, clean: None, kind: PoolKind) -> None:
        with pytest.raises(ZeroDivisionError), kind(2) as pool:
            list(pool.map(tasks.square, range(10)))
            raise ZeroDivisionError

    def test_pickling_a_pool(self, pool: Any, kind: PoolKind) -> None:
        if not kind.has("cannot travel"):
            assert list(pickle.loads(pickle.dumps(pool)).map(tasks.square, [3])) == [9]
            return
        with pytest.raises(NotImplementedError, match="pool objects cannot be passed between processes or pickled"):
            pickle.dumps(pool)


class TestConstructor:
    @pytest.mark.parametrize("n", [0, -1])
    def test_too_few_processes(self, clean: None, kind: PoolKind, n: int) -> None:
        kind.needs("plain count")
        with pytest.raises(ValueError, match="Number of processes must be at least 1"):
            kind(n)

    @pytest.mark.parametrize("n", ["2", 2.0])
    def test_processes_of_another_type(self, clean: None, kind: PoolKind, n: Any) -> None:
        kind.needs("plain count")
        with pytest.raises(TypeError):
            kind(n)

    def test_other_pools_names_are_ignored(self, fresh: Any) -> None:
        pool = fresh(1, comm=None, use_dill=True, maxtasksperchild=None, initializer=None, initargs=())
        assert list(pool.map(tasks.square, [3])) == [9]

    def test_initializer_that_cannot_be_called(self, clean: None, kind: PoolKind) -> None:
        kind.needs("workers")
        with pytest.raises(TypeError):
            kind(1, initializer=3)

    def test_misspelt_name(self, clean: None, kind: PoolKind) -> None:
        kind.needs("workers")  # SerialPool ignores every keyword, as in schwimmbad
        with pytest.raises(TypeError):
            kind(1, proceses=2)
