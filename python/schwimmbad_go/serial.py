"""`SerialPool`: the pool without workers, for debugging and for one core."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from types import FrameType
from typing import Any, Literal, TypeVar, cast, overload

from ._call import MISSING, PLAIN, STAR, Call, checked_call, checked_order, sort_third_and_fourth
from .error import TaskExit, TaskTimeout, add_note
from .pool import BasePool

__all__ = ["SerialPool"]

R = TypeVar("R")


class SerialPool(BasePool):
    """Runs every task in the calling process and thread, with the interface of the other pools.

    Parameters
    ----------
    initializer : callable, optional
        Called as ``initializer(*initargs)`` here and now; what it raises is raised here.
    initargs : iterable
        Its arguments.
    **_
        Arguments of the other pools are ignored, as in schwimmbad.

    Attributes
    ----------
    size : int
        0, as in schwimmbad: there are no workers. ``_processes`` is 1.

    Notes
    -----
    `map` without a callback is Python's own lazy ``map``; everything else runs inside the call, `imap` while
    it is iterated. The pool needs no closing and works after it. Exceptions, Ctrl-C and ``sys.exit()`` in a
    task come out as they are, since the task runs on the caller's own stack.

    A ``timeout`` per task interrupts the task by SIGALRM. It needs the main thread and an unused interval
    timer (``signal.setitimer``), else the call raises ValueError; and it cannot interrupt a single long call
    into C. MultiPool has no such limits.
    """

    def __init__(
        self, *, initializer: Callable[..., Any] | None = None, initargs: Iterable[Any] = (), **_: Any
    ) -> None:
        super().__init__()
        self.size = 0
        if initializer is not None:
            if not callable(initializer):
                raise TypeError(f"initializer must be callable, not {initializer!r:.60}")
            initializer(*initargs)

    @staticmethod
    def enabled() -> bool:
        """True: it works everywhere."""
        return True

    @overload
    def map(
        self,
        func: Callable[[Any], R] = ...,
        iterable: Iterable[Any] = ...,
        callback: None = ...,
        chunksize: int | None = ...,
        *,
        return_results: Literal[True] = ...,
        callback_order: str | None = ...,
        return_exceptions: bool = ...,
        retries: int = ...,
        timeout: float | None = ...,
        worker: Callable[[Any], R] = ...,
        tasks: Iterable[Any] = ...,
    ) -> Iterator[R]: ...

    @overload
    def map(
        self,
        func: Callable[[Any], R] = ...,
        iterable: Iterable[Any] = ...,
        callback: Callable[[R], Any] | int | None = ...,
        chunksize: int | Callable[[R], Any] | None = ...,
        *,
        return_results: bool = ...,
        callback_order: str | None = ...,
        return_exceptions: bool = ...,
        retries: int = ...,
        timeout: float | None = ...,
        worker: Callable[[Any], R] = ...,
        tasks: Iterable[Any] = ...,
    ) -> Any: ...

    def map(
        self,
        func: Callable[[Any], R] = MISSING,
        iterable: Iterable[Any] = MISSING,
        callback: Callable[[R], Any] | int | None = None,
        chunksize: int | Callable[[R], Any] | None = None,
        *,
        return_results: bool = True,
        callback_order: str | None = None,
        return_exceptions: bool = False,
        retries: int = 0,
        timeout: float | None = None,
        worker: Callable[[Any], R] = MISSING,
        tasks: Iterable[Any] = MISSING,
    ) -> Any:
        """Apply a function to each task: lazily without a callback, now with one.

        Parameters
        ----------
        func, worker : callable
            Two names of the function of one task.
        iterable, tasks : iterable
            Two names of the tasks. May be endless, if there is no callback.
        callback : callable, optional
            Called with each result before the next task runs. An integer here is taken for `chunksize`.
        chunksize : int, optional
            Checked, then ignored: nothing is sent anywhere.
        return_results : bool
            False: run all tasks now, keep nothing and return None.
        callback_order : {"input", "completion"}, optional
            The same here.
        return_exceptions, retries, timeout
            As in `BasePool.starmap`; `timeout` within the limits told above.

        Returns
        -------
        map, list or None
            Python's lazy, single-pass ``map`` object without a callback; a list with one.

        Raises
        ------
        BaseException
            What a task or the callback raises; from the lazy ``map`` when its turn comes.
        TypeError, ValueError
            Wrong arguments, before any task runs.
        """
        if callback is not None or chunksize is not None:
            chunksize, callback = sort_third_and_fourth(callback, chunksize, ("callback", "chunksize"))
        call = checked_call(
            func, iterable, PLAIN, chunksize, return_exceptions, retries, timeout, worker, tasks
        )
        if callback is not None or not return_results:
            return self._deliver(call, cast(Any, callback), return_results, callback_order)
        checked_order(callback_order, self._callback_order)
        if call.return_exceptions or call.retries or call.timeout:
            return map(_Runner(call), call.tasks)
        return map(call.func, call.tasks)

    def _stream(self, call: Call) -> Generator[tuple[int, list[Any]], None, None]:
        run = _Runner(call)
        for index, task in enumerate(call.tasks):
            yield index, [run(task)]

    def _collect(self, call: Call) -> list[Any]:
        return list(map(_Runner(call), call.tasks))

    def _broadcast(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        return [func(*args, **kwargs)]


class _Runner:
    """Runs the tasks of a call one after the other, in input order: a call's options around its function."""

    def __init__(self, call: Call) -> None:
        if call.timeout is not None:
            _check_alarm()
        self.call = call
        self.index = -1

    def __call__(self, task: Any) -> Any:
        call = self.call
        self.index += 1
        left = call.retries
        while True:
            try:
                if call.timeout is None:
                    return self._run(task)
                return _within(call.timeout, self.index, self._run, task)
            except Exception as error:
                if left:
                    left -= 1
                    continue
                add_note(error, f"task {self.index}, in the calling process")
                if not call.return_exceptions:
                    raise
                return self._failure(error)
            except SystemExit as error:
                # An iterator (`failed` is a set) raises it where it happens: the caller's own sys.exit().
                if not call.return_exceptions or call.failed is not None:
                    raise
                text = f"task {self.index} called sys.exit({error.code!r})"
                return self._failure(TaskExit(text, exit_code=error.code, index=self.index))

    def _failure(self, error: BaseException) -> BaseException:
        """`error` as the result of the current task."""
        if self.call.failed is not None:
            self.call.failed.add(self.index)
        # Frames of this file are no help to the user, and would keep the task and the function alive with the
        # error.
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        return error.with_traceback(trace)

    def _run(self, task: Any) -> Any:
        call = self.call
        if call.unpack == PLAIN:
            return call.func(task)
        if call.unpack == STAR:
            return call.func(*task)
        args, kwds = task
        return call.func(*args, **kwds)


def _check_alarm() -> None:
    """Raise ValueError if SIGALRM is not ours to use."""
    if threading.current_thread() is not threading.main_thread():
        why = "this is not the main thread"
    elif not hasattr(signal, "setitimer"):
        why = "this platform has no interval timer"
    elif signal.getitimer(signal.ITIMER_REAL)[0] > 0:
        why = "the interval timer is in use"
    else:
        return
    raise ValueError(
        f"SerialPool cannot limit the time of a task here: {why}. "
        "A timeout per task needs worker processes: use MultiPool"
    )


def _within(seconds: float, index: int, run: Callable[[Any], Any], task: Any) -> Any:
    """``run(task)``, or TaskTimeout after `seconds`, even if the task swallowed that and came back late."""
    _check_alarm()
    late = armed = False

    def ring(signum: int, frame: FrameType | None) -> None:
        nonlocal late
        late = True
        if armed:
            raise timeout

    timeout = TaskTimeout(
        f"task {index} ran longer than {seconds} s",
        index=index,
        pid=os.getpid(),
        host=socket.gethostname(),
        timeout=seconds,
    )
    previous = signal.signal(signal.SIGALRM, ring)
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, seconds)
        value = run(task)
        armed = False  # from here on a late alarm must not interrupt the clean-up
    finally:
        # Nested, for the alarm that goes off between an exception in the task and the next line.
        try:
            armed = False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
    if late:
        raise timeout
    return value
