"""Failures on the caller's own stack: in the callback and in the task iterator. They come out as they are."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import tasks, traps
from helpers.gates import Gate, pass_gate_if
from helpers.traps import EXCEPTIONS
from pools_under_test import PoolKind

from crash.table import OWN
from crash.test_moments import usable

COLUMNS = pytest.mark.parametrize("column", EXCEPTIONS)


def failing_callback(column: str, at: int) -> Any:
    seen: list[Any] = []

    def callback(value: Any) -> None:
        seen.append(value)
        if len(seen) == at:
            traps.fail(column, os.getpid())

    callback.seen = seen  # type: ignore[attr-defined]
    return callback


def failing_tasks(column: str, at: int) -> Iterator[int]:
    yield from range(at)
    traps.fail(column, os.getpid())


class TestCallback:
    @COLUMNS
    @pytest.mark.parametrize("at", [1, 7, 300])
    @pytest.mark.parametrize("order", ["input", "completion"])
    def test_leaves_map_with_its_own_type(self, clean: None, fresh: Any, column: str, at: int, order: str) -> None:
        pool = fresh(2)
        callback = failing_callback(column, at)
        with pytest.raises(OWN[column]) as caught:
            pool.map(tasks.square, range(300), callback=callback, callback_order=order)
        assert type(caught.value) is OWN[column]
        assert len(callback.seen) == at  # not called again
        usable(pool)

    @COLUMNS
    def test_without_results(self, clean: None, fresh: Any, column: str) -> None:
        pool = fresh(2)
        with pytest.raises(OWN[column]):
            pool.map(tasks.square, range(300), callback=failing_callback(column, 3), return_results=False)
        usable(pool)

    @COLUMNS
    def test_while_workers_are_busy(self, clean: None, fresh: Any, kind: PoolKind, gate: Gate, column: str) -> None:
        """Outstanding work is cut off or drained; its late results belong to no later map."""
        kind.needs("parallel")
        pool = fresh(2)

        def callback(_: int) -> None:
            gate.open(20)
            traps.fail(column, os.getpid())

        func = functools.partial(pass_gate_if, gate.path, range(1, 20))
        with pytest.raises(OWN[column]):
            pool.map(func, range(20), chunksize=1, callback=callback)
        for _ in range(3):
            usable(pool)

    def test_twenty_times(self, clean: None, fresh: Any) -> None:
        pool = fresh(2)
        for n in range(20):
            with pytest.raises(traps.Boom):
                pool.map(tasks.square, range(100), callback=failing_callback("exception", 1 + 3 * n))
            assert list(pool.map(tasks.negate, range(n))) == [-i for i in range(n)]

    @COLUMNS
    def test_with_big_results_pending(self, clean: None, fresh: Any, column: str) -> None:
        pool = fresh(2)
        with pytest.raises(OWN[column]):
            pool.map(functools.partial(bytes.__mul__, b"x"), [2_000_000] * 20, callback=failing_callback(column, 2))
        usable(pool)


class TestTaskIterator:
    @COLUMNS
    @pytest.mark.parametrize("at", [0, 1, 7, 500])
    def test_leaves_map_with_its_own_type(self, clean: None, fresh: Any, column: str, at: int) -> None:
        pool = fresh(2)
        for options in ({}, {"callback": tasks.nothing}, {"return_exceptions": True}, {"chunksize": 3}):
            with pytest.raises(OWN[column]) as caught:
                list(pool.map(tasks.square, failing_tasks(column, at), **options))
            assert type(caught.value) is OWN[column]
        usable(pool)

    @COLUMNS
    @pytest.mark.parametrize("method", ["imap", "imap_unordered", "starmap"])
    def test_other_methods(self, clean: None, fresh: Any, column: str, method: str) -> None:
        pool = fresh(2)
        source = failing_tasks(column, 5)
        with pytest.raises(OWN[column]):
            list(getattr(pool, method)(tasks.add, zip(source) if method == "starmap" else source))
        usable(pool)

    def test_iter_itself_fails(self, clean: None, fresh: Any) -> None:
        class Broken:
            def __iter__(self) -> Iterator[int]:
                raise LookupError("no iterator")

        pool = fresh(2)
        with pytest.raises(LookupError):
            pool.map(tasks.square, Broken())
        usable(pool)

    def test_results_before_it_are_not_lost_to_imap(self, clean: None, fresh: Any) -> None:
        pool = fresh(2)
        seen = []
        with pytest.raises(traps.Boom):
            for value in pool.imap(tasks.square, failing_tasks("exception", 5)):
                seen.append(value)
        assert seen == [0, 1, 4, 9, 16][: len(seen)]
        usable(pool)
