"""`BasePool`: every public method of every pool, made from four hooks.

::

    map starmap batched_map apply ──► _collect ──┐
    map(callback=, return_results=False) ────────┼──► _stream
    imap imap_unordered ──► ResultIterator ──────┘
    map_async starmap_async apply_async ──► _submit
    broadcast ──► _broadcast

A pool of this package overrides `_stream`, and the other hooks where it can do better; its `map` differs from
the others' only in the positions of its arguments, which are schwimmbad's, and hands over to `_map`. A pool
of somebody else, written for schwimmbad, overrides `map` alone: the default hooks then go through that.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, TypeVar, cast, overload

from ._call import (
    APPLY,
    MISSING,
    PLAIN,
    STAR,
    Call,
    checked_call,
    checked_callback,
    checked_order,
    sort_third_and_fourth,
)
from ._results import AsyncResult, ResultIterator
from .error import PoolUnavailable
from .utils import batch_tasks

__all__ = ["BasePool"]

R = TypeVar("R")
PoolT = TypeVar("PoolT", bound="BasePool")


def _callback_wrapper(callback: Callable[[Any], Any], generator: Iterable[Any]) -> Iterator[Any]:
    """Yield what `generator` yields, after calling `callback` with it (schwimmbad's name)."""
    for element in generator:
        callback(element)
        yield element


class _ProcessCount:
    """Default of ``_processes``: the size, but at least 1. No data descriptor: pools can just assign it."""

    def __get__(self, pool: BasePool | None, owner: type) -> int:
        return max(1, int(getattr(pool, "size", 0)))


class BasePool(abc.ABC):
    """What all pools have in common; an abstract class with one abstract method, `map`.

    Results always come in input order, except where a method says otherwise. A task's exception is raised in
    its own type, with the worker's traceback as its ``__cause__``; a worker that dies gives
    `~schwimmbad_go.error.WorkerLost`.

    Attributes
    ----------
    rank : int
        0 on the master; else the number of this worker (MPI only).
    size : int
        Number of workers; 0 on pools that have none of their own, as in schwimmbad.
    _processes : int
        Number of tasks that can run at once, >= 1; dynesty, nautilus and bilby read it.
    """

    rank: int = 0
    size: int = 0
    _processes: int = cast(int, _ProcessCount())

    #: Order of callbacks when ``callback_order`` is None: "input" or "completion".
    _callback_order: str = "input"
    #: Tasks of a stream run while nobody iterates, and the stream honours `Call.deadline`.
    _runs_ahead: bool = False
    _adjusts: bool = False  # calls of maps have to go through `_adjust`

    def __init__(self, **_: Any) -> None:
        self.rank = 0

    # ---- what it is ---------------------------------------------------------------------------------------

    @staticmethod
    def enabled() -> bool:
        """Whether a pool of this class could be made here."""
        return False

    def is_master(self) -> bool:
        """Whether this process hands out the tasks."""
        return self.rank == 0

    def is_worker(self) -> bool:
        """Whether this process runs tasks for a master elsewhere."""
        return self.rank != 0

    def wait(self, callback: Callable[[], Any] | None = None) -> None:
        """Serve tasks until the master ends the pool, then call `callback`; returns at once on the master.

        Only MPI has workers that run the user's script, so on every other pool this does nothing.
        """
        return

    # ---- maps ---------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def map(self, *args: Any, **kwargs: Any) -> Any:
        """Apply a function to each task; see the pools for order and names of the arguments."""

    @overload
    def starmap(
        self,
        func: Callable[..., R] = ...,
        iterable: Iterable[Iterable[Any]] = ...,
        chunksize: int | Callable[[R], Any] | None = ...,
        callback: Callable[[R], Any] | int | None = ...,
        *,
        return_results: Literal[True] = ...,
        callback_order: str | None = ...,
        return_exceptions: bool = ...,
        retries: int = ...,
        timeout: float | None = ...,
        worker: Callable[..., R] = ...,
        tasks: Iterable[Iterable[Any]] = ...,
    ) -> list[R]: ...

    @overload
    def starmap(
        self,
        func: Callable[..., R] = ...,
        iterable: Iterable[Iterable[Any]] = ...,
        chunksize: int | Callable[[R], Any] | None = ...,
        callback: Callable[[R], Any] | int | None = ...,
        *,
        return_results: bool,
        callback_order: str | None = ...,
        return_exceptions: bool = ...,
        retries: int = ...,
        timeout: float | None = ...,
        worker: Callable[..., R] = ...,
        tasks: Iterable[Iterable[Any]] = ...,
    ) -> list[R] | None: ...

    def starmap(
        self,
        func: Callable[..., R] = MISSING,
        iterable: Iterable[Iterable[Any]] = MISSING,
        chunksize: int | Callable[[R], Any] | None = None,
        callback: Callable[[R], Any] | int | None = None,
        *,
        return_results: bool = True,
        callback_order: str | None = None,
        return_exceptions: bool = False,
        retries: int = 0,
        timeout: float | None = None,
        worker: Callable[..., R] = MISSING,
        tasks: Iterable[Iterable[Any]] = MISSING,
    ) -> list[R] | None:
        """Like `map` for a function of several arguments: ``func(*task)`` for each task; a list on every
        pool.

        Parameters
        ----------
        func, worker : callable
            Two names of the function.
        iterable, tasks : iterable of iterables
            Two names of the tasks.
        chunksize : int, optional
            Tasks per message, >= 1; None lets the pool choose. May change places with `callback`.
        callback : callable, optional
            Called with each result, on the calling thread, while later tasks still run.
        return_results : bool
            False: return None, and keep no result after its callback.
        callback_order : {"input", "completion"}, optional
            "input" holds a result back until all earlier ones are there. None: the pool's own default.
        return_exceptions : bool
            True: a failed task's exception takes the place of its result, also for the callback.
        retries : int
            How often a failed task is tried again.
        timeout : float, optional
            Limit for each task [s].

        Returns
        -------
        list or None
            The results in input order.

        Raises
        ------
        BaseException
            What the first failing task or the callback raised, after outstanding work was cut off.
        TaskTimeout, WorkerLost, PicklingError, UnpicklingError
            See `schwimmbad_go.error`.
        TypeError, ValueError
            Wrong arguments, before any task runs; ValueError also on a closed pool.
        """
        return cast(
            "list[R] | None",
            self._map(
                STAR,
                func,
                iterable,
                chunksize,
                callback,
                return_results,
                callback_order,
                return_exceptions,
                retries,
                timeout,
                worker,
                tasks,
            ),
        )

    def batched_map(self, worker: Any = MISSING, tasks: Any = MISSING, *args: Any, **kwargs: Any) -> Any:
        """Split the tasks into one batch per worker and `map` over the batches.

        Parameters
        ----------
        worker : callable
            Called with ``((i, j), batch)``, where ``batch`` is ``list(tasks)[i:j]``.
        tasks : iterable
            All tasks; may not be empty.
        *args, **kwargs
            For `map`: callback, chunksize and so on.

        Returns
        -------
        list or iterator
            What this pool's `map` returns: one result per batch.

        Raises
        ------
        ValueError
            ``n_batches and n_tasks must be > 0`` if there are no tasks, as in schwimmbad.
        """
        func = kwargs.pop("func", MISSING)
        iterable = kwargs.pop("iterable", MISSING)
        call = checked_call(worker, tasks, PLAIN, None, False, 0, None, func, iterable)
        batches = batch_tasks(n_batches=self.size or self._processes, data=call.tasks)
        return self.map(call.func, batches, *args, **kwargs)

    def apply(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        *,
        retries: int = 0,
        timeout: float | None = None,
    ) -> R:
        """``func(*args, **kwds)`` on a worker; waits for the result.

        Parameters
        ----------
        func : callable
        args : iterable
            Positional arguments.
        kwds : mapping, optional
            Keyword arguments.
        retries, timeout
            As in `starmap`.

        Returns
        -------
        object
            What `func` returns. Raises what it raises.
        """
        self._check_open()
        return cast(R, self._collect(_apply_call(func, args, kwds, retries, timeout))[0])

    # ---- iterators ----------------------------------------------------------------------------------------

    def imap(
        self,
        func: Callable[..., R] = MISSING,
        iterable: Iterable[Any] = MISSING,
        chunksize: int | None = 1,
        *,
        return_exceptions: bool = False,
        retries: int = 0,
        timeout: float | None = None,
        worker: Callable[..., R] = MISSING,
        tasks: Iterable[Any] = MISSING,
    ) -> ResultIterator[R]:
        """Apply a function to each task, and hand out the results one by one in input order.

        Tasks are drawn only as far ahead as the workers need them, so they may be endless or larger than
        memory.

        Parameters
        ----------
        func, worker : callable
            Two names of the function.
        iterable, tasks : iterable
            Two names of the tasks.
        chunksize : int or None
            Tasks per message, >= 1; None lets the pool choose, which is faster for small tasks.
        return_exceptions, retries, timeout
            As in `starmap`.

        Returns
        -------
        ResultIterator
            With ``next(timeout=None)``. A failed task raises in its turn; the results behind it remain
            available. Dropping the iterator, or its ``close()``, cuts off outstanding work.

        Raises
        ------
        TypeError, ValueError
            Wrong arguments, before any task runs; ValueError also on a closed pool.
        """
        return self._iterate(
            True, func, iterable, chunksize, return_exceptions, retries, timeout, worker, tasks
        )

    def imap_unordered(
        self,
        func: Callable[..., R] = MISSING,
        iterable: Iterable[Any] = MISSING,
        chunksize: int | None = 1,
        *,
        return_exceptions: bool = False,
        retries: int = 0,
        timeout: float | None = None,
        worker: Callable[..., R] = MISSING,
        tasks: Iterable[Any] = MISSING,
    ) -> ResultIterator[R]:
        """Like `imap`, but each result is handed out as soon as it is there, whatever its place."""
        return self._iterate(
            False, func, iterable, chunksize, return_exceptions, retries, timeout, worker, tasks
        )

    # ---- in the background --------------------------------------------------------------------------------

    def map_async(
        self,
        func: Callable[..., R] = MISSING,
        iterable: Iterable[Any] = MISSING,
        chunksize: int | Callable[[list[R]], Any] | None = None,
        callback: Callable[[list[R]], Any] | int | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
        *,
        return_exceptions: bool = False,
        retries: int = 0,
        timeout: float | None = None,
        worker: Callable[..., R] = MISSING,
        tasks: Iterable[Any] = MISSING,
    ) -> AsyncResult[list[R]]:
        """Start a `map` and return at once; pools without workers of their own (SerialPool) run it first.

        Parameters
        ----------
        func, iterable, chunksize, return_exceptions, retries, timeout, worker, tasks
            As in `starmap`. Tasks without a length are listed before this returns.
        callback : callable, optional
            Called once, with the whole list; its thread is not promised.
        error_callback : callable, optional
            Called once with the exception instead, if the map fails.

        Returns
        -------
        AsyncResult
            Its ``get()`` returns the list of results in input order, or raises.
        """
        return self._background(
            PLAIN,
            func,
            iterable,
            chunksize,
            callback,
            error_callback,
            return_exceptions,
            retries,
            timeout,
            worker,
            tasks,
        )

    def starmap_async(
        self,
        func: Callable[..., R] = MISSING,
        iterable: Iterable[Iterable[Any]] = MISSING,
        chunksize: int | Callable[[list[R]], Any] | None = None,
        callback: Callable[[list[R]], Any] | int | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
        *,
        return_exceptions: bool = False,
        retries: int = 0,
        timeout: float | None = None,
        worker: Callable[..., R] = MISSING,
        tasks: Iterable[Iterable[Any]] = MISSING,
    ) -> AsyncResult[list[R]]:
        """`starmap` in the background; see `map_async`."""
        return self._background(
            STAR,
            func,
            iterable,
            chunksize,
            callback,
            error_callback,
            return_exceptions,
            retries,
            timeout,
            worker,
            tasks,
        )

    def apply_async(
        self,
        func: Callable[..., R],
        args: Iterable[Any] = (),
        kwds: Mapping[str, Any] | None = None,
        callback: Callable[[R], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
        *,
        retries: int = 0,
        timeout: float | None = None,
    ) -> AsyncResult[R]:
        """`apply` in the background: returns at once, and `callback` gets the one result; see `map_async`."""
        self._check_open()
        call = _apply_call(func, args, kwds, retries, timeout)
        result: AsyncResult[R] = AsyncResult(
            checked_callback(callback), checked_callback(error_callback, "error_callback"), single=True
        )
        self._submit(call, result)
        return result

    def broadcast(self, func: Callable[..., R], /, *args: Any, **kwargs: Any) -> list[R]:
        """Run ``func(*args, **kwargs)`` once on every worker, e.g. to load data or to seed.

        Parameters
        ----------
        func : callable
        *args, **kwargs
            Passed to it on each worker.

        Returns
        -------
        list
            One result per worker. Workers that are started later, in place of one that died, have not run it:
            what they need too belongs in the pool's ``initializer``.

        Raises
        ------
        PoolUnavailable
            A NotImplementedError: this pool has no hold on single workers.
        """
        if not callable(func):
            raise TypeError(f"the function to broadcast must be callable, not {func!r:.60}")
        self._check_open()
        return self._broadcast(func, args, kwargs)

    # ---- the end ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more work and let the workers end. Repeatable; does nothing on pools without workers."""
        return

    def terminate(self) -> None:
        """End at once, without finishing outstanding work. Repeatable; here the same as `close`."""
        self.close()

    def join(self) -> None:
        """Wait until the workers have ended. Does nothing on pools without workers."""
        return

    def __enter__(self: PoolT) -> PoolT:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    # ---- from methods to hooks ----------------------------------------------------------------------------

    def _map(
        self,
        unpack: int,
        func: Any,
        iterable: Any,
        chunksize: Any,
        callback: Any,
        return_results: bool,
        callback_order: str | None,
        return_exceptions: bool,
        retries: int,
        timeout: float | None,
        worker: Any,
        tasks: Any,
    ) -> list[Any] | None:
        """A map that runs inside the call. All positional: keywords would cost a tenth of a small map."""
        self._check_open()
        if chunksize is not None or callback is not None:
            chunksize, callback = sort_third_and_fourth(chunksize, callback, ("chunksize", "callback"))
        call = checked_call(
            func, iterable, unpack, chunksize, return_exceptions, retries, timeout, worker, tasks
        )
        if self._adjusts:
            self._adjust(call)
        if callback is None and callback_order is None and return_results:
            return self._collect(call)
        return self._deliver(call, callback, return_results, callback_order)

    def _deliver(
        self, call: Call, callback: Callable[[Any], Any] | None, keep: bool, callback_order: str | None
    ) -> list[Any] | None:
        """Run `call` now, on this thread, with a callback per result as it arrives.

        Returns the list of results if `keep`, else None.
        """
        ordered = checked_order(callback_order, self._callback_order) == "input"
        if callback is None and keep:
            return self._collect(call)
        # Without a callback nobody sees the order, and in order of completion the pool has to hold nothing
        # back.
        call.ordered = ordered and callback is not None
        kept: list[Any] | None = [] if keep else None
        # closing(): an exception in a callback must cut off outstanding work now, not when the generator is
        # collected.
        with contextlib.closing(self._stream(call)) as stream:
            for first, values in stream:
                if kept is not None:
                    _place(kept, first, values)
                if callback is not None:
                    values.reverse()
                    while values:  # popped, so that a large result is gone once its callback has returned
                        callback(values.pop())
        return kept

    def _iterate(
        self,
        ordered: bool,
        func: Any,
        iterable: Any,
        chunksize: Any,
        return_exceptions: bool,
        retries: int,
        timeout: float | None,
        worker: Any,
        tasks: Any,
    ) -> ResultIterator[Any]:
        self._check_open()
        call = checked_call(
            func, iterable, PLAIN, chunksize, return_exceptions, retries, timeout, worker, tasks
        )
        call.ordered = ordered
        call.lazy = True
        if not return_exceptions:  # the iterator raises each in its turn, and can go on after it
            call.return_exceptions = True
            call.failed = set()
        return ResultIterator(self._stream(call), call, self._runs_ahead)

    def _background(
        self,
        unpack: int,
        func: Any,
        iterable: Any,
        chunksize: Any,
        callback: Any,
        error_callback: Any,
        return_exceptions: bool,
        retries: int,
        timeout: float | None,
        worker: Any,
        tasks: Any,
    ) -> AsyncResult[Any]:
        self._check_open()
        if chunksize is not None or callback is not None:
            chunksize, callback = sort_third_and_fourth(chunksize, callback, ("chunksize", "callback"))
        call = checked_call(
            func, iterable, unpack, chunksize, return_exceptions, retries, timeout, worker, tasks
        )
        if not hasattr(call.tasks, "__len__"):
            # Another thread may consume them later: a generator of the user's must run here, as in
            # multiprocessing.
            call.tasks = list(call.tasks)
        result: AsyncResult[Any] = AsyncResult(callback, checked_callback(error_callback, "error_callback"))
        self._submit(call, result)
        return result

    def _call_callback(
        self, callback: Callable[[Any], Any] | None, generator: Iterable[Any]
    ) -> Iterable[Any]:
        """For subclasses written for schwimmbad: `generator`, with `callback` called before each element."""
        return generator if callback is None else _callback_wrapper(callback, generator)

    # ---- hooks --------------------------------------------------------------------------------------------

    def _adjust(self, call: Call) -> None:
        """Add what the pool's own arguments say of every map."""
        return

    def _check_open(self) -> None:
        """Raise `~schwimmbad_go.error.PoolClosed` if the pool takes no more work; for pools that end."""
        return

    def _stream(self, call: Call) -> Generator[tuple[int, list[Any]], None, None]:
        """Run `call`; the one primitive.

        Yields
        ------
        (int, list)
            Index of the first result, and results with consecutive indices; the list is the consumer's to
            change. With ``call.return_exceptions`` exceptions stand in the place of failed tasks, else the
            first is raised. Closing the generator cuts off outstanding work. The default goes through `map`:
            at once, or by slices of a few tasks per worker if ``call.lazy``.
        """
        if call.timeout is not None:
            raise PoolUnavailable(f"{type(self).__name__} has no timeout per task")
        run = _TaskRunner(call.func, call.unpack, call.retries, call.return_exceptions)
        tasks = iter(call.tasks)
        index = 0
        while True:
            part: Iterable[Any] = tasks
            if call.lazy:
                part = list(itertools.islice(tasks, (call.chunksize or 1) * self._processes))
                if not part:
                    return
            for value in self.map(run, part):
                if isinstance(value, _Failure):
                    value = value.error
                    if call.failed is not None:
                        call.failed.add(index)
                yield index, [value]
                index += 1
            if not call.lazy:
                return

    def _collect(self, call: Call) -> list[Any]:
        """Run `call` and return all results in input order; the default gathers from `_stream`."""
        out: list[Any] = []
        with contextlib.closing(self._stream(call)) as stream:
            for first, values in stream:
                _place(out, first, values)
        return out

    def _submit(self, call: Call, result: AsyncResult[Any]) -> None:
        """Start `call` in the background and settle `result` when it ends; the default runs it at once."""
        run_now(self._collect, call, result)

    def _broadcast(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        """Run the function once on every worker; a list with one result per worker."""
        raise PoolUnavailable(f"{type(self).__name__} has no hold on single workers: no broadcast")


def _apply_call(func: Any, args: Any, kwds: Any, retries: int, timeout: float | None) -> Call:
    return checked_call(func, [(tuple(args), dict(kwds or {}))], APPLY, None, False, retries, timeout)


def run_now(collect: Callable[[Call], list[Any]], call: Call, result: AsyncResult[Any]) -> None:
    """Run a call on the caller's stack and settle `result` with what comes of it."""
    try:
        values = collect(call)
    except Exception as error:
        result._fail(error)
    except BaseException as error:  # Ctrl-C or sys.exit() on the caller's own stack is for the caller
        result._fail(error)
        raise
    else:
        result._complete(values)


def _place(out: list[Any], first: int, values: list[Any]) -> None:
    """Put results at their indices; `out` grows as needed, since the number of tasks may be unknown."""
    if first == len(out):
        out.extend(values)
        return
    end = first + len(values)
    if end > len(out):
        out.extend(itertools.repeat(None, end - len(out)))
    out[first:end] = values


class _Failure:
    """What `_TaskRunner` returns for a failed task: an exception object alone might be the task's result."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _TaskRunner:
    """The function of a `Call` as a function of one task, for pools that know only ``map``.

    It pickles if that function does.
    """

    def __init__(self, func: Callable[..., Any], unpack: int, retries: int, catch: bool) -> None:
        self.func = func
        self.unpack = unpack
        self.retries = retries
        self.catch = catch

    def __call__(self, task: Any) -> Any:
        for left in range(self.retries, -1, -1):
            try:
                if self.unpack == PLAIN:
                    return self.func(task)
                if self.unpack == STAR:
                    return self.func(*task)
                args, kwds = task
                return self.func(*args, **kwds)
            except Exception as error:
                if left:
                    continue
                if self.catch:
                    return _Failure(error)
                raise
        raise AssertionError("unreachable: the last round returns or raises")
