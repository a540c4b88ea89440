"""A batch of joblib's: its result, and the pieces in which it goes to the engine.

joblib makes three objects for each call, ``(func, args, kwargs)``. Most often all calls of a batch have one function and the same keywords;
then they go as their arguments alone.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ._functions import importable
from ._joblib_task import ARGS, SINGLE, WHOLE, Form
from .error import PoolError

if TYPE_CHECKING:
    from ._joblib_session import Session
    from ._payload import Encoded

_IMMUTABLE: Final = (int, float, complex, bool, str, bytes, type(None))


class Result:
    """What ``submit`` returns: a batch whose results will be there.

    Parameters
    ----------
    session : Session
    items : list
        Calls, as (func, args, kwargs).
    first : int
        Number of calls in the batches before.
    callback : callable or None
        Called with this object when the batch is done; when it failed, only if the session says so.
    """

    __slots__ = ("callback", "done", "error", "first", "left", "out", "session", "single")

    def __init__(self, session: Session, size: int, first: int, callback: Callable[[Any], Any] | None, single: bool) -> None:
        self.session = session
        self.first = first
        self.callback = callback
        self.single = single
        self.out: list[Any] = [None] * size
        self.left = size
        self.done = False
        self.error: BaseException | None = None

    def get(self, timeout: float | None = None) -> Any:
        """The results; raises what a call raised, of this batch or of another one that is under way.

        Parameters
        ----------
        timeout : float, optional
            [s]

        Raises
        ------
        PoolTimeout
            It takes longer. A ``multiprocessing.TimeoutError`` as well.
        """
        self.session.wait(self, timeout)
        return self.value()

    def value(self) -> Any:
        """The results, which are there; or raises."""
        if self.error is not None:
            raise self.error
        return self.out[0] if self.single else self.out


class Piece:
    """Calls of a batch as one task of the engine.

    Parameters
    ----------
    result : Result
    start : int
        Place of the first call in the batch.
    func : callable or None
        Of all its calls, if it is pickled once for all batches.
    own, form, calls
        See `Batch`.
    """

    __slots__ = ("calls", "form", "func", "own", "result", "start")

    def __init__(self, result: Result, start: int, func: Any, own: Any, form: Form, calls: list[Any]) -> None:
        self.result = result
        self.start = start
        self.func = func
        self.own = own
        self.form = form
        self.calls = calls

    def carry(self) -> None:
        """Let the batch bring its function."""
        if self.func is not None:
            self.own, self.func = self.func, None

    def task(self) -> tuple[Form, Any, list[Any]]:
        """What is sent."""
        return self.form, self.own, self.calls


class Launch:
    """Pieces that go out together, each a task of one job; what a `Jobs` tells about them."""

    __slots__ = ("pieces", "session")

    def __init__(self, session: Session, pieces: list[Piece]) -> None:
        self.session = session
        self.pieces = dict(enumerate(pieces))

    def _part(self, first: int, values: list[Any]) -> None:
        for place, (seconds, kind, results) in enumerate(values, first):
            self.session.arrived(self.pieces.pop(place), seconds, kind, results)

    def _fail_part(self, place: int, error: BaseException) -> None:
        self.session.failed(self.pieces.pop(place), error, place)

    def _fail(self, error: BaseException) -> None:
        for piece in self.pieces.values():
            self.session.failed(piece, error)


def take_apart(items: list[Any]) -> tuple[Any, Any, Form, list[Any]]:
    """A batch as joblib made it, as ``(func, own, form, calls)``; see `Piece`. Takes 0.04 us per call.

    The function is pickled once for all batches only if it is a plain one without state of its own. Anything that may hold state goes
    with its batch: a worker's calls of later batches must not see what it was changed to. In the form SINGLE tiny calls take a tenth
    of the time to pickle.
    """
    try:
        func = items[0][0]
        form, calls = _named(func, items) if items[0][2] else _positional(func, items)
    except (TypeError, LookupError, ValueError):  # one is not a triple: the worker will say so, as joblib's do
        return None, None, WHOLE, items
    if len(calls) < len(items):  # some are unlike the first
        return None, None, WHOLE, items
    return (func, None, form, calls) if _is_plain(func) else (None, func, form, calls)


def _positional(func: Any, items: list[Any]) -> tuple[Form, list[Any]]:
    """Calls of the function without keywords. Tuples only: whatever else stands there may give its arguments once."""
    try:
        return SINGLE, [arg for f, a, k in items if f is func and not k and type(a) is tuple for (arg,) in [a]]
    except ValueError:
        return ARGS, [a for f, a, k in items if f is func and not k and type(a) is tuple]


def _named(func: Any, items: list[Any]) -> tuple[Form, list[Any]]:
    """Calls of the function with as many arguments, and the keywords, of the first."""
    _, args, keywords = items[0]
    if type(keywords) is not dict:
        return WHOLE, []
    count, names = len(args), tuple(keywords)
    return (count, names), [
        (*a, *k.values())
        for f, a, k in items
        if f is func and type(a) is tuple and len(a) == count and type(k) is dict and tuple(k) == names
    ]


def _is_plain(func: Any) -> bool:
    if type(func) is types.FunctionType:
        defaults = func.__defaults__ or ()
        plain = func.__closure__ is None and not func.__dict__ and not func.__kwdefaults__
        return plain and all(isinstance(v, _IMMUTABLE) for v in defaults)
    return type(func) is types.BuiltinFunctionType and type(func.__self__) is types.ModuleType


def by_reference(func: Any, encoded: Encoded) -> bool:
    """Whether a `Batch` of this function holds no state: nothing that a call changes in it could be seen by calls of later batches.

    joblib's backend for nested calls is state, but each batch has its own copy.
    """
    if func is None:
        return True
    return b"__main__" not in encoded[1] and (type(func) is not types.FunctionType or importable(func))


def name_calls(error: BaseException, place: int, first: int, count: int) -> None:
    """An engine's task, number `place` of its job, is a piece of a batch: say which calls of the user's it was."""
    which = f"task {first}" if count == 1 else f"one of the tasks {first} to {first + count - 1}"
    notes = getattr(error, "__notes__", None)
    if notes:
        notes[-1] = _renamed(notes[-1], place, which)
    if isinstance(error, PoolError) and getattr(error, "index", None) is not None:
        error.index = first  # type: ignore[attr-defined]
        text = _renamed(str(error), place, which).replace("; retries=1 runs such a task once more", "")
        error.args = (text.replace(" and other tasks are not affected", ""), *error.args[1:])


def _renamed(text: str, place: int, which: str) -> str:
    """A text that begins with the number of the engine's task."""
    found = re.match(rf"task {place}\b", text)
    return which + text[found.end() :] if found else text
