"""Errors that a pool raises by itself.

A task's own exception keeps its type; the classes here are for what goes wrong around it. All of them derive
from `PoolError`, and each is also the built-in type that schwimmbad, multiprocessing or plain Python would
have raised in its place, so existing ``except`` clauses keep working. All survive a pickle round trip with
their attributes.
"""

from __future__ import annotations

import pickle
import sys
from typing import Any

__all__ = [
    "EngineError",
    "PicklingError",
    "PoolClosed",
    "PoolError",
    "PoolTimeout",
    "PoolUnavailable",
    "RankLost",
    "RemoteError",
    "RemoteTraceback",
    "TaskExit",
    "TaskInterrupt",
    "TaskTimeout",
    "UnpicklingError",
    "WorkerLost",
]


class PoolError(Exception):
    """Root of every error that a pool raises by itself (schwimmbad's name; there nothing ever raised it)."""


class EngineError(PoolError, RuntimeError):
    """The engine library is missing, is of another version, failed, or was used in a forked child."""


class PoolUnavailable(PoolError, NotImplementedError):
    """This pool, or this method of it, does not exist in this version or with this backend."""


class PoolClosed(PoolError, ValueError):
    """The pool was closed or terminated; a ValueError, as in multiprocessing.

    Parameters
    ----------
    detail : str, optional
        What to add to multiprocessing's sentence ``"Pool not running"``, on which callers match.
    """

    def __init__(self, detail: str = "") -> None:
        text = "Pool not running"
        if detail.startswith(text):  # unpickled: args hold the whole message
            text = detail
        elif detail:
            text = f"{text}: {detail}"
        super().__init__(text)


class WorkerLost(PoolError, RuntimeError):
    """A worker process died while it ran a task.

    Parameters
    ----------
    message : str
    index : int, optional
        Index of the task in the call, from 0 in input order; None if no task was running.
    pid : int, optional
        The dead process.
    host : str, optional
        Where it ran.
    exitcode : int, optional
        As in multiprocessing: negative means killed by that signal.
    worker : int, optional
        Number of the worker in its pool, from 1.
    """

    def __init__(
        self,
        message: str = "a worker process died",
        *,
        index: int | None = None,
        pid: int | None = None,
        host: str | None = None,
        exitcode: int | None = None,
        worker: int | None = None,
    ) -> None:
        super().__init__(message)
        self.index = index
        self.pid = pid
        self.host = host
        self.exitcode = exitcode
        self.worker = worker


class RankLost(WorkerLost):
    """The process of an MPI rank died. MPI cannot go on without it, so the pool is of no use any more, and the job ends with an
    exit code that is not 0."""


class TaskTimeout(PoolError, TimeoutError):
    """A task ran longer than ``timeout=`` allowed.

    Parameters
    ----------
    message : str
    index : int, optional
        Index of the task in the call, from 0 in input order.
    pid : int, optional
        The process that ran it.
    host : str, optional
        Where that process ran.
    timeout : float, optional
        The limit that was passed [s].
    """

    def __init__(
        self,
        message: str = "a task took too long",
        *,
        index: int | None = None,
        pid: int | None = None,
        host: str | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(message)
        self.index = index
        self.pid = pid
        self.host = host
        self.timeout = timeout


class PicklingError(PoolError, pickle.PicklingError):
    """A function, a task or a result cannot be pickled; the message names it and says what to install.

    Parameters
    ----------
    message : str
    index : int, optional
        Index of the task in the call; None if it was the function.
    """

    def __init__(self, message: str = "cannot pickle", *, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class UnpicklingError(PoolError, pickle.UnpicklingError):
    """A function, a task, a result or an exception could not be rebuilt on the other side.

    Parameters
    ----------
    message : str
    index : int, optional
        Index of the task in the call; None if it was the function.
    """

    def __init__(self, message: str = "cannot unpickle", *, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class TaskExit(PoolError, SystemExit):
    """A task called ``sys.exit()``.

    A SystemExit, so that code which expects one keeps working; but left uncaught it must not look like
    success, hence `code` is the message: the interpreter prints it and exits with status 1.

    Parameters
    ----------
    message : str
    exit_code : object, optional
        What the task passed to ``sys.exit``.
    index : int, optional
        Index of the task in the call, from 0 in input order.
    """

    def __init__(
        self, message: str = "a task called sys.exit()", *, exit_code: Any = None, index: int | None = None
    ) -> None:
        super().__init__(message)
        self.code = message
        self.exit_code = exit_code
        self.index = index


class TaskInterrupt(PoolError, KeyboardInterrupt):
    """A task raised KeyboardInterrupt: in its worker, not by Ctrl-C at the caller.

    Parameters
    ----------
    message : str
    index : int, optional
        Index of the task in the call, from 0 in input order.
    """

    def __init__(self, message: str = "a task raised KeyboardInterrupt", *, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class RemoteError(PoolError):
    """A task raised an exception that could not be pickled; this stands in for it.

    Parameters
    ----------
    message : str
    type_name : str
        Qualified name of the exception's class in the worker.
    text : str
        Its message there.
    index : int, optional
        Index of the task in the call, from 0 in input order.
    """

    def __init__(
        self,
        message: str = "a task raised an exception that cannot be pickled",
        *,
        type_name: str = "",
        text: str = "",
        index: int | None = None,
    ) -> None:
        super().__init__(message)
        self.type_name = type_name
        self.text = text
        self.index = index


class PoolTimeout(PoolError, TimeoutError):
    """Waiting for a result took longer than the caller allowed; the work goes on.

    What is raised is always a subclass, made by `pool_timeout`, that is ``multiprocessing.TimeoutError`` as
    well, and ``multiprocess.TimeoutError`` where that package is loaded: schwimmbad raised the latter, most
    code catches the former, and importing either here would slow down every import of this package.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # By function: the class that was raised depends on what is loaded in this process, and has no
        # importable name.
        return pool_timeout, self.args, self.__dict__ or None


_timeout_classes: dict[tuple[type, ...], type[PoolTimeout]] = {}


def pool_timeout(message: str = "no result within the timeout") -> PoolTimeout:
    """Make a `PoolTimeout` that every kind of ``except ...TimeoutError`` catches.

    Parameters
    ----------
    message : str

    Returns
    -------
    PoolTimeout
        Also a ``TimeoutError``, a ``multiprocessing.TimeoutError`` and, if that package is loaded, a
        ``multiprocess.TimeoutError``. Cost: the first call imports multiprocessing.
    """
    import multiprocessing

    bases: tuple[type, ...] = (PoolTimeout, multiprocessing.TimeoutError)
    dill_side = sys.modules.get("multiprocess.context")
    if dill_side is not None:
        bases += (dill_side.TimeoutError,)
    cls = _timeout_classes.get(bases)
    if cls is None:
        cls = type("PoolTimeout", bases, {"__module__": __name__, "__doc__": PoolTimeout.__doc__})
        _timeout_classes[bases] = cls
    return cls(message)


class RemoteTraceback(Exception):
    """Carries a worker's traceback as the ``__cause__`` of a task's exception (as multiprocessing's).

    Parameters
    ----------
    tb : str
        The formatted traceback; ``str()`` of this exception.
    """

    def __init__(self, tb: str = "") -> None:
        super().__init__(tb)
        self.tb = tb

    def __str__(self) -> str:
        return self.tb


def add_note(error: BaseException, note: str) -> None:
    """Attach a line to an exception, as ``BaseException.add_note`` does from Python 3.11 on.

    Parameters
    ----------
    error : BaseException
    note : str
        Such as ``"task 7, worker pid 123 on node4"``. On 3.10 tracebacks do not show it, but ``__notes__``
        holds it.
    """
    if sys.version_info >= (3, 11):
        error.add_note(note)
    else:
        notes = [*getattr(error, "__notes__", ()), note]
        error.__dict__["__notes__"] = notes
