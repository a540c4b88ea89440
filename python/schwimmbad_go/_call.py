"""What the user asked for, checked and in one shape.

Every public method of every pool makes a `Call` here before any work starts, so that a wrong argument is an
error at the call and never a half-done map. A plain ``pool.map(f, tasks)`` passes through this file on its
way to the engine, where a whole small map takes some tens of microseconds: `checked_call` is written for that
path to stay below 1 us.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from ._functions import Encoder
    from ._payload import Encoded

__all__ = ["MISSING", "Call", "Missing", "checked_call", "sort_third_and_fourth"]

PLAIN: Final = 0  # f(task)
STAR: Final = 1  # f(*task)
APPLY: Final = 2  # f(*task[0], **task[1])


class Missing:
    """Type of `MISSING`, an argument that was not passed; None is something a user may pass by mistake."""

    def __repr__(self) -> str:
        return "<required>"


# Any, so that it can be the default of an argument of any type.
MISSING: Any = Missing()


@dataclass(slots=True)
class Call:
    """One job for a pool; the contract between ``pool.py`` and the pools' hooks.

    Attributes
    ----------
    func : callable
    tasks : iterable
        Already known to be iterable. May be endless if `lazy`.
    unpack : int
        0: ``func(task)``; 1: ``func(*task)`` (starmap); 2: ``func(*task[0], **task[1])`` (apply).
    chunksize : int or None
        Tasks per message, >= 1; None lets the pool choose.
    ordered : bool
        Results leave ``_stream`` in input order; otherwise in order of completion.
    return_exceptions : bool
        A failed task's exception stands in its place instead of ending the job.
    retries : int
        How often a failed task is tried again, >= 0.
    timeout : float or None
        Limit for one task [s], > 0.
    lazy : bool
        Draw tasks only as far ahead as the workers need them.
    failed : set of int or None
        If a set, the pool adds the index of each task whose exception it put in the task's place: a task may
        well *return* an exception object, so the result alone does not tell.
    deadline : float or None
        Only for streams of pools that run ahead: ``time.monotonic()`` value, changed by the consumer between
        two steps of the stream. A step that finds nothing to deliver by then yields an empty list; the stream
        stays valid.
    consumer : weak reference or None
        The `ResultIterator` that takes what the stream yields.
    function : Encoded or None
        `func`, pickled before: a caller with many calls of one function pickles it once.
    stateless : bool
        With `function`: it is made of references alone, so that a worker may keep it from call to call.
    encoder : Encoder or None
        Pickles the tasks in the place of the pool's own.
    group : int
        Calls of the same group, if not 0, share large read-only buffers that come again, as the chunks of one call do.
        Others are sent with each: a task may change what it gets, and the next call's must not see that.
    ahead : int or None
        Most messages drawn and not answered at any time, >= 1; None: as many as keep the workers busy.
    """

    func: Callable[..., Any]
    tasks: Iterable[Any]
    unpack: int = PLAIN
    chunksize: int | None = None
    ordered: bool = True
    return_exceptions: bool = False
    retries: int = 0
    timeout: float | None = None
    lazy: bool = False
    failed: set[int] | None = None
    deadline: float | None = None
    consumer: Any = None
    function: Encoded | None = None
    stateless: bool = False
    encoder: Encoder | None = None
    group: int = 0
    ahead: int | None = None


def checked_call(
    func: Any,
    tasks: Any,
    unpack: int,
    chunksize: Any,
    return_exceptions: bool,
    retries: Any,
    timeout: Any,
    worker: Any = MISSING,
    worker_tasks: Any = MISSING,
) -> Call:
    """Check the arguments of a map and make a `Call` of them.

    Parameters
    ----------
    func, tasks
        The arguments as multiprocessing names them.
    unpack : int
        See `Call`.
    chunksize, return_exceptions, retries, timeout
        As the user passed them.
    worker, worker_tasks
        The same two arguments under MPIPool's names, ``worker`` and ``tasks``.

    Returns
    -------
    Call

    Raises
    ------
    TypeError
        A name given twice or not at all, a function that is not callable, tasks that are not iterable, an
        option of the wrong type.
    ValueError
        An option out of range.
    """
    if worker is not MISSING or worker_tasks is not MISSING or func is MISSING or tasks is MISSING:
        func = _one_of(func, worker, "func", "worker")
        tasks = _one_of(tasks, worker_tasks, "iterable", "tasks")
    if not callable(func):
        raise TypeError(f"the function to map must be callable, not {_kind(func)}")
    if type(tasks) is not list:
        iter(tasks)  # raises Python's own "... object is not iterable"
    if chunksize is None and retries == 0 and timeout is None:
        return Call(func, tasks, unpack, None, True, return_exceptions)
    return Call(
        func,
        tasks,
        unpack,
        checked_chunksize(chunksize),
        True,
        return_exceptions,
        checked_retries(retries),
        checked_timeout(timeout),
    )


def _one_of(value: Any, other: Any, name: str, other_name: str) -> Any:
    if value is MISSING and other is MISSING:
        raise TypeError(f"missing required argument: {name!r} (or {other_name!r})")
    if value is not MISSING and other is not MISSING:
        raise TypeError(f"got both {name!r} and {other_name!r}: they are two names of one argument")
    return other if value is MISSING else value


def sort_third_and_fourth(third: Any, fourth: Any, names: tuple[str, str]) -> tuple[Any, Any]:
    """Tell chunksize and callback apart by kind, whichever position or name they came by.

    The pools of schwimmbad disagree about the third position of ``map``: MultiPool's is chunksize, the
    others' is callback. Scripts switch pools by an option, so both are accepted everywhere.

    Parameters
    ----------
    third, fourth
        The two arguments; None if not passed.
    names : (str, str)
        What this pool calls them; used in the message.

    Returns
    -------
    chunksize, callback
        Not yet range-checked; None if not passed.

    Raises
    ------
    TypeError
        If one is neither, or both are of the same kind.
    """
    chunksize = callback = None
    for value, name in ((third, names[0]), (fourth, names[1])):
        if value is None:
            continue
        if callable(value):
            if callback is not None:
                raise TypeError("got two callbacks: third and fourth argument are chunksize and callback")
            callback = value
        elif hasattr(value, "__index__"):
            if chunksize is not None:
                raise TypeError("got two chunk sizes: third and fourth argument are chunksize and callback")
            chunksize = value
        else:
            wanted = "callable" if name == "callback" else "an integer"
            raise TypeError(f"{name} must be {wanted}, not {_kind(value)}")
    return chunksize, callback


def checked_chunksize(value: Any) -> int | None:
    """`value` as a chunk size: None, or an int >= 1 [tasks]."""
    if value is None:
        return None
    try:
        size = operator.index(value)
    except TypeError:
        raise TypeError(f"chunksize must be an integer, not {_kind(value)}") from None
    if size < 1:
        raise ValueError(f"Chunksize must be 1+, not {size}")
    return size


def checked_retries(value: Any) -> int:
    """`value` as a number of retries: an int >= 0."""
    try:
        retries = operator.index(value)
    except TypeError:
        raise TypeError(f"retries must be an integer, not {_kind(value)}") from None
    if retries < 0:
        raise ValueError(f"retries must be 0 or more, not {retries}")
    return retries


def checked_timeout(value: Any) -> float | None:
    """`value` as a limit per task: None (also for infinity), or seconds > 0."""
    if value is None:
        return None
    if isinstance(value, (str, bytes)):  # float() would parse them
        _bad_timeout(value)
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        _bad_timeout(value)
    if not seconds > 0:  # also catches NaN
        raise ValueError(f"timeout must be a number of seconds > 0, not {value!r}")
    return None if math.isinf(seconds) else seconds


def _bad_timeout(value: Any) -> NoReturn:
    raise TypeError(f"timeout must be a number of seconds, not {_kind(value)}")


def checked_callback(value: Any, name: str = "callback") -> Callable[[Any], Any] | None:
    """`value` as a callback: None, or something callable."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable, not {_kind(value)}")
    return value  # type: ignore[no-any-return]


def checked_order(value: Any, default: str) -> str:
    """`value` as ``callback_order``: ``"input"`` or ``"completion"``; None means the pool's own `default`."""
    if value is None:
        return default
    if value not in ("input", "completion"):
        raise ValueError(f'callback_order must be "input" or "completion", not {value!r}')
    return str(value)


def _kind(value: Any) -> str:
    """What a message says about an object of the wrong type."""
    return "None" if value is None else f"{value!r:.60} of type {type(value).__name__}"
