"""Fixtures: the pools of the registry, gates, and the check that nothing is left behind."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Workers and scripts import `helpers` by name, whatever import mode pytest runs in.
if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))

from helpers import leaks, tasks
from helpers.gates import Gate
from helpers.mpirun import family_fixture, runs  # noqa: F401 - fixtures
from pools_under_test import KEPT, KINDS, PoolKind

# A hang inside the engine cannot be ended by a signal handler of Python's: the process is ended, with all stacks.
HARD_LIMIT = 140.0  # seconds per test, beyond every pytest-timeout

# Whatever is started by exec from here on can be told from other processes of the machine.
os.environ.setdefault(leaks.MARK, uuid.uuid4().hex)

_failed = pytest.StashKey[bool]()
_stderr = pytest.StashKey[int]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    if outcome.get_result().failed:  # type: ignore[attr-defined]
        item.stash[_failed] = True


def pytest_collection_finish() -> None:
    """Thousands of collected items live as long as the session: keep them out of every later collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def has_failed(request: pytest.FixtureRequest) -> Callable[[], bool]:
    """For the clean-up part of a fixture: whether the case itself failed."""
    return lambda: request.node.stash.get(_failed, False)


def pytest_configure(config: pytest.Config) -> None:
    """Keep the true stderr: pytest's capture is not yet in its way here. And let Ctrl-C be what it is: in the background of a shell
    without job control it is ignored, and every process that is started here would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[_stderr] = os.dup(2)


@pytest.fixture(autouse=True)
def hard_limit(request: pytest.FixtureRequest) -> Iterator[None]:
    faulthandler.dump_traceback_later(HARD_LIMIT, exit=True, file=request.config.stash[_stderr])
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What tasks left in this process, on a pool without workers, is not for the next case."""
    yield
    tasks.STATE.clear()


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> PoolKind:
    """Each pool of the registry in turn."""
    found: PoolKind = request.param
    return found


@pytest.fixture
def pool(kind: PoolKind, has_failed: Callable[[], bool]) -> Iterator[Any]:
    """A standing pool with two workers, shared by the cases of its kind; renewed after a failed case.

    That one pool serves hundreds of unrelated calls is part of the test. Cases that end the pool use `fresh`.
    """
    yield kind.kept()
    if has_failed():
        kind.renew()


@pytest.fixture
def fresh(kind: PoolKind, has_failed: Callable[[], bool]) -> Iterator[Callable[..., Any]]:
    """Makes pools of this kind that are terminated after the case, whatever happened in it."""
    made = []

    def make(processes: int = 2, **options: Any) -> Any:
        made.append(kind(processes, **options))
        return made[-1]

    yield make
    for one in made:
        if not kind.has("fresh workers") and not one._closed and not has_failed():
            one.broadcast(tasks.forget)  # what this case left on the workers is not for the next one
        one.terminate()
        one.join()


@pytest.fixture
def clean(kind: PoolKind) -> Iterator[None]:
    """Fails the case if a process, thread, descriptor or shared memory is left one second after it.

    Order the fixtures as (clean, fresh): fixtures end in reverse, so the pools are gone when this one looks.
    """
    if not kind.has("side by side"):
        kind.renew()  # it is no part of what the case leaves
    if kind.name not in _warm:
        # The first pool of a process may keep what serves all later ones: the engine, the standard library's forkserver.
        first = kind(2)
        list(first.map(abs, [1]))
        first.terminate()
        first.join()
        del first
        _warm.add(kind.name)
    with leaks.nothing_left():
        yield


_warm: set[str] = set()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    one = Gate(tmp_path / "gate")
    yield one
    one.close()


@pytest.fixture(scope="session", autouse=True)
def end_of_standing_pools() -> Iterator[None]:
    yield
    while KEPT:
        one = KEPT.popitem()[1]
        one.terminate()
        one.join()
