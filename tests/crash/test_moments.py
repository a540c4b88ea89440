"""Every cell of the crash table, on every pool: the error, the pool afterwards, the other tasks, what is left."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import tasks
from helpers.traps import DEATHS, EXITCODES
from pools_under_test import PoolKind
from schwimmbad_go.error import RemoteError, RemoteTraceback, TaskExit, WorkerLost

from crash.table import BAD, BUILT_IN, CELLS, GOOD, TASKS, Cell

HANG = 30.0  # seconds; what a user would call a hang. The time that was needed is recorded with the test.


def usable(pool: Any) -> None:
    """The proof: a map of another function, larger than before, gives what it should."""
    assert list(pool.map(tasks.negate, range(60))) == [-n for n in range(60)]


def check_error(error: BaseException, cell: Cell) -> None:
    assert isinstance(error, cell.errors)
    for ours, builtin in BUILT_IN.items():
        assert not isinstance(error, ours) or isinstance(error, builtin)
    if cell.index:
        notes = " ".join(getattr(error, "__notes__", []))
        assert getattr(error, "index", None) == BAD or f"task {BAD}" in notes, (error, notes)
    if cell.remote:
        assert isinstance(error.__cause__, RemoteTraceback), (error, error.__cause__)
        assert "Traceback" in str(error.__cause__)
    if isinstance(error, WorkerLost):
        assert error.exitcode == EXITCODES[cell.column]
        assert error.pid not in (None, os.getpid())
        assert error.host
    if isinstance(error, TaskExit):
        assert error.exit_code == 3
        assert error.code not in (0, None)  # uncaught, it must not look like success
    if isinstance(error, RemoteError):
        assert any(name in error.type_name for name in ("ErrorTrap", "Unpicklable", "TwoArguments"))
        assert error.text


@pytest.fixture
def victim(kind: PoolKind, request: pytest.FixtureRequest, has_failed: Callable[[], bool]) -> Iterator[Any]:
    """A new pool where workers start in no time; elsewhere one that goes through the whole table."""
    kind.needs("workers", "pickling")
    if "cell" in request.fixturenames and request.getfixturevalue("cell").column in DEATHS:
        kind.needs("deaths")
    if kind.cheap and kind.has("side by side"):
        request.getfixturevalue("clean")
        with kind(2) as one:
            yield one
        one.join()
        return
    yield kind.kept()
    if has_failed():
        kind.renew()


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_cell(victim: Any, cell: Cell, record_property: Callable[[str, object], None]) -> None:
    pool = victim
    began = time.monotonic()
    with pytest.raises(cell.errors) as caught:
        pool.map(*cell.work())
    seconds = time.monotonic() - began
    record_property("seconds", seconds)
    assert seconds < HANG
    check_error(caught.value, cell)
    usable(pool)

    if cell.in_place:
        results = pool.map(*cell.work(), return_exceptions=True)
        assert [r for n, r in enumerate(results) if n != BAD] == [g for n, g in enumerate(GOOD) if n != BAD]
        assert len(results) == TASKS
        check_error(results[BAD], cell)
        usable(pool)


@pytest.mark.parametrize("cell", [c for c in CELLS if c.moment == "inside the task"], ids=str)
def test_cell_by_iterator(victim: Any, cell: Cell) -> None:
    """The same moments met through imap_unordered, in chunks: all other results come, then the pool works."""
    results, errors = [], []
    stream = victim.imap_unordered(*cell.work(), chunksize=3)
    while True:
        try:
            results.append(next(stream))
        except StopIteration:
            break
        except BaseException as error:
            if not isinstance(error, cell.errors):
                raise
            errors.append(error)
    assert sorted(results) == sorted(g for n, g in enumerate(GOOD) if n != BAD)
    assert len(errors) == 1
    check_error(errors[0], cell)
    usable(victim)


@pytest.mark.parametrize("processes", [1, 2, 5, 13])
def test_deaths_over_worker_counts(clean: None, kind: PoolKind, processes: int) -> None:
    """Several tasks kill their workers in one map; everything else is done."""
    kind.needs("deaths")
    if processes != 2:
        kind.needs("size")
    if processes == 1:
        kind.needs("lone worker")
    if processes > 5 and not kind.cheap:
        pytest.skip(f"{kind.name}: thirteen interpreters take too long to start here")
    with kind(processes) as pool:
        for _ in range(2):
            bad = {3, 4, 17}
            results = pool.map(os._exit, [1, 2], return_exceptions=True)
            assert [type(r) for r in results] == [WorkerLost, WorkerLost]
            assert [r.exitcode for r in results] == [1, 2]
            results = pool.map(_die_if, [(n, n in bad) for n in range(40)], return_exceptions=True)
            assert [n for n, r in enumerate(results) if isinstance(r, WorkerLost)] == sorted(bad)
            assert [r.index for r in results if isinstance(r, WorkerLost)] == sorted(bad)
            assert [r for r in results if isinstance(r, int)] == [n for n in range(40) if n not in bad]
        usable(pool)
    pool.join()


def _die_if(task: tuple[int, bool]) -> int:
    n, dies = task
    if dies:
        os.kill(os.getpid(), 9)
    return n
