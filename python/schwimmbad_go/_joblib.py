"""joblib's backend ``"schwimmbad"``: `joblib.Parallel`, and with it scikit-learn, over the engine's workers.

What joblib asks of a backend differs between its versions; 1.2 to 1.6 are served by one class. In joblib's words: it is a backend
without retrieval in callbacks where results are taken in order (the thread that waits in ``Result.get`` turns the engine, so that a
call costs no other thread and none of the 10 ms naps of joblib's retrieval loop), and one with it for ``"generator_unordered"``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import joblib
from joblib.parallel import FallbackToBackend, Parallel, ParallelBackendBase, SequentialBackend, register_parallel_backend

from . import _engine, _joblib_pool
from ._joblib_arrays import BatchEncoder
from ._joblib_batch import Result
from ._joblib_session import Session
from .error import PoolUnavailable

if TYPE_CHECKING:
    from .pool import BasePool

NAME: Final = "schwimmbad"
_ENTER = getattr(joblib, "parallel_config", None) or joblib.parallel_backend  # the latter up to joblib 1.2
_STANDARD: Final = frozenset(inspect.signature(Parallel.__init__).parameters) | {"context"}
_RETURNS_GENERATORS: Final = "return_as" in _STANDARD  # joblib >= 1.3


class SchwimmbadBackend(ParallelBackendBase):  # type: ignore[misc]
    """The backend; made by joblib, by its registered name.

    Parameters
    ----------
    nesting_level, inner_max_num_threads
        joblib's.
    pool : MultiPool, MPIPool or JoblibPool, optional
        Runs the tasks; it stays open. None: a pool of this backend's own, which stays for later calls.
    idle_worker_timeout : float, optional
        Seconds after which workers that nobody uses end, if the pool is the backend's own; 300 by default.

    Raises
    ------
    TypeError
        Not a pool, or one without an engine.
    """

    supports_inner_max_num_threads = True
    supports_sharedmem = False
    uses_threads = False
    supports_timeout = True
    supports_return_generator = _RETURNS_GENERATORS
    supports_retrieve_callback = False  # of an object, once it is configured

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, pool: BasePool | None = None,
        idle_worker_timeout: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._pool = _checked(pool)
        self._idle = _joblib_pool.IDLE if idle_worker_timeout is None else float(idle_worker_timeout)
        self._standing: _joblib_pool.StandingPool | None = None
        self._session: Session | None = None
        self._claim = threading.Lock()
        self.parallel: Any = None
        self._options: dict[str, Any] = {}
        self._n_jobs = 1
        self._nested: Any = None

    def __reduce__(self) -> Any:  # a task that holds a Parallel object, say: over there it is a backend of its own
        return SchwimmbadBackend, (self.nesting_level, self.inner_max_num_threads)

    @property
    def default_n_jobs(self) -> int:
        """What ``n_jobs=None`` means where nobody says anything else: who hands over a pool wants all of it."""
        return 1 if self._pool is None else -1

    # ---- how many ------------------------------------------------------------------------------------------

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many tasks can run at once when `n_jobs` are asked for."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if self._pool is not None:
            size = _size(self._pool)
            if n_jobs is None:
                return size
            return min(n_jobs, size) if n_jobs > 0 else max(size + 1 + n_jobs, 1)
        if n_jobs is None:
            return 1
        if _engine.dead():
            if n_jobs != 1:
                warnings.warn(
                    "The schwimmbad backend cannot start workers in a process that was forked from one with a pool: n_jobs=1",
                    stacklevel=3,
                )
            return 1
        return n_jobs if n_jobs > 0 else max(joblib.cpu_count() + 1 + n_jobs, 1)

    def configure(self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None, **options: Any) -> int:
        """A Parallel object is about to be used; returns its number of workers.

        Parameters
        ----------
        n_jobs, parallel, prefer, require
            joblib's.
        **options
            What `joblib.Parallel` was given besides: its own, and those of this backend's constructor.

        Raises
        ------
        TypeError
            An option that neither knows.
        PoolClosed
            The pool is closed.
        """
        pool, idle = _own_options(options)
        with self._claim:
            # One object of joblib's may serve several Parallel objects, even at once (generators): each has its own here.
            busy = self.parallel is not None and self.parallel is not parallel
            idle = self._idle if idle is None else idle
            if busy or pool is not None and pool is not self._pool:
                raise FallbackToBackend(
                    SchwimmbadBackend(self.nesting_level, self.inner_max_num_threads, pool or self._pool, idle)
                )
            self.parallel = parallel
            self._idle = idle
        try:
            count = self.effective_n_jobs(n_jobs)
            if count == 1 and self._pool is None:
                raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
            if self._pool is not None:
                self._pool._check_open()
                if not parallel_is_ordered(parallel) and not _may_use_threads(self._pool._runner):
                    raise PoolUnavailable(
                        "return_as='generator_unordered' needs a thread, and MPI has been started so that no thread but one may use it "
                        "(mpi4py.rc.threads = False); return_as='generator' works"
                    )
            self._options = options
            self._n_jobs = count
            self.supports_retrieve_callback = not parallel_is_ordered(parallel)
        except BaseException:  # raised on, Ctrl-C too: joblib asks a backend that has a `parallel` to end it
            self.parallel = None
            raise
        return count

    def get_nested_backend(self) -> Any:
        """What calls of joblib inside a task use: threads in the first level, as with joblib's own process backends."""
        if self._nested is None:  # joblib asks for each batch
            self._nested = super().get_nested_backend()
        return self._nested

    # ---- work ----------------------------------------------------------------------------------------------

    def start_call(self) -> None:
        """A call of the Parallel object begins."""
        # joblib (1.2 to 1.6) leaves batches of a call that failed in its queue, and the next call of the same object would run them and
        # return their results among its own.
        left = getattr(self.parallel, "_ready_batches", None)
        while left is not None and not left.empty():
            left.get_nowait()
        if self._session is not None:
            self._session.begin()

    def compute_batch_size(self) -> int:
        """How many calls the next batch should have."""
        return self._open().batch_size()

    def submit(self, func: Any, callback: Callable[[Any], Any] | None = None) -> Result:
        """Take a batch; see `Result`."""
        items = getattr(func, "items", None)
        if type(items) is list:
            return self._open().submit(items, callback)
        return self._open().submit([(func, (), {})], callback, single=True)

    apply_async = submit  # its name up to joblib 1.4

    def retrieve_result(self, out: Result | None, timeout: float | None = None) -> Any:
        """Wait for a batch's results. None: a batch that joblib knows to have failed."""
        return None if out is None else out.get(timeout)

    def retrieve_result_callback(self, out: Result) -> Any:
        """The results of a batch that is done."""
        return out.value()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the tasks under way; workers that run some are replaced."""
        self._close(kill=True)

    def terminate(self) -> None:
        """The Parallel object is done; the workers stay."""
        self._close(kill=False)
        self.parallel = None

    def _open(self) -> Session:
        if self._session is None:
            runner, workers, threads = self._workers()
            options = self._options
            size = options.get("max_nbytes") if options.get("mmap_mode") == "r" else None
            encoder = BatchEncoder(runner.snapshot, size, not hasattr(runner, "link"))
            background = bool(getattr(self.parallel, "return_generator", False)) and _may_use_threads(runner)
            self._session = Session(
                runner, workers, self._n_jobs, self.get_nested_backend(), threads, encoder, background,
                self.supports_retrieve_callback,
            )  # fmt: skip
        return self._session

    def _workers(self) -> tuple[Any, int, int | None]:
        """The runner, how many workers it has, and the limit that has yet to be set for the libraries' threads there."""
        if self._pool is None:
            environ = {k: v for k, v in self._prepare_worker_env(self._n_jobs).items() if os.environ.get(k) != v}
            self._standing = _joblib_pool.take(self._n_jobs, environ, self._idle)
            return self._standing.runner, self._standing.workers, None
        threads = self.inner_max_num_threads
        if threads is not None and importlib.util.find_spec("threadpoolctl") is None:
            raise ImportError(
                "inner_max_num_threads on the workers of a pool that exists already needs threadpoolctl: pip install threadpoolctl"
            )
        return self._pool._runner, _size(self._pool), threads

    def _close(self, kill: bool) -> None:
        session, self._session = self._session, None
        standing, self._standing = self._standing, None
        try:
            if session is not None:
                session.close(kill)
        finally:
            if standing is not None:
                standing.give_back()


def parallel_is_ordered(parallel: Any) -> bool:
    """Whether joblib takes results in the order of the batches."""
    return bool(getattr(parallel, "return_ordered", True))


def _may_use_threads(runner: Any) -> bool:
    link = getattr(runner, "link", None)
    if link is None:
        return True
    from ._ranks import SERIALIZED

    return bool(link.job.level >= SERIALIZED)


def _checked(pool: Any) -> Any:
    if pool is not None and not hasattr(pool, "_runner"):
        raise TypeError(f"pool must be a MultiPool, an MPIPool or a JoblibPool with processes, not {pool!r:.60}")
    return pool


def _size(pool: Any) -> int:
    """How many workers a pool has; JoblibPool's size is 0, as in schwimmbad."""
    return int(pool.size or pool._runner.workers)


def _own_options(options: dict[str, Any]) -> tuple[Any, float | None]:
    """Take this backend's own options out of what `joblib.Parallel` was given."""
    pool = _checked(options.pop("pool", None))
    idle = options.pop("idle_worker_timeout", None)
    unknown = sorted(set(options) - _STANDARD)
    if unknown:
        raise TypeError(f"neither joblib.Parallel nor its schwimmbad backend has an option {unknown[0]!r}")
    return pool, None if idle is None else float(idle)


def register(make_default: bool) -> None:
    """See `schwimmbad_go.register_joblib_backend`."""
    register_parallel_backend(NAME, SchwimmbadBackend, make_default=make_default)


@contextlib.contextmanager
def as_backend(pool: BasePool, n_jobs: int = -1, **options: Any) -> Iterator[BasePool]:
    """Within a ``with`` block, run what uses joblib on the workers of a pool, which stays open.

    Parameters
    ----------
    pool : MultiPool, MPIPool or JoblibPool
    n_jobs : int
        What ``n_jobs=None`` means; all workers by default.
    **options
        Of `joblib.parallel_config`: inner_max_num_threads, max_nbytes and so on.

    Yields
    ------
    BasePool
        The pool.
    """
    threads = options.pop("inner_max_num_threads", None)
    with _ENTER(SchwimmbadBackend(inner_max_num_threads=threads, pool=pool), n_jobs=n_jobs, **options):
        yield pool
