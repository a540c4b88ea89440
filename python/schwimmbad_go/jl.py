"""`JoblibPool`: the pool with the arguments and the behaviour of ``joblib.Parallel``."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Generator, Sized
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

from . import _jl_options, _jl_worker
from ._call import APPLY, MISSING, PLAIN, Call, checked_call, checked_order, sort_third_and_fourth
from ._jl_options import FOREIGN, PROCESSES, SEQUENTIAL, THREADS, Options, Plan
from ._jl_progress import Progress
from ._results import AsyncResult, ResultIterator
from ._runner import Runner, join_later, shut_down
from ._start import Initializer
from ._statistics import Statistics, statistics
from .error import PoolUnavailable
from .pool import BasePool, _place

if TYPE_CHECKING:
    from ._jl_ways import Foreign, Sequential

    Parallel: Any
    delayed: Any

__all__ = ["JoblibPool"]


def __getattr__(name: str) -> Any:
    # schwimmbad's module has joblib's two names, None without joblib; importing joblib costs too much to do
    # it unasked.
    if name in ("Parallel", "delayed"):
        try:
            import joblib
        except ImportError:
            return None
        return getattr(joblib, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Workers:
    """`_processes` of a pool whose number of workers depends on where it is asked."""

    def __get__(self, pool: JoblibPool | None, owner: type) -> int:
        return 1 if pool is None else pool._plan().workers


class JoblibPool(BasePool):
    """A pool with the arguments and the behaviour of ``joblib.Parallel``, on the engine's workers.

    Parameters
    ----------
    n_jobs : int, optional
        Workers; -1: all CPUs, -2: all but one. None: what a surrounding ``joblib.parallel_config`` says, else 1, which runs
        the tasks in the calling process. Also by the name ``processes``.
    backend : str or object, optional
        ``"loky"`` (default): worker processes that start clean. ``"multiprocessing"``: worker processes that are forked and
        see what was set before the first map. ``"threading"``: threads of this process, for functions that release the GIL.
        ``"sequential"``. Anything else is joblib's to know, such as ``"dask"`` or a backend that somebody has registered.
    return_as : {"list", "generator", "generator_unordered"}
        What `map` returns. A generator's results come while later tasks still run.
    verbose : float
        Above 0: report progress, the more often the higher it is; above 10 always, from 50 on to stdout.
    timeout : float, optional
        Limit for one task of `map` and `starmap` [s]; not for sequential ones. A worker process is ended for it.
    pre_dispatch : "all", int or str
        How many batches may be drawn from an iterator of tasks before their results are there.
    batch_size : "auto" or int
        Tasks per message.
    temp_folder, max_nbytes, mmap_mode
        Checked. The engine's workers get large arrays through shared memory, without files: each as a private copy that is
        made when it is written to.
    prefer : {"processes", "threads"}, optional
    require : {"sharedmem"}, optional
        As in joblib, where no backend is given.
    initializer, initargs
        Called once on each worker before its first task.
    maxtasksperchild, context, start_method
        As in `MultiPool`, for worker processes.
    comm, use_dill
        Of other pools; ignored.

    Raises
    ------
    TypeError, ValueError
        Bad arguments.
    ImportError
        The backend is joblib's to know, and joblib is not installed; the four above need none.

    Notes
    -----
    Workers start with the first call and stay until `close`; after that the next call starts new ones. With
    ``n_jobs=1`` and in a worker forked by another pool, tasks run in the calling process.
    """

    _processes = cast(int, _Workers())

    _adjusts = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.size = 0
        self.args = args
        self.kwargs = kwargs
        self._options = Options(args, kwargs)
        self._reset()

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._token = object()
        self._lock = threading.Lock()
        self._runners: dict[str, tuple[Plan, Runner]] = {}  # one of processes, one of threads
        self._sequential: Sequential | None = None
        self._leaving: list[tuple[threading.Thread, Runner]] = []

    @staticmethod
    def enabled() -> bool:
        """True: joblib is needed for the backends of others only."""
        return True

    def __repr__(self) -> str:
        words = [repr(a) for a in self.args] + [f"{k}={v!r}" for k, v in self.kwargs.items()]
        return f"<{type(self).__module__}.{type(self).__qualname__}({', '.join(words)})>"

    def __getstate__(self) -> dict[str, Any]:
        return {"args": self.args, "kwargs": self.kwargs}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(*state["args"], **state["kwargs"])  # type: ignore[misc]

    # ---- maps ----------------------------------------------------------------------------------------------

    def map(
        self,
        func: Any = MISSING,
        iterable: Any = MISSING,
        callback: Any = None,
        chunksize: Any = None,
        *,
        return_results: bool = True,
        callback_order: str | None = None,
        return_exceptions: bool = False,
        retries: int = 0,
        timeout: float | None = None,
        worker: Any = MISSING,
        tasks: Any = MISSING,
    ) -> Any:
        """Apply a function to each task.

        Parameters
        ----------
        func, iterable
            Function and tasks, also by the names ``worker`` and ``tasks``.
        callback : callable, optional
            Called with each result, on this thread, as results arrive. May change places with `chunksize`.
        chunksize : int, optional
            Tasks per message instead of the pool's ``batch_size``.
        return_results : bool
            With False nothing is kept and None is returned.
        callback_order, return_exceptions, retries, timeout
            As in `MultiPool.map`.

        Returns
        -------
        list, generator or None
            Results in input order, or as ``return_as`` says. With a callback all tasks have run when this returns.

        Raises
        ------
        BaseException
            What the first failing task or the callback raised; outstanding work is cut off.
        TaskTimeout, WorkerLost, PicklingError, UnpicklingError
            See `schwimmbad_go.error`; the pool can be used after each of them.
        """
        options = self._options
        if options.return_as == "list" or not return_results:
            return self._map(
                PLAIN, func, iterable, chunksize, callback, return_results, callback_order, return_exceptions, retries,
                timeout, worker, tasks,
            )  # fmt: skip
        chunksize, callback = sort_third_and_fourth(callback, chunksize, ("callback", "chunksize"))
        call = checked_call(func, iterable, PLAIN, chunksize, return_exceptions, retries, timeout, worker, tasks)
        call.ordered = options.return_as == "generator"
        if callback is None:
            checked_order(callback_order, "input")
            call.lazy = True
        else:
            call.ordered = checked_order(callback_order, "input" if call.ordered else "completion") == "input"
        plan = self._limit(call)
        values = _generator(self._run(call, plan), call, plan.kind in (PROCESSES, THREADS))
        if callback is None:
            return values
        kept = []
        with contextlib.closing(values):
            for value in values:
                callback(value)
                kept.append(value)
        return (value for value in kept)

    def _adjust(self, call: Call) -> None:
        self._limit(call)

    def _limit(self, call: Call) -> Plan:
        """The pool's own time limit, where the call has none."""
        plan = self._plan()
        if call.timeout is None and plan.kind in (PROCESSES, THREADS):
            call.timeout = self._options.timeout
        return plan

    # ---- hooks ---------------------------------------------------------------------------------------------

    @property
    def _runs_ahead(self) -> bool:  # type: ignore[override]
        return self._plan().kind in (PROCESSES, THREADS)

    def _plan(self) -> Plan:
        if self._token in _jl_worker.pools():
            return Plan(SEQUENTIAL, 1)  # in a task of its own: the other threads may all wait like this one
        plan = self._options.plan()
        if plan.kind == FOREIGN and self in (getattr(plan.parallel._backend, "_pool", None),):
            return self._options.plan(contexts=False)  # within this pool's own as_backend()
        return plan

    def _collect(self, call: Call) -> list[Any]:
        plan = self._plan()
        if plan.verbose <= 0:
            return self._way(plan).collect(self._prepared(call, plan))
        out: list[Any] = []
        call.ordered = False
        with contextlib.closing(self._run(call, plan)) as stream:
            for first, values in stream:
                _place(out, first, values)
        return out

    def _stream(self, call: Call) -> Generator[tuple[int, list[Any]], None, None]:
        return self._run(call, self._plan())

    def _run(self, call: Call, plan: Plan) -> Generator[tuple[int, list[Any]], None, None]:
        stream = self._way(plan).stream(self._prepared(call, plan))
        if plan.verbose <= 0 or plan.kind == FOREIGN:  # joblib reports what it runs
            return stream
        total = len(call.tasks) if isinstance(call.tasks, Sized) else -1
        return _reported(stream, Progress(plan.verbose, f"JoblibPool(n_jobs={plan.workers})", total), _HOW[plan.kind])

    def _submit(self, call: Call, result: AsyncResult[Any]) -> None:
        plan = self._plan()
        self._way(plan).submit(self._prepared(call, plan), result)

    def _broadcast(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        plan = self._plan()
        return self._way(plan).broadcast(Call(func, [(args, kwargs)] * plan.workers, APPLY))

    def _prepared(self, call: Call, plan: Plan) -> Call:
        """The call with what the pool's own arguments say."""
        options = self._options
        if call.chunksize is None:
            call.chunksize = options.batch_size
        if plan.kind in (PROCESSES, THREADS) and not hasattr(call.tasks, "__len__"):
            call.ahead = options.ahead(plan.workers)
            if call.ahead is None and not call.lazy:
                call.tasks = list(call.tasks)  # "all": drawn before anything runs
        return call

    # ---- workers -------------------------------------------------------------------------------------------

    def _way(self, plan: Plan) -> Runner | Sequential | Foreign:
        """What runs calls of this plan; workers start here."""
        if self._owner != os.getpid():
            self._reset()  # forked: the workers are the parent's
        options = self._options
        if plan.kind in (SEQUENTIAL, FOREIGN):
            from ._jl_ways import Foreign, Sequential

            if plan.kind == FOREIGN:
                return Foreign(options, plan)
            if self._sequential is None:
                self._sequential = Sequential(options)
            return self._sequential
        with self._lock:
            known, runner = self._runners.get(plan.kind, (None, None))
            if runner is not None and known is not None:
                if (known.workers, known.method) == (plan.workers, plan.method) and not (runner.closed or runner.stuck):
                    return runner
                self._let_go(plan.kind)
            runner = self._start(plan)
            self._runners[plan.kind] = plan, runner
            return runner

    def _start(self, plan: Plan) -> Runner:
        options = self._options
        runner: Runner
        if plan.kind == PROCESSES:
            entry = _jl_worker.Entry(options.initializer, options.initargs, None)
            environ = _jl_worker.limits(plan.workers, _jl_options.cpu_count(), options.inner_threads)
            runner = Runner(plan.workers, plan.method, Initializer(entry, ()), options.max_tasks or 0, environ)
            runner.encoder = _jl_worker.FileEncoder(runner.snapshot)
        else:
            from ._threads import ThreadRunner

            entry = _jl_worker.Entry(options.initializer, options.initargs, self._token)
            runner = ThreadRunner(plan.workers, Initializer(entry, ()), _jl_worker.nest)
        weakref.finalize(self, shut_down, runner)
        return runner

    @property
    def _runner(self) -> Runner:
        """Engine and workers of this pool's own arguments, whatever context surrounds the caller.

        Raises
        ------
        PoolUnavailable
            It has none.
        """
        plan = self._options.plan(contexts=False)
        if plan.kind != PROCESSES:
            raise PoolUnavailable(f"{self!r} runs tasks {_HOW[plan.kind]}: it has no worker processes to lend")
        return cast(Runner, self._way(plan))

    def _let_go(self, kind: str) -> None:
        """Let workers leave after what is under way. Nobody waits for them unless they are idle. Under the lock."""
        _, runner = self._runners.pop(kind)
        if runner.freed:
            return
        runner.close()
        busy = runner.busy()
        thread = join_later(runner)
        if thread is not None and not busy:
            thread.join(5.0)  # workers that are idle leave at once
        self._leaving = [entry for entry in self._leaving if entry[0].is_alive()]
        if thread is not None and thread.is_alive() and not runner.stuck:
            self._leaving.append((thread, runner))

    def close(self) -> None:
        """Let the workers leave after what is under way. Repeatable; the next call starts new ones."""
        if self._owner == os.getpid():
            with self._lock:
                for kind in list(self._runners):
                    self._let_go(kind)

    def terminate(self) -> None:
        """End the workers now; maps under way in other threads raise. Repeatable; the next call starts new ones.

        Threads cannot be ended: a task that runs in one goes on to its end, unheard, and nobody waits for it.
        """
        if self._owner != os.getpid():
            return
        with self._lock:
            runners = [runner for _, runner in (*self._runners.values(), *self._leaving)]
            self._runners.clear()
            self._leaving.clear()
        for runner in runners:
            if not runner.freed:
                runner.terminate()
                runner.leave()

    def join(self) -> None:
        """Wait for what was under way when the pool was closed; returns at once if it was not."""
        if self._owner == os.getpid():
            for thread, _ in list(self._leaving):
                thread.join()

    def statistics(self) -> Statistics:
        """Counters of the workers that a call would use here and now. Cost: some microseconds.

        Raises
        ------
        PoolUnavailable
            Calls do not go to workers of the engine.
        """
        plan = self._plan()
        if plan.kind not in (PROCESSES, THREADS):
            raise PoolUnavailable(f"{self!r} runs tasks {_HOW[plan.kind]}: the engine counts nothing")
        return statistics(cast(Runner, self._way(plan)))

    def as_backend(self) -> AbstractContextManager[Any]:
        """A context in which joblib runs on this pool's workers.

        ::

            with JoblibPool(4).as_backend():
                GridSearchCV(...).fit(X, y)

        Raises
        ------
        ImportError
            joblib is not installed.
        """
        from . import _joblib

        return _joblib.as_backend(self)


_HOW = {
    PROCESSES: "in worker processes", THREADS: "in threads of this process", SEQUENTIAL: "in this process, one by one",
    FOREIGN: "through joblib",
}  # fmt: skip


def _reported(
    stream: Generator[tuple[int, list[Any]], None, None], progress: Progress, how: str
) -> Generator[tuple[int, list[Any]], None, None]:
    """The stream, with its progress reported."""
    with contextlib.closing(stream):
        progress.begin(how)
        for first, values in stream:
            progress.tick(len(values))
            yield first, values
        progress.end()


def _generator(
    stream: Generator[tuple[int, list[Any]], None, None], call: Call, runs_ahead: bool
) -> Generator[Any, None, None]:
    """The results in a generator whose work begins now; an error is raised when it is asked for the next result."""
    try:
        return _values(ResultIterator(stream, call, runs_ahead))
    except Exception as error:  # told where joblib's generators tell theirs
        return _failed(error)


def _values(results: ResultIterator[Any]) -> Generator[Any, None, None]:
    with contextlib.closing(results):
        yield from results


def _failed(error: Exception) -> Generator[Any, None, None]:
    raise error
    yield
