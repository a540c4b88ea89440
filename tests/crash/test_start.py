"""Workers that fail to start: the caller learns why, and nothing is started for ever."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers import tasks, traps
from helpers.traps import DEATHS, EXCEPTIONS, ODD_EXCEPTIONS
from pools_under_test import PoolKind
from schwimmbad_go.error import PoolError, RemoteError, RemoteTraceback, TaskExit, TaskInterrupt, UnpicklingError, WorkerLost

from crash.test_moments import usable

EXPECTED: dict[str, tuple[type[BaseException], ...]] = {
    "exception": (traps.Boom,), "base": (traps.Odd,), "exit": (SystemExit,), "interrupt": (KeyboardInterrupt,),
    "unpicklable": (RemoteError,), "two arguments": (RemoteError, UnpicklingError), **dict.fromkeys(DEATHS, (WorkerLost,)),
}


@pytest.mark.parametrize("column", [*EXCEPTIONS, *ODD_EXCEPTIONS, *DEATHS])
def test_failing_initializer(clean: None, kind: PoolKind, column: str) -> None:
    """From the constructor or from the first map; multiprocessing restarts such workers for ever."""
    kind.needs("workers", *["deaths"] * (column in DEATHS))
    pool = None
    try:
        with pytest.raises(EXPECTED[column]) as caught:
            pool = kind(2, initializer=traps.initializer, initargs=(column, os.getpid()))
            pool.map(tasks.square, range(10))
    finally:
        if pool is not None:
            pool.terminate()
            pool.join()
    error = caught.value
    if column == "exit":
        assert isinstance(error, TaskExit)
    if column == "interrupt":
        assert isinstance(error, TaskInterrupt)
    if column not in DEATHS:
        assert isinstance(error.__cause__, RemoteTraceback)
        assert "in initializer" in str(error.__cause__)


def test_exception_of_an_initializer_in_the_caller(clean: None, kind: PoolKind) -> None:
    if kind.has("size"):
        pytest.skip(f"{kind.name}: runs the initializer on its workers")
    with pytest.raises(ValueError, match="boom 1"):
        kind(1, initializer=tasks.boom, initargs=(1,)).map(abs, [1])


@pytest.mark.parametrize("column", ["exception", "sigkill"])
def test_one_worker_of_two_fails_to_start(clean: None, kind: PoolKind, column: str, tmp_path: Path) -> None:
    """An error, or a pool that replaced it and works; never a pool that lost a worker without a word."""
    kind.needs("workers", *["deaths"] * (column in DEATHS))
    initargs = (column, os.getpid(), str(tmp_path / "first"))
    pool = None
    try:
        pool = kind(2, initializer=traps.initializer_once, initargs=initargs)
        pool.map(tasks.square, range(10))
        assert len(set(pool.broadcast(os.getpid))) == 2
        usable(pool)
    except (traps.Boom, PoolError) as error:
        assert column == "sigkill" or "trap" in str(error)
    finally:
        if pool is not None:
            pool.terminate()
            pool.join()


def test_initializer_that_cannot_be_pickled(clean: None, kind: PoolKind) -> None:
    kind.needs("workers")
    lock = threading.Lock()
    if kind.has("inherits"):
        with kind(2, initializer=_take, initargs=(lock,)) as pool:
            usable(pool)
        pool.join()
        return
    with pytest.raises(Exception, match="pickle") as caught, kind(2, initializer=_take, initargs=(lock,)) as pool:
        pool.map(tasks.square, range(3))
    assert isinstance(caught.value, (PoolError, TypeError))


def _take(lock: Any) -> None:
    assert lock is not None
