"""Which functions can be mapped: everything that can be called, or an error that says why not."""

from __future__ import annotations

import collections
import functools
import math
import operator
import pickle
import random
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest
from helpers import tasks
from pools_under_test import PoolKind
from schwimmbad_go.error import PicklingError

np = pytest.importorskip("numpy")

METHOD_OF_RANDOM = random.Random(5)


@functools.lru_cache
def cached(x: Any) -> Any:
    return x + 1


def decorated_by(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapper(*args: Any) -> Any:
        return func(*args), "decorated"

    return wrapper


@decorated_by
def decorated(x: int) -> int:
    return x


def by_reference() -> list[tuple[Any, Any, Any]]:
    return [
        (abs, -3, 3), (len, "abc", 3), (math.sqrt, 4.0, 2.0), (str, 5, "5"), (int, "7", 7), (tuple, [1], (1,)), (str.upper, "a", "A"),
        ("abc".index, "b", 1), ([1, 2, 3].__getitem__, 1, 2), ({"a": 1}.get, "a", 1), (operator.itemgetter(1), [4, 5], 5),
        (operator.attrgetter("x"), tasks.Point(1, 2), 1), (operator.methodcaller("upper"), "a", "A"),
        (functools.partial(tasks.add, 1), 2, 3), (functools.partial(functools.partial(tasks.add, 1), scale=2), 2, 6),
        (tasks.Multiplier(3), 4, 12), (tasks.Multiplier(3).method, 4, 12), (tasks.Multiplier.from_class, 1, ("Multiplier", 1)),
        (tasks.Multiplier.from_static, 1, 2), (functools.partial(tasks.Point, 1), 2, tasks.Point(1, 2)),
        (np.sqrt, 4.0, 2.0), (np.linalg.norm, np.array([3.0, 4.0]), 5.0), (np.sum, [1, 2], 3), (collections.Counter, "aa", {"a": 2}),
    ]


@pytest.mark.parametrize("n", range(len(by_reference())))
def test_what_pickle_takes(pool: Any, n: int) -> None:
    func, task, expected = by_reference()[n]
    assert list(pool.map(func, [task] * 5)) == [expected] * 5
    assert pool.apply(func, (task,)) == expected


def test_module_level_functions_with_wrappers(pool: Any) -> None:
    assert list(pool.map(cached, [1, 2, 1])) == [2, 3, 2]
    assert list(pool.map(decorated, [1])) == [(1, "decorated")]


class TestByValue:
    """Lambdas, closures, local functions and classes: with cloudpickle or dill, on every pool."""

    @pytest.fixture(autouse=True)
    def pickler(self) -> None:
        pytest.importorskip("cloudpickle")

    def test_lambda(self, pool: Any) -> None:
        assert list(pool.map(lambda x: x + 1, range(5))) == [1, 2, 3, 4, 5]
        assert list(pool.map(lambda x: x + 2, range(5))) == [2, 3, 4, 5, 6]

    def test_lambda_made_in_a_loop(self, pool: Any) -> None:
        for k in range(30):
            assert list(pool.map(lambda x: x + k, range(3))) == [k, k + 1, k + 2]  # noqa: B023 - run at once

    def test_closure_over_a_closure(self, pool: Any) -> None:
        def outer(a: int) -> Callable[[int], int]:
            def inner(b: int) -> int:
                return a * b + helper(b)

            def helper(c: int) -> int:
                return a + c

            return inner

        assert list(pool.map(outer(3), range(4))) == [3, 7, 11, 15]

    def test_recursive_local_function(self, pool: Any) -> None:
        def fact(n: int) -> int:
            return 1 if n < 2 else n * fact(n - 1)

        assert list(pool.map(fact, range(6))) == [1, 1, 2, 6, 24, 120]

    def test_defaults_annotations_and_keywords(self, pool: Any) -> None:
        def local(x: int, *, k: int = 4, **rest: Any) -> Any:
            return x, k, rest, local.__doc__ is None

        assert pool.apply(local, (1,), {"z": 2}) == (1, 4, {"z": 2}, True)

    def test_local_class_as_function_and_as_result(self, pool: Any) -> None:
        class Local:
            def __init__(self, x: int) -> None:
                self.x = x

        made = list(pool.map(Local, range(4)))
        assert [m.x for m in made] == [0, 1, 2, 3]
        assert all(type(m).__name__ == "Local" for m in made)

    def test_lambda_among_the_tasks(self, pool: Any) -> None:
        assert list(pool.map(tasks.call, [(lambda x: x + 1, 1), (abs, -2), (lambda x: x * 10, 3)])) == [2, 2, 30]

    def test_lambda_as_result(self, pool: Any) -> None:
        made = list(pool.map(lambda k: (lambda x: x + k), [1, 2]))
        assert [f(10) for f in made] == [11, 12]

    def test_partial_of_a_lambda(self, pool: Any) -> None:
        assert list(pool.map(functools.partial(lambda a, b: a * b, 3), range(3))) == [0, 3, 6]

    def test_function_with_globals_of_this_module(self, pool: Any) -> None:
        assert list(pool.map(lambda x: METHOD_OF_RANDOM is not None and math.floor(x), [1.5])) == [1]

    def test_method_of_a_local_instance(self, pool: Any) -> None:
        class Model:
            def __init__(self) -> None:
                self.data = np.arange(5.0)

            def loglike(self, x: float) -> float:
                return float(self.data.sum() * x)

        assert list(pool.map(Model().loglike, [1.0, 2.0])) == [10.0, 20.0]

    def test_function_from_exec(self, pool: Any) -> None:
        """As a notebook cell or a plugin makes them: no file, no module to import it from."""
        space: dict[str, Any] = {"__name__": "a_cell"}
        exec("offset = 7\ndef f(x):\n    return x + offset\n", space)
        assert list(pool.map(space["f"], [1, 2])) == [8, 9]

    def test_function_of_a_module_that_is_not_importable(self, pool: Any) -> None:
        module = types.ModuleType("made_up_module")
        exec("def f(x):\n    return x * 3\n", module.__dict__)
        assert list(pool.map(module.f, [1, 2])) == [3, 6]


class TestManyFunctions:
    """However many functions a pool has seen, each map runs its own: a stale one would give wrong numbers in silence."""

    def test_one_comes_back_after_many_others(self, fresh: Any) -> None:
        pool = fresh(2)
        for _ in range(3):
            assert list(pool.map(tasks.negate, range(60))) == [-n for n in range(60)]
            for k in range(200):
                assert list(pool.map(functools.partial(tasks.add, k), range(3))) == [k, k + 1, k + 2]
            for n in (1, 3, 50):
                assert list(pool.map(tasks.square, [3] * n)) == [9] * n

    def test_in_random_order(self, fresh: Any) -> None:
        pool = fresh(2)
        choice = random.Random(7)
        plain = (tasks.negate, tasks.square, tasks.identity, abs, hash, tasks.spin)
        for _ in range(1500):
            k = choice.randrange(200)
            func: Any = choice.choice(plain) if k % 2 else functools.partial(tasks.add, k)
            work = range(choice.choice((1, 2, 3, 5, 50)))
            assert list(pool.map(func, work)) == [func(n) for n in work]

    def test_short_lived_functions_with_the_same_id(self, fresh: Any, kind: PoolKind) -> None:
        """A dropped function's id goes to the next one."""
        if kind.has("pickling"):
            pytest.importorskip("cloudpickle")
        pool = fresh(2)
        for k in range(300):
            assert list(pool.map(lambda x: x + k, range(3))) == [k, k + 1, k + 2]  # noqa: B023 - run at once
            assert list(pool.map(tasks.square, [3])) == [9]


class TestWhatCannotCross:
    def test_a_function_that_holds_a_lock(self, pool: Any, kind: PoolKind) -> None:
        kind.needs("pickling")
        with pytest.raises(PicklingError, match="lock") as caught:
            pool.map(functools.partial(tasks.identity, threading.Lock()), [1])
        assert caught.value.index is None
        assert isinstance(caught.value, pickle.PicklingError)
        assert list(pool.map(tasks.square, [3])) == [9]

    def test_a_task_that_is_a_lock(self, pool: Any, kind: PoolKind) -> None:
        kind.needs("pickling")
        work: list[Any] = list(range(10))
        work[6] = threading.Lock()
        with pytest.raises(PicklingError, match="lock") as caught:
            pool.map(tasks.identity, work)
        assert caught.value.index == 6
        results = pool.map(tasks.identity, work, return_exceptions=True)
        assert isinstance(results[6], PicklingError)
        assert [r for n, r in enumerate(results) if n != 6] == [n for n in range(10) if n != 6]

    @pytest.mark.parametrize("make", [tasks.lock_result, tasks.generator_result], ids=["lock", "generator"])
    def test_a_result(self, pool: Any, kind: PoolKind, make: Any) -> None:
        kind.needs("pickling")
        with pytest.raises(PicklingError) as caught:
            pool.map(make, [5, 5])
        assert caught.value.index in (0, 1)  # both fail; which one is first is not promised
        assert "lock" in str(caught.value) or "generator" in str(caught.value)
        results = pool.map(tasks.lock_result, range(10), return_exceptions=True)
        assert isinstance(results[5], PicklingError)
        assert [r for n, r in enumerate(results) if n != 5] == [n for n in range(10) if n != 5]

    def test_a_function_that_cannot_be_found_again(self, pool: Any, kind: PoolKind) -> None:
        """Renamed, so that the module has no such name: by value, or a clear error; never another function."""
        def f(x: int) -> int:
            return x + 100

        f.__qualname__ = f.__name__ = "square"
        f.__module__ = tasks.__name__
        try:
            results = list(pool.map(f, [1, 2]))
        except PicklingError:
            return
        assert results == [101, 102]

    def test_wrong_number_of_arguments(self, pool: Any) -> None:
        with pytest.raises(TypeError, match="argument"):
            pool.starmap(tasks.square, [(1, 2)])
        assert list(pool.map(tasks.square, [3])) == [9]


class TestState:
    """A callable with state is copied; the caller's own is never touched, and no map sees what an earlier one left."""

    def test_callers_object_is_untouched(self, pool: Any, kind: PoolKind) -> None:
        kind.needs("pickling")
        func = tasks.Multiplier(2)
        list(pool.map(func, range(20)))
        assert func.calls == 0

    def test_no_state_from_map_to_map(self, pool: Any, kind: PoolKind) -> None:
        kind.needs("pickling")
        func = tasks.Multiplier(2).how_often
        for _ in range(5):
            counts = pool.map(func, range(8), chunksize=1)
            assert max(counts) <= 8
            assert counts.count(1) <= 2  # each worker starts from the caller's object

    def test_change_between_maps_is_seen(self, pool: Any) -> None:
        func = tasks.Multiplier(2)
        for factor in (2, 3, 3, 5, 2):
            func.factor = factor
            assert list(pool.map(func, range(6))) == [factor * n for n in range(6)]

    def test_state_of_worker_modules_stays(self, fresh: Any, kind: PoolKind) -> None:
        if kind.has("workers"):
            kind.needs("size")
        pool = fresh(1)
        list(pool.map(tasks.count_up, ["n"] * 5))
        assert list(pool.map(tasks.count_up, ["n"])) == [6]
