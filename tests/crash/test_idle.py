"""Workers that die between tasks: the next map must not notice, and no result may be lost or doubled."""

from __future__ import annotations

import functools
import os
import signal
from typing import Any

import pytest
from helpers import leaks, tasks, traps
from pools_under_test import PoolKind
from schwimmbad_go.error import WorkerLost

from crash.test_moments import usable

SIGNALS = pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV], ids=lambda s: s.name)


def kill(pid: int, signum: int = signal.SIGKILL) -> None:
    """Returns when the process is dead: the death is over before the test goes on."""
    os.kill(pid, signum)
    assert leaks.poll(lambda: not leaks.alive(pid), 5) < 5


def stop(pid: int) -> None:
    """Returns when the process is stopped: until then it may still take a chunk from the queue, and keep it."""
    os.kill(pid, signal.SIGSTOP)
    assert leaks.poll(lambda: leaks.parents()[pid][1] == "T", 5) < 5


def forget_core_files(_: Any = None) -> None:
    import faulthandler
    import resource

    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@SIGNALS
@pytest.mark.parametrize("victims", [1, 2])
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_killed_while_idle(clean: None, fresh: Any, kind: PoolKind, signum: int, victims: int, used: bool) -> None:
    kind.needs("deaths", "handles")
    pool = fresh(2, initializer=forget_core_files)
    pool.broadcast(os.getpid)
    if used:
        usable(pool)
    old = [process.pid for process in pool._pool]
    for pid in old[:victims]:
        kill(pid, signum)
    usable(pool)
    assert len(set(pool.broadcast(os.getpid))) == 2
    assert not set(old[:victims]) & {process.pid for process in pool._pool}
    assert len(pool._pool) == 2


def test_killed_again_and_again(clean: None, fresh: Any, kind: PoolKind) -> None:
    kind.needs("deaths", "handles")
    pool = fresh(2)
    for n in range(20 if kind.cheap else 3):
        kill(pool._pool[n % 2].pid)
        assert pool.map(tasks.square, range(30)) == [i * i for i in range(30)]


def test_killed_between_results_of_an_imap(clean: None, fresh: Any, kind: PoolKind) -> None:
    """The consumer holds the map half done; what a dead worker had taken is an error of those tasks alone."""
    kind.needs("deaths", "handles")
    pool = fresh(2)
    results = pool.imap(tasks.square, range(200), chunksize=1, return_exceptions=True)
    got = [next(results) for _ in range(3)]
    kill(pool._pool[0].pid)
    got += list(results)
    assert len(got) == 200
    for n, value in enumerate(got):
        assert value == n * n or (isinstance(value, WorkerLost) and value.index == n)
    assert sum(isinstance(value, WorkerLost) for value in got) <= 1
    usable(pool)


@pytest.mark.parametrize("what", traps.DEATHS)
def test_dies_right_after_a_task(clean: None, fresh: Any, kind: PoolKind, what: str) -> None:
    """The result was sent, or was not: it arrives, or is a WorkerLost. So is that of a task which the worker has begun by
    then; the result was not safe if the task ran again, and killed another worker. Nobody else is harmed."""
    kind.needs("deaths", "pickling")
    pool = fresh(2)
    func = functools.partial(traps.fail_afterwards, what, os.getpid(), 5)
    for chunksize in (None, 1, 4):
        results = pool.map(func, range(12), chunksize=chunksize, return_exceptions=True)
        assert len(results) == 12
        for n, value in enumerate(results):
            assert value == n * n or (isinstance(value, WorkerLost) and value.index == n)
        assert sum(isinstance(value, WorkerLost) for value in results) <= 2
        usable(pool)


def test_stopped_worker_leaves_the_work_to_the_other(clean: None, fresh: Any, kind: PoolKind) -> None:
    """SIGSTOP while idle (a debugger, a batch system): chunks go to whoever is free."""
    kind.needs("deaths", "handles")
    pool = fresh(2)
    usable(pool)
    stop(pool._pool[0].pid)
    try:
        assert pool.map(tasks.square, range(50), chunksize=5) == [n * n for n in range(50)]
    finally:
        os.kill(pool._pool[0].pid, signal.SIGCONT)
    usable(pool)


def test_interrupt_to_an_idle_worker_is_ignored(clean: None, fresh: Any, kind: PoolKind) -> None:
    kind.needs("deaths", "handles")
    pool = fresh(2)
    pids = pool.broadcast(os.getpid)
    for pid in pids:
        os.kill(pid, signal.SIGINT)
    usable(pool)
    assert sorted(pool.broadcast(os.getpid)) == sorted(pids)
