"""What a caller holds while results are on their way: `AsyncResult` and `ResultIterator`.

Both look like multiprocessing's objects of the same purpose, and are safe to use from several threads.
"""

from __future__ import annotations

import math
import sys
import threading
import time
import types
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar, cast

from ._call import Call
from .error import pool_timeout

__all__ = ["AsyncResult", "ResultIterator"]

R = TypeVar("R")
_LOOK = 0.1  # seconds between two looks for signals, as in the engine's waits


class AsyncResult(Generic[R]):
    """The result, sooner or later, of ``apply_async``, ``map_async`` or ``starmap_async``.

    Made by the pool, which calls `_complete` or `_fail` once, from whichever thread it likes.

    Parameters
    ----------
    callback : callable, optional
        Called once with the value: the whole list of a map, or the one result of ``apply_async``.
    error_callback : callable, optional
        Called once with the exception instead, if there is one.
    single : bool
        The job has one task, and its result is the value (``apply_async``).

    Notes
    -----
    As in multiprocessing, the callback has returned by the time `get` does, and its thread is not promised.
    An exception in it is reported through the interpreter's exception hook and changes neither the value nor
    the pool.
    """

    def __init__(
        self,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
        single: bool = False,
    ) -> None:
        self._callback = callback
        self._error_callback = error_callback
        self._single = single
        self._claim = threading.Lock()
        self._done = threading.Event()
        self._success = False
        self._value: Any = None

    def __repr__(self) -> str:
        if not self._done.is_set():
            state = "pending"
        elif self._success:
            state = "done"
        else:
            state = f"failed: {self._value!r:.80}"
        return f"<{type(self).__module__}.{type(self).__name__} {state}>"

    def ready(self) -> bool:
        """Whether the work has ended, well or badly, and the callback has returned."""
        return self._done.is_set()

    def successful(self) -> bool:
        """Whether the work ended without an exception.

        Raises
        ------
        ValueError
            If it has not ended.
        """
        if not self._done.is_set():
            raise ValueError(f"{self!r} not ready")
        return self._success

    def wait(self, timeout: float | None = None) -> None:
        """Sleep until the work has ended, at most `timeout` seconds; Ctrl-C interrupts it.

        Parameters
        ----------
        timeout : float, optional
            [s]; None waits for ever, 0 or less not at all.
        """
        _await(self._done, timeout)

    def get(self, timeout: float | None = None) -> R:
        """Wait for the value and return it.

        Parameters
        ----------
        timeout : float, optional
            [s]; None waits for ever.

        Returns
        -------
        object
            The list of results of a map, in input order, or the result of ``apply_async``.

        Raises
        ------
        PoolTimeout
            If it takes longer; the work goes on and `get` may be called again.
        BaseException
            What the work raised: a task's exception in its own type, or a `PoolError`.
        """
        if not _await(self._done, timeout):
            raise pool_timeout(f"no result within {timeout} s; the work goes on")
        if self._success:
            return self._value  # type: ignore[no-any-return]
        raise self._value

    def _complete(self, values: list[Any]) -> None:
        """The work ended well. For the pool; only the first call of `_complete` or `_fail` counts."""
        if self._claim.acquire(blocking=False):
            self._success = True
            self._value = values[0] if self._single else values
            self._finish(self._callback)

    def _fail(self, error: BaseException) -> None:
        """The work ended with `error`. For the pool; see `_complete`."""
        if self._claim.acquire(blocking=False):
            self._value = error
            self._finish(self._error_callback)

    def _finish(self, callback: Callable[[Any], Any] | None) -> None:
        # The callbacks often are closures over big things or over the pool itself: not kept a moment longer.
        self._callback = self._error_callback = None
        try:
            if callback is not None:
                callback(self._value)
        except BaseException as error:
            in_main = threading.current_thread() is threading.main_thread()
            if in_main and not isinstance(error, Exception):
                raise  # Ctrl-C or sys.exit() on the user's own stack: SerialPool works at once
            _report(error, in_main)
        finally:
            self._done.set()


def _await(done: threading.Event, timeout: float | None) -> bool:
    """``done.wait(timeout)`` that no Ctrl-C is lost on. One that arrives when this thread has looked for signals for the last time and
    does not sleep yet wakes nobody: so it looks again."""
    end = math.inf if timeout is None else time.monotonic() + timeout
    while not done.wait(min(end - time.monotonic(), _LOOK)):
        if time.monotonic() >= end:
            return False
    return True


def _report(error: BaseException, in_main: bool) -> None:
    """Hand an exception that nobody can catch to the interpreter's hook, as if left uncaught here."""
    if in_main or isinstance(error, SystemExit):  # threading's hook passes over SystemExit in silence
        sys.excepthook(type(error), error, error.__traceback__)
    else:
        thread = threading.current_thread()
        threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, thread)))


class ResultIterator(Iterator[R]):
    """The iterator that ``imap`` and ``imap_unordered`` return.

    A failed task raises where its result would have been, and the iterator can be used after that for the
    results behind it, as multiprocessing's (with its default chunk size). Closing or dropping it cuts off
    outstanding work.

    Parameters
    ----------
    stream : generator of (int, list)
        From the pool's ``_stream``.
    call : Call
        What the stream works on; its `deadline` and `failed` are used here.
    runs_ahead : bool
        The stream honours ``call.deadline``, and starts working when asked with one that has passed: begin
        now.
    """

    def __init__(
        self, stream: Generator[tuple[int, list[Any]], None, None], call: Call, runs_ahead: bool
    ) -> None:
        self._stream = stream
        self._call = call
        self._runs_ahead = runs_ahead
        self._ready: deque[tuple[int, Any]] = deque()
        # Reentrant: a task generator that consumes its own results gets Python's "generator already
        # executing" error from the stream rather than a deadlock.
        self._lock = threading.RLock()
        self._ended = False
        self._error: BaseException | None = None  # what ended the stream while others drew from it
        call.consumer = weakref.ref(self)
        if runs_ahead:
            self._step(0.0)

    def __iter__(self) -> ResultIterator[R]:
        return self

    def __next__(self) -> R:
        return self.next()

    def next(self, timeout: float | None = None) -> R:
        """The next result.

        Parameters
        ----------
        timeout : float, optional
            How long to wait for it [s]; None waits for ever. Pools that run the task in this very call
            (SerialPool) cannot stop waiting for it, and ignore this.

        Returns
        -------
        object

        Raises
        ------
        StopIteration
            After the last result.
        PoolTimeout
            If it takes longer; the work goes on and `next` may be called again.
        BaseException
            What the task raised.
        """
        with self._lock:
            give_up = None if timeout is None or not self._runs_ahead else time.monotonic() + timeout
            while not self._ready:
                if self._ended:
                    error, self._error = self._error, None
                    raise error or StopIteration
                if not self._step(give_up) and give_up is not None and time.monotonic() >= give_up:
                    raise pool_timeout(f"no result within {timeout} s; the work goes on")
            index, value = self._ready.popleft()
            failed = self._call.failed
            if failed is not None and index in failed:
                failed.discard(index)
                raise value
            return value  # type: ignore[no-any-return]

    def _step(self, deadline: float | None) -> bool:
        """Advance the stream once; whether that gave a result or the end."""
        self._call.deadline = deadline
        try:
            first, values = next(self._stream)
        except StopIteration:
            self._ended = True
            return True
        except BaseException:  # passed on
            # A generator that has raised is finished; without this the next call would look like a normal end
            # anyway.
            self._ended = True
            raise
        self._ready.extend(enumerate(values, first))
        return bool(values)

    def finish(self) -> None:
        """Take in all results that are to come, for a consumer who may come later: the pool is closed, and somebody waits for its end.
        What a task or the source of tasks raises is for the consumer; Ctrl-C is raised here as well."""
        while not self._ended:
            with self._lock:  # let go after each step: a consumer who is there goes on meanwhile
                if self._ended or cast("types.GeneratorType[Any, Any, Any]", self._stream).gi_running:
                    return
                try:
                    self._step(None)
                except BaseException as error:  # of the tasks or their source: the consumer gets it in its turn
                    self._error = error
                    if not isinstance(error, Exception):
                        raise

    def close(self) -> None:
        """End the iteration and cut off outstanding work. Repeatable."""
        with self._lock:
            self._ended = True
            self._ready.clear()
            self._stream.close()
