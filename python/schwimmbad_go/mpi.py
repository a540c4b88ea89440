"""`MPIPool`: the pool whose workers are the other ranks of an MPI run.

Importing this module loads no MPI library. A pool starts MPI; `MPIPool.enabled` does not: on the login node of a cluster that
can kill the process.
"""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Callable, Generator
from typing import Any, NoReturn, TypeVar

from . import _launcher, _libmpi
from ._call import APPLY, MISSING, Call
from ._diagnosis import diagnosis
from ._results import AsyncResult
from ._statistics import Statistics, statistics
from .error import EngineError, PoolClosed
from .pool import BasePool

__all__ = ["MPI", "MPIPool"]

_PATIENCE = 1.0  # seconds that the end of an abandoned pool may take: the garbage collector waits

_Self = TypeVar("_Self", bound="MPIPool")

#: ``mpi4py.MPI`` once a pool, or `_import_mpi`, has imported it.
MPI: Any = None


def _dummy_callback(x: Any) -> None:
    """Does nothing."""


def _import_mpi(quiet: bool = False, use_dill: bool = False) -> Any:
    """Import ``mpi4py.MPI`` into `MPI`; this starts MPI.

    Parameters
    ----------
    quiet : bool
        Return None instead of raising if mpi4py is missing.
    use_dill : bool
        Accepted. schwimmbad replaced mpi4py's pickler for the whole process; the user's own messages are not
        ours.

    Returns
    -------
    module or None

    Raises
    ------
    ImportError
        ``Please install mpi4py``.
    """
    global MPI
    try:
        from mpi4py import MPI as found
    except ImportError as error:
        if not quiet:
            raise ImportError("Please install mpi4py") from error
    else:
        MPI = found
    return MPI


def _why_alone(library: _libmpi.Library | None = None) -> str:
    """What the user needs to know after one of schwimmbad's sentences."""
    if library is None and _libmpi.mapped() is not None:  # mpi4py was imported before: then that is what did not see the others
        library = _libmpi.load(use_mpi4py=False)
    return diagnosis(_launcher.launch(), library, 1)


class OneProcess(ValueError):
    """There is only one MPI process; `choose_pool` makes a SystemError of it.

    Attributes
    ----------
    why : str
        What was found and what to type.
    """

    def __init__(self, why: str) -> None:
        super().__init__(f"Tried to create an MPI pool, but there was only one MPI process available. Need at least two. {why}")
        self.why = why


class Ranks:
    """Stands in for a communicator where mpi4py is not installed: rank and size.

    Attributes
    ----------
    rank, size : int
        This process's place, and how many there are.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size

    def Get_rank(self) -> int:
        """mpi4py's name of `rank`."""
        return self.rank

    def Get_size(self) -> int:
        """mpi4py's name of `size`."""
        return self.size

    def __repr__(self) -> str:
        return f"<{self.size} ranks, this is {self.rank}; install mpi4py for a communicator>"


class MPIPool(BasePool):
    """A pool whose workers are the ranks of an MPI run.

    Every rank runs the script up to this call. On rank 0 it returns, and the script goes on there; the other ranks stay in it and
    serve, asleep while there is nothing to do, until rank 0's program ends. Then they leave with ``sys.exit(0)``.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        The ranks to use, each of which must make the pool; None for all. The pool works on a duplicate: messages of the
        script's own do not meet the pool's.
    use_dill : bool
        Accepted. What pickle cannot take goes by cloudpickle or dill, whichever is installed, without being asked.
    initializer : callable, optional
        Called as ``initializer(*initargs)`` on each worker before its first task. Its exception is raised by the first map.
    initargs : tuple
    isolate : bool
        Run the tasks in worker processes beside the ranks, forked before MPI starts, so that a task which crashes costs itself and
        not the job. Such tasks cannot use MPI.
    workers_per_rank : int
        So many worker processes beside each rank; more than one implies `isolate`.
    master_works : bool
        Rank 0 has `workers_per_rank` worker processes as well. Then one rank is enough.
    maxtasksperchild : int, optional
        A worker process is replaced after so many tasks; without `isolate` it means nothing.
    processes, context
        Of other pools; ignored.

    Attributes
    ----------
    comm : mpi4py.MPI.Comm
        As passed, or ``MPI.COMM_WORLD``; without mpi4py an object with rank and size.
    master : int
        0, the rank of the master.
    workers : set of int
        Ranks of the workers.
    size : int
        Number of workers.

    Raises
    ------
    ImportError
        ``Please install mpi4py``: neither that nor an MPI library is there.
    ValueError
        There is only one process; the message tells what was found and what to type.
    EngineError
        The engine was built without this MPI.

    Notes
    -----
    Results of ``map`` are in input order; callbacks come in order of completion, unless ``callback_order="input"``. A rank that dies
    ends the job: `~schwimmbad_go.error.RankLost` is raised on the master, and the exit code is not 0 even if that is caught.
    """

    _runs_ahead = True
    _callback_order = "completion"

    def __init__(
        self,
        comm: Any = None,
        use_dill: bool = False,
        *,
        initializer: Callable[..., Any] | None = None,
        initargs: Any = (),
        isolate: bool = False,
        workers_per_rank: int = 1,
        master_works: bool = False,
        maxtasksperchild: int | None = None,
        processes: int | None = None,
        context: Any = None,
    ) -> None:
        self._closed = True  # until it runs: close() of a half-made pool works
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if not isinstance(workers_per_rank, int):
            raise TypeError(f"workers_per_rank must be an int, not {type(workers_per_rank).__name__}")
        if workers_per_rank < 1:
            raise ValueError(f"workers_per_rank must be at least 1, not {workers_per_rank}")
        if comm is not None and not hasattr(comm, "py2f"):
            raise TypeError(f"comm must be a communicator of mpi4py's, not {comm!r:.60} of type {type(comm).__name__}")
        if comm is not None and not comm:
            raise ValueError("comm is MPI.COMM_NULL: this process is not one of its ranks, and must not make the pool")
        if comm is not None and sys.modules["mpi4py.MPI"].Is_initialized() and comm.Is_inter():
            raise ValueError("comm is an inter-communicator, which has no rank 0 of its own: pass an intra-communicator (see Comm.Merge)")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        from ._start import Initializer

        setup = Initializer(initializer, tuple(initargs))
        apart = isolate or workers_per_rank > 1
        self._open(comm, setup, workers_per_rank if apart else 0, workers_per_rank if master_works else 0, maxtasksperchild or 0)

    def _open(self, comm: Any, setup: Any, beside: int, local: int, max_tasks: int) -> None:
        global MPI
        from . import _ranks

        if _ranks._job is not None and _ranks._job.left:
            raise EngineError("MPI has been finalized in this process: no MPIPool can be made any more")
        link = _ranks.find(_ranks._job, comm) if _ranks._job is not None else None
        zygote = None
        if link is None:
            if beside or local:
                zygote = _fork_zygote(setup)
            try:
                job = _ranks.job()
                MPI = sys.modules.get("mpi4py.MPI", MPI)
                size = comm.Get_size() if comm is not None else job.look().size
                if size < 2 and not local:
                    alone = job.look().size < 2
                    raise OneProcess(_why_alone(job.library) if alone else "comm has this rank only: pass one with more, or none")
                _ranks.check_free(job, comm)
                link = _ranks.Link(job, comm, beside, zygote, local)
            except BaseException:  # a refusal or Ctrl-C: no process may stay behind
                if zygote is not None:
                    zygote.close()
                raise
        elif beside != link.workers or local and link.zygote is None:
            raise ValueError(
                "A later MPIPool of the same ranks has the isolate=, workers_per_rank= and master_works= of the first: worker "
                "processes are forked before MPI starts"
            )
        self.rank = link.rank
        if link.rank != 0:
            from ._rank import serve

            serve(link, setup, max_tasks)
        self._lead(comm, link, setup, local, max_tasks)

    def _lead(self, comm: Any, link: Any, setup: Any, local: int, max_tasks: int) -> None:
        from ._rank_runner import RankRunner

        if link.runner is not None and not link.runner.freed:
            if not link.runner.closed:
                raise ValueError("An MPIPool of these ranks is open: close it before another one is made")
            link.runner.give_way()
        if link.zygote is not None and not local and link.pools == 0:  # rank 0 was not known to be it when it was forked
            link.zygote.close()
            link.zygote = None
        self.comm = comm
        if comm is None:
            self.comm = MPI.COMM_WORLD if MPI is not None else Ranks(link.rank, link.size)
        self.master = 0
        self.workers = set(range(1, link.size))
        self.size = self._processes = (link.size - 1) * max(link.workers, 1) + local
        link.job.watch_finalize()
        self._link = link
        self._runner = RankRunner(link, local, setup, max_tasks)
        link.runner = self._runner
        self._finalizer = weakref.finalize(self, _abandon, self._runner)
        self._finalizer.atexit = False  # `Job.leave` does it, in the right order
        self._closed = False

    @staticmethod
    def enabled() -> bool:
        """Whether this process is one of several MPI ranks.

        Starts nothing: where MPI does not run yet, the launcher's variables tell. Cost: microseconds.
        """
        found = sys.modules.get("mpi4py.MPI")
        if found is not None and found.Is_initialized() and not found.Is_finalized():
            return bool(found.COMM_WORLD.Get_size() > 1)
        started = _launcher.launch()
        return started is not None and (started.size is None or started.size > 1)

    def __repr__(self) -> str:
        cls = type(self)
        state = "CLOSE" if self._closed else "RUN"
        return f"<{cls.__module__}.{cls.__qualname__} state={state} rank={self.rank} pool_size={self.size}>"

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def statistics(self) -> Statistics:
        """Counters since the pool was made: of all ranks, as far as their answers tell. Cost: some microseconds."""
        return statistics(self._runner)

    def wait(self, callback: Callable[[], Any] | None = None) -> None:
        """schwimmbad's ``if not pool.is_master(): pool.wait()`` keeps working: only the master gets here, where it does
        nothing."""
        return

    def map(
        self,
        worker: Any = MISSING,
        tasks: Any = MISSING,
        callback: Any = None,
        return_results: Any = True,
        *,
        chunksize: Any = None,
        callback_order: str | None = None,
        return_exceptions: bool = False,
        retries: int = 0,
        timeout: float | None = None,
        func: Any = MISSING,
        iterable: Any = MISSING,
    ) -> list[Any] | None:
        """Apply a function to each task on the ranks.

        Parameters
        ----------
        worker : callable
            Also under the name ``func``.
        tasks : iterable
            Also under the name ``iterable``; drawn as the workers need them. The rows of an array are sent as one block.
        callback : callable, optional
            Called with each result, on this thread, as results arrive.
        return_results : bool
            With False nothing is kept and None is returned.
        chunksize : int, optional
            Tasks per message, obeyed literally; by default the engine sizes chunks by the time tasks take.
        callback_order : str, optional
            ``"completion"`` (default) or ``"input"``.
        return_exceptions : bool
            A failed task's exception stands in its place instead of being raised.
        retries : int
            How often a task that fails, exceeds its time or (``isolate=True``) loses its worker is run again.
        timeout : float, optional
            Limit for one task [s]. It is interrupted between two steps of the interpreter; compiled code that does not come back
            is ended with ``isolate=True`` only.

        Returns
        -------
        list or None
            Results in input order.

        Raises
        ------
        BaseException
            What the first failing task raised, with the worker's traceback as ``__cause__``.
        RankLost
            A rank's process died; the pool is of no use any more.
        WorkerLost, TaskTimeout, PicklingError, UnpicklingError
            See `schwimmbad_go.error`; the pool can be used after each of them.
        ValueError
            "Pool not running", after `close`.
        """
        if type(return_results) is not bool:  # the fourth position of other pools' map
            if return_results is None or callable(return_results) or hasattr(return_results, "__index__"):
                callback, chunksize, return_results = _sorted(callback, return_results, chunksize)
            else:
                return_results = bool(return_results)
        elif callback is not None and not callable(callback):
            callback, chunksize, _ = _sorted(callback, None, chunksize)
        return self._map(
            0, func, iterable, chunksize, callback, return_results, callback_order, return_exceptions, retries, timeout,
            worker, tasks,
        )  # fmt: skip

    def close(self) -> None:
        """Take no more work. The ranks stay, asleep, for another pool or for the end of the program. Repeatable."""
        if not self._closed:
            self._closed = True
            if self._runner.owner == os.getpid():
                self._runner.close()

    def terminate(self) -> None:
        """Close at once: maps under way in other threads raise; running tasks end unheard. Repeatable."""
        if getattr(self, "_runner", None) is None or self._runner.owner != os.getpid():
            return
        self._closed = True
        if not self._runner.freed:
            self._runner.terminate()

    def join(self) -> None:
        """Wait until what was under way has ended.

        Raises
        ------
        ValueError
            "Pool is still running", before `close` or `terminate`.
        """
        if not self._closed:
            raise ValueError("Pool is still running")
        if getattr(self, "_runner", None) is not None and not self._runner.freed:
            self._runner.join()

    def __enter__(self: _Self) -> _Self:
        self._check_open()
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise PoolClosed()

    def _collect(self, call: Call) -> list[Any]:
        return self._runner.collect(call)

    def _stream(self, call: Call) -> Generator[tuple[int, list[Any]], None, None]:
        return self._runner.stream(call)

    def _submit(self, call: Call, result: AsyncResult[Any]) -> None:
        from ._ranks import SERIALIZED

        if self._link.job.level < SERIALIZED:  # no thread but this one may use MPI
            super()._submit(call, result)
        else:
            self._runner.submit(call, result)

    def _broadcast(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        return self._runner.broadcast(Call(func, [(args, kwargs)] * self.size, APPLY))


def _sorted(third: Any, fourth: Any, chunksize: Any) -> tuple[Any, Any, bool]:
    """callback, chunksize and return_results where callers of other pools put a chunk size in the third or fourth place."""
    from ._call import sort_third_and_fourth

    size, callback = sort_third_and_fourth(third, fourth, ("callback", "chunksize"))
    if size is not None and chunksize is not None:
        raise TypeError("got two chunk sizes")
    return callback, chunksize if size is None else size, True


def _fork_zygote(setup: Any) -> Any:
    """The process that worker processes are forked from, made before MPI is there."""
    from . import _served

    found = sys.modules.get("mpi4py.MPI")
    if found is not None and found.Is_initialized():
        raise ValueError(
            "isolate=, workers_per_rank= and master_works= need worker processes that are forked before MPI starts, and mpi4py.MPI has "
            "been imported, which starts it. Make the pool first, or set mpi4py.rc.initialize = False before that import"
        )
    return _served.Zygote(setup)


def _abandon(runner: Any) -> None:
    """The net under a pool that nobody closed, or joined: memory and descriptors are given back with it."""
    if runner.owner == os.getpid() and not runner.freed and not sys.is_finalizing() and runner.link.job.may_call():
        runner.terminate()
        runner.join(time.monotonic() + _PATIENCE)
