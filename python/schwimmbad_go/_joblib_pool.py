"""The standing pool of joblib's backend: worker processes that stay for the next call.

There is one per process. A call that wants another number of workers, or other limits for them, gets a new one, and the
old one ends as soon as nobody uses it. It ends as well when nobody has used it for five minutes, and with the process.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Final

from ._runner import Runner, shut_down
from ._start import Initializer

IDLE: Final = 300.0  # seconds; what loky waits

_lock = threading.RLock()  # reentrant: a garbage collection under it may end an abandoned generator, which gives the pool back
_standing: StandingPool | None = None


class StandingPool:
    """Workers with an environment, and how many use them. Made by `take`.

    Workers come from a fork server. A fork of the user's process would inherit the state of its OpenMP runtime, and GNU's
    hangs in a child when the parent has run a parallel region; workers that import everything on their own, as spawned
    ones do, would each pay for the start of an interpreter.

    Parameters
    ----------
    workers : int
    environ : mapping
        Variables for the workers, beside the inherited ones: limits of thread pools, which libraries read when loaded.
    """

    def __init__(self, workers: int, environ: Mapping[str, str]) -> None:
        self.workers = workers
        self.environ = dict(environ)
        self.runner = Runner(workers, "forkserver", Initializer(None, ()), 0, self.environ)
        self.users = 0
        self.idle = IDLE
        self.since = time.monotonic()  # when the last user left
        self.retired = False
        self.changed = threading.Condition(_lock)
        self._finalizer = weakref.finalize(self, shut_down, self.runner)
        # Not when the first user leaves: that may be a generator which is collected at the interpreter's end, when no thread starts.
        self._watch = threading.Thread(target=self._end_when_idle, name="schwimmbad-go-joblib-idle", daemon=True)
        self._watch.start()

    def usable(self) -> bool:
        """Whether new calls can run here."""
        runner = self.runner
        return runner.owner == os.getpid() and not (runner.closed or runner.dead) and runner.starter.process.poll() is None

    def give_back(self) -> None:
        """A user leaves."""
        with _lock:
            self.users -= 1
            self.since = time.monotonic()
            ends = self.retired and self.users == 0
            self.changed.notify_all()
        if ends:
            self.end()

    def end(self) -> None:
        """End the workers. Repeatable."""
        if self.runner.owner == os.getpid():
            self._finalizer()

    def _end_when_idle(self) -> None:
        global _standing
        with _lock:
            while not self.retired:
                left = None if self.users else self.since + self.idle - time.monotonic()
                if left is not None and left <= 0:
                    self.retired = True
                    if _standing is self:
                        _standing = None
                    break
                self.changed.wait(left)
            if self.users:
                return  # its last user ends it
        self.end()


def take(workers: int, environ: Mapping[str, str], idle: float) -> StandingPool:
    """The standing pool of this process, for one more user, who gives it back.

    Parameters
    ----------
    workers : int
    environ : mapping
        See `StandingPool`.
    idle : float
        Seconds without a user after which it ends.
    """
    global _standing
    with _lock:
        pool = _standing
        fits = pool is not None and pool.workers == workers and pool.environ == environ and pool.usable()
        if pool is None or not fits:
            _standing = None
            if pool is not None:
                _retire(pool)
            pool = _standing = StandingPool(workers, environ)
        pool.users += 1
        pool.idle = idle
        return pool


def _retire(pool: StandingPool) -> None:
    """No new users. Under the lock."""
    pool.retired = True
    pool.changed.notify_all()


def shut_down_standing() -> None:
    """End the standing pool and wait for that; one that is in use ends with its last user."""
    global _standing
    with _lock:
        pool, _standing = _standing, None
        if pool is None:
            return
        _retire(pool)
        used = pool.users > 0  # then its last user ends it
    pool._watch.join()
    if not used:
        pool.end()


def _after_fork() -> None:
    """In a forked child: the workers are the parent's."""
    global _lock, _standing
    _lock = threading.RLock()
    _standing = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
