"""How a task's error travels: a record made in the worker, an exception made of it on the master.

The exception is pickled on its own inside the record, so that one that cannot be rebuilt costs itself and nothing else;
its type's name, text and traceback travel as plain strings and always arrive.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import traceback
from collections.abc import Iterable
from typing import Any, NamedTuple

from . import _layout as L
from . import error as _error

PLAIN, EXIT, INTERRUPT, RESULT, READ, TIMEOUT = range(6)

#: Host and number of the MPI rank that this process belongs to; empty and None elsewhere: the master is on the same machine.
host = ""
rank: int | None = None


class Record(NamedTuple):
    """One failed task. Plain values only: it must unpickle everywhere."""

    what: int  # PLAIN: the task raised; EXIT, INTERRUPT; RESULT: its result does not pickle; READ: it could not be read
    pickled: bytes | None  # the exception, where it survives pickling
    type_name: str
    text: str
    traceback: str
    pid: int
    exit_code: Any = None
    host: str = ""  # empty: the master's
    rank: int | None = None

    def where(self) -> str:
        """The worker, in words."""
        place = "" if self.rank is None else f"rank {self.rank}, "
        return f"{place}worker pid {self.pid} on {self.host or socket.gethostname()}"


class Failed:
    """Stands for a failed task's result among the others of its chunk."""

    __slots__ = ("record",)

    def __init__(self, record: Iterable[Any]) -> None:
        self.record = Record(*record)

    def __reduce__(self) -> tuple[Any, ...]:
        return Failed, (tuple(self.record),)


class OverTime(Exception):
    """Raised in a task that exceeds its time limit, by a worker that cannot be ended for it."""

    def __init__(self, limit: float) -> None:
        super().__init__(f"longer than {limit:g} s")
        self.limit = limit


class Limited:
    """A function that is interrupted after a time.

    By a signal, so in the main thread alone, and between two steps of the interpreter: compiled code that does not come back is
    not reached. A worker process of its own (``isolate=True``) can be ended wherever it is.
    """

    def __init__(self, func: Any, limit: float) -> None:
        self.func = func
        self.limit = limit

    def _ring(self, *_: Any) -> None:
        raise OverTime(self.limit)

    def __call__(self, *args: Any, **kwds: Any) -> Any:
        before = signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, self.limit)
        try:
            return self.func(*args, **kwds)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


class Unsent:
    """Stands for a task that could not be pickled; the worker raises the error in its place."""

    def __init__(self, error: _error.PicklingError) -> None:
        self.error = error


class Guard:
    """The function of a chunk in which some tasks are errors already."""

    def __init__(self, func: Any, flags: int) -> None:
        self.func = func
        self.flags = flags

    def __call__(self, task: Any) -> Any:
        if type(task) is Unsent:
            raise task.error
        if self.flags & L.UNPACK_STAR:
            return self.func(*task)
        if self.flags & L.UNPACK_APPLY:
            return self.func(*task[0], **task[1])
        return self.func(task)


def type_name(kind: type) -> str:
    """``module.QualifiedName`` without the noise of builtins."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def make_record(error: BaseException, what: int = PLAIN, skip: int = 1) -> Record:
    """Describe an exception that was just caught; `skip` leaves out our own frames at the outer end."""
    tb = error.__traceback__
    while skip > 0 and tb is not None and tb.tb_next is not None:
        tb, skip = tb.tb_next, skip - 1
    lines = "".join(traceback.format_exception(type(error), error, tb))
    code: Any = None
    if isinstance(error, SystemExit):
        what = EXIT
        code = error.code if isinstance(error.code, (int, str, type(None))) else str(error.code)
    elif isinstance(error, KeyboardInterrupt):
        what = INTERRUPT
    elif isinstance(error, OverTime):
        what = TIMEOUT
        code = error.limit
    return Record(what, _survives(error), type_name(type(error)), _text(error), lines, os.getpid(), code, host, rank)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as broken:  # a __str__ of the user's that raises must not hide the error it belongs to
        return f"<its __str__ raised {type(broken).__name__}>"


def _survives(error: BaseException) -> bytes | None:
    """The pickled exception if it can be pickled and rebuilt here. User code runs in both steps and may raise anything;
    whatever it raises, the record without it still tells the story."""
    try:
        data = pickle.dumps(error, 5)
        pickle.loads(data)
    except BaseException:  # user code again, which may raise even SystemExit; the record tells the story without it
        return None
    return data


def rebuild(record: Record, index: int) -> BaseException:
    """The exception to raise (or to put in the task's place) on the master."""
    where = f"task {index}, {record.where()}"
    exc = _exception(record, index, where)
    exc.__cause__ = _error.RemoteTraceback(f'\n"""\n{record.traceback}"""')
    _error.add_note(exc, where)
    return exc


def _exception(record: Record, index: int, where: str) -> BaseException:
    if record.what == EXIT:
        return _error.TaskExit(
            f"{where}: the task called sys.exit({record.exit_code!r})", exit_code=record.exit_code, index=index
        )
    if record.what == INTERRUPT:
        return _error.TaskInterrupt(f"{where}: the task raised KeyboardInterrupt", index=index)
    if record.what == TIMEOUT:
        return _error.TaskTimeout(
            f"{where}: the task ran longer than the limit of {record.exit_code} s per task and was interrupted",
            index=index, pid=record.pid, host=record.host or socket.gethostname(), timeout=record.exit_code,
        )  # fmt: skip
    if record.what == RESULT:
        return _error.PicklingError(
            f"{where}: the result cannot be pickled: {record.type_name}: {record.text}. Return plain data, or install "
            "cloudpickle (pip install schwimmbad-go[cloudpickle]) if it holds functions or local classes",
            index=index,
        )
    if record.what == READ:
        return _error.UnpicklingError(
            f"{where}: the task cannot be rebuilt in the worker: {record.type_name}: {record.text}", index=index
        )
    if record.pickled is not None:
        try:
            exc = pickle.loads(record.pickled)
        except BaseException as broken:  # it survived in the worker, so user code sees a difference here: tell both
            return _remote(record, index, where, f"; rebuilding it here raised {type(broken).__name__}: {broken}")
        if isinstance(exc, BaseException):
            return exc
    return _remote(record, index, where, "; the exception itself cannot be pickled")


def _remote(record: Record, index: int, where: str, why: str) -> BaseException:
    return _error.RemoteError(
        f"{where}: {record.type_name}: {record.text}{why}", type_name=record.type_name, text=record.text, index=index
    )
