"""`MultiPool`: worker processes on this machine."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from . import _cpus
from ._call import APPLY, MISSING, Call
from ._results import AsyncResult
from ._runner import Runner, shut_down
from ._start import Initializer, method_of
from ._statistics import Statistics, statistics
from .error import PoolClosed
from .pool import BasePool

__all__ = ["CallbackWrapper", "MultiPool"]

_Self = TypeVar("_Self", bound="MultiPool")
RUN = "RUN"
CLOSE = "CLOSE"
TERMINATE = "TERMINATE"


def _initializer_wrapper(actual_initializer: Callable[..., Any] | None, *rest: Any) -> None:
    """Run an initializer (schwimmbad's name). Ctrl-C is handled by the worker itself."""
    if actual_initializer is not None:
        actual_initializer(*rest)


class CallbackWrapper:
    """Calls a function with each element of a list (schwimmbad's name)."""

    def __init__(self, callback: Callable[[Any], Any]) -> None:
        self.callback = callback

    def __call__(self, tasks: Any) -> None:
        for task in tasks:
            self.callback(task)


class WorkerHandle:
    """One worker as public code knows it from multiprocessing: ``pool._pool[i]``."""

    def __init__(self, runner: Runner, index: int) -> None:
        self._runner = runner
        self._index = index
        self._identity = (index + 1,)
        self.name = f"{runner.starter.prefix}-{index + 1}"
        self.daemon = True

    @property
    def pid(self) -> int | None:
        """Process id, None while the worker is being replaced or after the pool's end."""
        runner = self._runner
        if runner.freed:
            return None
        engine = runner.engine
        return engine.check(engine.lib.swg_worker_pid(engine.handle, self._index)) or None

    def is_alive(self) -> bool:
        """Whether there is a process in this place."""
        return self.pid is not None

    @property
    def exitcode(self) -> int | None:
        """None while alive; a worker that has left did so because it was told to."""
        return None if self.is_alive() else 0

    def __repr__(self) -> str:
        return f"<{self.name} pid={self.pid}>"


class MultiPool(BasePool):
    """A pool of worker processes, fed by the engine.

    Parameters
    ----------
    processes : int, optional
        Number of workers, >= 1; None: the CPUs this process may use, within the limits of affinity and cgroup.
    initializer : callable, optional
        Called as ``initializer(*initargs)`` once in each worker before its first task, in replacements too. Its
        exception is raised by the first map.
    initargs : tuple
    maxtasksperchild : int, optional
        A worker is replaced after so many tasks.
    context : str or context, optional
        Start method, as a name or as a context of multiprocessing or multiprocess.
    start_method : str, optional
        ``"fork"`` (default on Linux: workers see everything that was set before the pool), ``"forkserver"`` or
        ``"spawn"`` (workers start clean).
    comm, use_dill
        Of other pools; ignored.

    Raises
    ------
    TypeError, ValueError
        Bad arguments, before any worker starts.
    EngineError
        The engine cannot be loaded, or this process was forked from one that had a pool.

    Notes
    -----
    Start: about 2 ms per forked worker, 20 to 40 ms per spawned one. A map of a few tiny tasks costs some tens of
    microseconds and may run on a single worker: waking a second one would take longer than the work.

    The pool may be used from several threads, and within callbacks. Leaving a ``with`` block terminates it.
    """

    wait_timeout = 3600  # schwimmbad's attribute; nothing here needs it
    _runs_ahead = True

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Any = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        *,
        start_method: str | None = None,
        comm: Any = None,
        use_dill: bool = False,
    ) -> None:
        self._state = TERMINATE  # until it runs: __repr__ and close() of a half-made pool work
        self.rank = 0
        if processes is None:
            processes = _cpus.cpu_count()
        elif not isinstance(processes, int):
            raise TypeError(f"number of processes must be an int, not {type(processes).__name__}")
        if processes < 1:
            raise ValueError("Number of processes must be at least 1")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        method = method_of(context, start_method)
        self.size = self._processes = processes
        runner = Runner(processes, method, Initializer(initializer, tuple(initargs)), maxtasksperchild or 0)
        self._runner = runner
        self._start_method = method
        self._finalizer = weakref.finalize(self, shut_down, runner)
        self._state = RUN

    @staticmethod
    def enabled() -> bool:
        """True: processes are always there."""
        return True

    def __repr__(self) -> str:
        cls = type(self)
        return f"<{cls.__module__}.{cls.__qualname__} state={self._state} pool_size={getattr(self, 'size', 0)}>"

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    @property
    def _pool(self) -> list[WorkerHandle]:
        return [WorkerHandle(self._runner, i) for i in range(self.size)]

    def statistics(self) -> Statistics:
        """Counters since the pool was made. Cost: some microseconds."""
        return statistics(self._runner)

    def map(
        self,
        func: Any = MISSING,
        iterable: Any = MISSING,
        chunksize: Any = None,
        callback: Any = None,
        return_results: bool = True,
        *,
        callback_order: str | None = None,
        return_exceptions: bool = False,
        retries: int = 0,
        timeout: float | None = None,
        worker: Any = MISSING,
        tasks: Any = MISSING,
    ) -> list[Any] | None:
        """Apply a function to each task in the workers.

        Parameters
        ----------
        func : callable
            Also under the name ``worker``.
        iterable : iterable
            The tasks, also under the name ``tasks``; drawn as the workers need them.
        chunksize : int, optional
            Tasks per message, obeyed literally; by default the engine sizes chunks by the time tasks take.
        callback : callable, optional
            Called with each result, on this thread, as results arrive.
        return_results : bool
            With False nothing is kept and None is returned.
        callback_order : str, optional
            ``"input"`` (default) or ``"completion"``.
        return_exceptions : bool
            A failed task's exception stands in its place instead of being raised.
        retries : int
            How often a task that fails, exceeds its time or loses its worker is run again.
        timeout : float, optional
            Limit for one task [s]; its worker is then ended and replaced.

        Returns
        -------
        list or None
            Results in input order.

        Raises
        ------
        BaseException
            What the first failing task raised, with the worker's traceback as ``__cause__``.
        WorkerLost, TaskTimeout, PicklingError, UnpicklingError
            See `schwimmbad_go.error`; the pool can be used after each of them.
        ValueError
            "Pool not running", after `close` or `terminate`.
        """
        return self._map(
            0, func, iterable, chunksize, callback, return_results, callback_order, return_exceptions, retries, timeout,
            worker, tasks,
        )  # fmt: skip

    def close(self) -> None:
        """Take no more work; workers leave when what is under way has ended. Repeatable."""
        if self._state == RUN:
            self._state = CLOSE
            if self._runner.owner == os.getpid():
                self._runner.close()

    def terminate(self) -> None:
        """End the workers now; maps under way in other threads raise. Repeatable."""
        if getattr(self, "_runner", None) is None or self._runner.owner != os.getpid():
            return
        self._state = TERMINATE
        if not self._runner.freed:
            self._runner.terminate()
            self._runner.join()
        self._finalizer.detach()

    def join(self) -> None:
        """Wait for the workers to leave.

        Raises
        ------
        ValueError
            "Pool is still running", before `close` or `terminate`.
        """
        if self._state == RUN:
            raise ValueError("Pool is still running")
        if not self._runner.freed:
            self._runner.join()
        self._finalizer.detach()

    def __enter__(self: _Self) -> _Self:
        self._check_open()
        return self

    def __exit__(self, *_: Any) -> None:
        self.terminate()

    def _check_open(self) -> None:
        if self._state != RUN:
            raise PoolClosed()

    def _collect(self, call: Call) -> list[Any]:
        return self._runner.collect(call)

    def _stream(self, call: Call) -> Generator[tuple[int, list[Any]], None, None]:
        return self._runner.stream(call)

    def _submit(self, call: Call, result: AsyncResult[Any]) -> None:
        self._runner.submit(call, result)

    def _broadcast(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        return self._runner.broadcast(Call(func, [(args, kwargs)] * self.size, APPLY))


