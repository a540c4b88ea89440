"""The pools that are compared, behind one small interface.

Each class knows how to open one pool, run a map the way that pool's documentation recommends, and close it.
What a pool needs besides (tuples around tuple tasks for mpire, say) is done in `adapt`, outside the clock, in
its favour.
Imports happen in the constructor: a pool that is not installed is listed as missing, nothing else.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

Func = Callable[[Any], Any]


class Unavailable(Exception):
    """The contender cannot run here; the message says why."""


class Contender:
    """One pool. `open` comes first, then any number of `map`, then `close`; it can then be opened again."""

    key = ""  # name on the command line and in the JSON
    label = ""  # column head
    package: str | None = None  # distribution that has to be installed; None: standard library or this file
    tunable = True  # does an explicit chunk size change anything worth trying?
    parallel = True  # False: runs in the caller, so it has no workers to start or to weigh
    only: frozenset[str] | None = None  # takes part in these workloads alone

    def __init__(self) -> None:
        self.version = _version(self.package) if self.package else "standard library"

    def open(self, workers: int) -> None:
        raise NotImplementedError

    def map(self, func: Func, tasks: Any, chunksize: int | None = None) -> list[Any]:
        """Results in input order, as a list; chunksize None is the pool's own default."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop the workers and wait for them."""
        raise NotImplementedError

    def adapt(self, tasks: Any) -> Any:
        """The tasks in the form this pool wants; not timed."""
        return tasks

    def default_chunk(self, n: int, workers: int) -> int | None:
        """The chunk size this pool takes for n tasks by itself; None where that depends on the run."""
        return None


class Serial(Contender):
    key, label = "serial", "serial"
    tunable = parallel = False

    def open(self, workers: int) -> None:
        pass

    def map(self, func: Func, tasks: Any, chunksize: int | None = None) -> list[Any]:
        return list(map(func, tasks))

    def close(self) -> None:
        pass


class SchwimmbadGo(Contender):
    key, label = "schwimmbad-go", "ours"
    tunable = False  # chooses by itself: what it reaches by default is what counts

    options: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        from schwimmbad_go import MultiPool, __version__

        self._make = MultiPool
        self.version = __version__

    def open(self, workers: int) -> None:
        self._pool = self._make(workers, **self.options)

    def map(self, func: Func, tasks: Any, chunksize: int | None = None) -> list[Any]:
        return self._pool.map(func, tasks, chunksize)

    def close(self) -> None:
        self._pool.terminate()
        self._pool.join()


class SchwimmbadGoZeroCopy(SchwimmbadGo):
    """Results of large arrays are views of shared memory instead of copies, where MultiPool offers it."""

    key, label = "schwimmbad-go-zero-copy", "ours, zero-copy"
    only = frozenset({"arrays"})
    options: ClassVar[dict[str, Any]] = {"zero_copy": True}

    def __init__(self) -> None:
        super().__init__()
        if "zero_copy" not in inspect.signature(self._make).parameters:
            raise Unavailable("this MultiPool has no zero_copy option")


def _quarter(n: int, workers: int) -> int:
    return math.ceil(n / (4 * workers))


class StdlibPool(Contender):
    key, label = "multiprocessing", "mp.Pool"

    def open(self, workers: int) -> None:
        self._pool = multiprocessing.get_context("fork").Pool(workers)

    def map(self, func: Func, tasks: Any, chunksize: int | None = None) -> list[Any]:
        return self._pool.map(func, tasks, chunksize)

    def default_chunk(self, n: int, workers: int) -> int | None:
        return _quarter(n, workers)

    def close(self) -> None:
        self._pool.terminate()
        self._pool.join()


class FuturesExecutor(Contender):
    key, label = "concurrent.futures", "PPE"

    def open(self, workers: int) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self._pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"))

    def map(self, func: Func, tasks: Any, chunksize: int | None = None) -> list[Any]:
        return list(self._pool.map(func, tasks, chunksize=chunksize or 1))

    def default_chunk(self, n: int, workers: int) -> int | None:
        return 1

    def close(self) -> None:
        self._pool.shutdown(wait=True)


class Schwimmbad(Contender):
    key, label, package = "schwimmbad", "schwimmbad", "schwimmbad"

    def __init__(self) -> None:
        super().__init__()
        import multiprocess
        from schwimmbad import MultiPool

        self._make = MultiPool
        self._fork = multiprocess.get_context("fork")

    def open(self, workers: int) -> None:
        self._pool = self._make(workers, context=self._fork)

    def map(self, func: Func, tasks: Any, chunksize: int | None = None) -> list[Any]:
        return self._pool.map(func, tasks, chunksize)

    def default_chunk(self, n: int, workers: int) -> int | None:
        return _quarter(n, workers)

    def close(self) -> None:
        self._pool.terminate()
        self._pool.join()


class Loky(Contender):
    key, label, package = "loky", "loky", "loky"

    def __init__(self) -> None:
        super().__init__()
        from loky import ProcessPoolExecutor

        self._make = ProcessPoolExecutor

    def open(self, workers: int) -> None:
        self._pool = self._make(workers)

    def map(self, func: Func, tasks: Any, chunksize: int | None = None) -> list[Any]:
        return list(self._pool.map(func, tasks, chunksize=chunksize or 1))

    def default_chunk(self, n: int, workers: int) -> int | None:
        return 1

    def close(self) -> None:
        self._pool.shutdown(wait=True)


class Joblib(Contender):
    """`Parallel` used as a context manager, so that its workers live on between maps."""

    key, label, package = "joblib", "joblib", "joblib"

    def __init__(self) -> None:
        super().__init__()
        import joblib
        from joblib.externals.loky import get_reusable_executor

        self._joblib = joblib
        self._executor = get_reusable_executor

    def open(self, workers: int) -> None:
        self._parallel = self._joblib.Parallel(n_jobs=workers)
        with _without_stderr():
            self._parallel.__enter__()
            self._parallel([self._joblib.delayed(abs)(1)])

    def map(self, func: Func, tasks: Any, chunksize: int | None = None) -> list[Any]:
        self._parallel.batch_size = chunksize or "auto"
        delayed = self._joblib.delayed(func)
        return self._parallel(delayed(task) for task in tasks)

    def close(self) -> None:
        self._parallel.__exit__(None, None, None)
        # Leaving the block only returns the workers to a process-wide executor, which would stay alive.
        self._executor().shutdown(wait=True)


class Mpire(Contender):
    key, label, package = "mpire", "mpire", "mpire"

    def __init__(self) -> None:
        super().__init__()
        from mpire import WorkerPool

        self._make = WorkerPool

    def open(self, workers: int) -> None:
        self._pool = self._make(workers, keep_alive=True, start_method="fork")

    def map(self, func: Func, tasks: Any, chunksize: int | None = None) -> list[Any]:
        return self._pool.map(func, tasks, chunk_size=chunksize, concatenate_numpy_output=False)

    def default_chunk(self, n: int, workers: int) -> int | None:
        return math.ceil(n / (64 * workers))

    def close(self) -> None:
        self._pool.stop_and_join()

    def adapt(self, tasks: Any) -> Any:
        # mpire slices an ndarray instead of iterating it, and unpacks tuple tasks into arguments.
        return [(task,) if isinstance(task, (tuple, list, dict)) else task for task in tasks]


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Processes started in here write their standard error nowhere.

    joblib's resource tracker prints a traceback per map when a large array inside a callable is used again
    and again; results are right, errors of tasks come back as exceptions, but the table would drown in it.
    """
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


OURS = SchwimmbadGo.key

# Fork-based pools first: their children then hold fewer of the other pools' descriptors and threads.
ALL: Sequence[type[Contender]] = (
    Serial,
    SchwimmbadGo,
    SchwimmbadGoZeroCopy,
    StdlibPool,
    FuturesExecutor,
    Schwimmbad,
    Mpire,
    Loky,
    Joblib,
)


def available() -> tuple[list[Contender], dict[str, str]]:
    """Every contender that can run here, and for each other one the reason why it cannot."""
    found: list[Contender] = []
    missing: dict[str, str] = {}
    for kind in ALL:
        try:
            found.append(kind())
        except importlib.metadata.PackageNotFoundError:
            missing[kind.key] = "not installed"
        except (ImportError, Unavailable) as error:
            missing[kind.key] = str(error)
    return found, missing


def make(key: str) -> Contender:
    """The contender of that name."""
    return next(kind for kind in ALL if kind.key == key)()


def _version(package: str) -> str:
    return importlib.metadata.version(package)
