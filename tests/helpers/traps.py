"""Ways to fail (the columns of the crash table) and objects that fail at one moment of their life (its rows)."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import sys
import threading
from typing import Any, NoReturn

EXCEPTIONS = ("exception", "base", "exit", "interrupt")
ODD_EXCEPTIONS = ("unpicklable", "two arguments")  # raised well, but cannot cross
DEATHS = ("segfault", "_exit", "sigkill")
EXITCODES = {"segfault": -signal.SIGSEGV, "_exit": 7, "sigkill": -signal.SIGKILL}


class Boom(Exception):
    """An ordinary exception of the user's."""


class Odd(BaseException):
    """One that `except Exception` lets pass."""


class Unpicklable(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class TwoArguments(Exception):
    """The classic: it pickles, and cannot be rebuilt, since args do not match __init__."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} and {right}")


def fail(what: str, home: int) -> NoReturn:
    """Fail in the way named `what`. `home` is the test's process: a death is never acted out there."""
    if what == "exception":
        raise Boom("trap")
    if what == "base":
        raise Odd("trap")
    if what == "exit":
        sys.exit(3)
    if what == "interrupt":
        raise KeyboardInterrupt("trap")
    if what == "unpicklable":
        raise Unpicklable("trap")
    if what == "two arguments":
        raise TwoArguments(1, 2)
    if os.getpid() == home:
        raise AssertionError(f"{what} would kill the test itself")
    faulthandler.disable()  # pytest's: it would write the child's stacks into the test's output
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if what == "segfault":
        ctypes.string_at(0)
    if what == "_exit":
        os._exit(7)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(f"survived {what}")


class Trap:
    """Fails when it is pickled or rebuilt, at home (in the test's process) or away (in a worker).

    Parameters
    ----------
    moment : {"pickled at home", "pickled away", "rebuilt at home", "rebuilt away", "dropped away", "never"}
    what : str
        See `fail`.
    value : object
        What a harmless one would stand for.
    """

    def __init__(self, moment: str, what: str, value: Any = None, home: int | None = None) -> None:
        self.moment = moment
        self.what = what
        self.value = value
        self.home = os.getpid() if home is None else home

    def _spring(self, event: str) -> None:
        place = "at home" if os.getpid() == self.home else "away"
        if f"{event} {place}" == self.moment:
            fail(self.what, self.home)

    def __reduce__(self) -> Any:
        self._spring("pickled")
        return rebuild, (type(self), self.moment, self.what, self.value, self.home)

    def __call__(self, x: Any) -> Any:
        return x

    def __del__(self) -> None:
        if self.moment == "dropped away" and os.getpid() != self.home:
            fail(self.what, self.home)


class ErrorTrap(Trap, Exception):
    """The same as an exception."""

    def __str__(self) -> str:
        return f"error trap {self.value}"


def rebuild(cls: type[Trap], moment: str, what: str, value: Any, home: int) -> Trap:
    made = cls(moment, what, value, home)
    made._spring("rebuilt")
    return made


# ---- functions for the tasks: task BAD fails, all others return their number squared --------------------------------


def fail_inside(what: str, home: int, bad: int, n: int) -> int:
    if n == bad:
        fail(what, home)
    return n * n


def value_of(task: Any) -> Any:
    """For traps among the tasks: gives the value of those that arrive."""
    return task.value * task.value if isinstance(task, Trap) else task * task


def trap_as_result(moment: str, what: str, home: int, bad: int, n: int) -> Any:
    return Trap(moment, what, n, home) if n == bad else n * n


def trap_as_error(moment: str, what: str, home: int, bad: int, n: int) -> int:
    if n == bad:
        raise ErrorTrap(moment, what, n, home)
    return n * n


class DiesAfterwards:
    """A result that crosses as a plain number; the worker fails when it drops the original, after the task."""

    def __init__(self, what: str, home: int, n: int) -> None:
        self.trap = Trap("dropped away", what, n, home)
        self.n = n

    def __reduce__(self) -> Any:
        return int, (self.n * self.n,)


def fail_afterwards(what: str, home: int, bad: int, n: int) -> Any:
    return DiesAfterwards(what, home, n) if n == bad else n * n


def initializer(what: str, home: int) -> None:
    if os.getpid() != home:
        fail(what, home)


def initializer_once(what: str, home: int, path: str) -> None:
    """Fails on the first worker that starts, and on no other: O_EXCL decides who is first."""
    if os.getpid() == home:
        return
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    fail(what, home)


def leave_exit_hooks(what: str, home: int) -> None:
    """Register everything that Python runs when a process ends, and let each fail."""
    import atexit
    import multiprocessing.util

    if os.getpid() != home:
        atexit.register(fail, what, home)
        multiprocessing.util.Finalize(None, fail, (what, home), exitpriority=10)
        KEEP.append(Trap("dropped away", what, None, home))


KEEP: list[Any] = []
