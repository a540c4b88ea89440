"""Starting workers: a fork of the user's Python, or fresh interpreters. A fork server is in `_served`.

Fork is the default on Linux: half of the public code relies on workers seeing what was set before the pool was made. The
other two start clean; their workers get functions of ``__main__`` by value and never import the script again, so an
unguarded script does not multiply itself.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

from . import _engine, _worker
from . import _layout as L
from . import error as _error

if TYPE_CHECKING:
    from ._children import Children

METHODS: Final = ("fork", "forkserver", "spawn")


def method_of(context: Any, start_method: str | None) -> str:
    """The start method that the constructor's arguments ask for.

    Parameters
    ----------
    context : None, str, or a context of multiprocessing or multiprocess
    start_method : str or None

    Raises
    ------
    TypeError, ValueError
        Not a context; no such method.
    """
    if context is not None and start_method is not None:
        raise ValueError("give context= or start_method=, not both: each says how workers start")
    asked: Any = start_method if start_method is not None else context
    if asked is None:
        return "fork" if sys.platform.startswith("linux") else "spawn"
    if not isinstance(asked, str):
        get = getattr(asked, "get_start_method", None)
        if get is None:
            raise TypeError(f"context must be a start method or a multiprocessing context, not {asked!r}")
        # The plain context answers with the package's default, which is forkserver from 3.14 on: ours is fork.
        name = type(asked).__name__
        asked = "fork" if name == "DefaultContext" else get()
    if asked not in METHODS:
        raise ValueError(f"cannot find context for {asked!r}; start methods are {', '.join(METHODS)}")
    return str(asked)


class Initializer:
    """What a worker runs before its first task."""

    def __init__(self, func: Callable[..., Any] | None, args: tuple[Any, ...]) -> None:
        self.func = func
        self.args = args


def unnamed_processes() -> list[tuple[Any, Any]]:
    """Each package that has a ``current_process()``, and what that will be in a worker. Made before the fork: in a fresh child it takes
    longer than all the rest of `name_process`."""
    found = []
    for package in ("multiprocessing", "multiprocess"):
        process: Any = sys.modules.get(f"{package}.process")
        if process is not None:
            me = object.__new__(process.BaseProcess)  # its __init__ counts the processes that the user has made
            vars(me).update(_config=process._current_process._config.copy(), _popen=None, _closed=False)
            found.append((process, me))
    return found


def name_process(prefix: str, number: int, unnamed: list[tuple[Any, Any]] | None = None) -> None:
    """Make ``multiprocessing.current_process()`` say which worker this is, in both packages of that name."""
    for process, me in unnamed_processes() if unnamed is None else unnamed:
        me._name = f"{prefix}-{number}"
        me._identity = (number,)
        me._parent_pid = os.getppid()
        process._current_process = me
        process._children = set()
        util: Any = sys.modules.get(f"{process.__package__}.util")
        if util is not None:  # finalizers of the master's are not this process's to run
            util._finalizer_registry.clear()
            if len(util._afterfork_registry):
                util._run_after_forkers()


def quiet_fork(lib: Any = None) -> Callable[[], int]:
    """``os.fork`` without its warning about threads, which are the engine's and idle: a function to be called as often as wanted.

    From Python 3.12 on os.fork() warns whenever a second thread exists. The library forks between the calls that os.fork makes before
    and after, so all hooks run as there. They must follow each other in C: a line of Python between them looks whether another thread
    wants the interpreter, and in the child lets go of it for good, to a thread that is not there.

    Parameters
    ----------
    lib
        The engine's library in this process; None: it is not here, and the warning is filtered out, which other threads may notice.
    """
    if sys.version_info < (3, 12) or sys.implementation.name != "cpython":
        return os.fork
    if lib is None:
        return _filtered_fork
    api = ctypes.pythonapi
    hooks = [ctypes.cast(f, ctypes.c_void_p) for f in (api.PyOS_BeforeFork, api.PyOS_AfterFork_Parent, api.PyOS_AfterFork_Child)]
    # As a function that keeps the interpreter's lock while it runs.
    call = ctypes.PYFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 3)(ctypes.cast(lib.swg_fork, ctypes.c_void_p).value or 0)

    def fork() -> int:
        pid: int = call(*hooks)
        if pid < 0:
            raise OSError(-pid, os.strerror(-pid))
        return pid

    return fork


def _filtered_fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


@contextmanager
def no_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back: the terminal sends it to a child that has just been forked as well, and there it would be raised in the middle
    of the hooks that run after a fork. A child lets go of it when it ignores it (`_worker.start`)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def launch_variables() -> list[str]:
    """The variables by which an MPI launcher made this process, or an ancestor, a rank."""
    if not any(name.startswith(("OMPI_", "PMI", "PRTE_", "SLURM_", "HYD", "MV2_")) for name in os.environ):
        return []
    from . import _launcher

    return sorted(set(os.environ) - set(_launcher.scrubbed()))


def leave_launch(variables: list[str] | None = None) -> None:
    """In a worker process: drop them (None: look for them). A child that starts MPI with them ends in MPI_Init; without them it is a run
    of its own."""
    for name in launch_variables() if variables is None else variables:
        del os.environ[name]


class ForkStarter:
    """Forks workers from this process, as it is at that moment."""

    prefix = "ForkPoolWorker"

    def __init__(self, engine: _engine.Engine, initializer: Initializer) -> None:
        import multiprocessing.process  # noqa: F401  (so that a worker can say its name there)

        self.engine = engine
        self.initializer = initializer
        self.started = 0
        self.children: Children | None = None  # to be waited for here: the engine does, where it is in this process
        if not engine.lib.in_process:
            from ._children import Children

            self.children = Children()

    def start(self, *indices: int) -> None:
        """Start these workers.

        Between two forks runs as little as possible: of each page that this process writes then it has to make a copy. To fork eight
        workers and tell the engine of each in turn took 13 ms of CPU here, this takes 7. What a worker is made of is there before: a child
        would touch more pages to make it.
        """
        engine = self.engine
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # or the child would print what is buffered again
        launch = launch_variables()  # looked for here, where the caches are warm: in a fresh child it takes 0.4 ms
        fork = quiet_fork(engine.lib if engine.lib.in_process else None)
        unnamed = unnamed_processes()
        workers = [_worker.Worker(_worker.Channel(index, engine.arena, engine.worker_fds), here=False) for index in indices]
        pids: list[int] = []
        try:
            with _engine.forking_worker(engine), no_interrupt():
                for worker in workers:
                    pid = fork()
                    if pid == 0:
                        self._child(worker, self.started + len(pids) + 1, launch, unnamed)
                    pids.append(pid)
        except BaseException:  # a failed fork or a signal's handler; raised on, but in a child, on its way to `_child`
            if os.getpid() != engine.owner:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            raise
        finally:  # if one could not be forked, the others are there all the same
            self.started += len(pids)
            self._attach(zip(indices, pids, strict=False))

    def _attach(self, started: Iterable[tuple[int, int]]) -> None:
        """Tell the engine of workers. One whose end it cannot watch, or that comes after the pool's end, must not run."""
        failure: _error.PoolError | None = None
        for index, pid in started:
            if self.children is not None:
                self.children.add(pid)
            try:
                self.engine.attach(index, pid, True)
            except _error.PoolError as error:
                failure = failure or error
                with suppress(ProcessLookupError, ChildProcessError):  # it may have ended, and somebody else waited for it
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
        if failure is not None:
            raise failure

    def _child(self, worker: _worker.Worker, number: int, launch: list[str], unnamed: list[tuple[Any, Any]]) -> NoReturn:
        try:
            leave_launch(launch)
            name_process(self.prefix, number, unnamed)
            _worker.start(worker, self.initializer.func, self.initializer.args)
        except BaseException:  # nothing may return into the master's code in this process
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(1)

    def exit_code(self, pid: int) -> int | None:
        """The engine collects the status of this process's children, where it can."""
        return None if self.children is None else self.children.exit_code(pid)

    def close(self) -> None:
        """The workers have ended."""
        if self.children is not None:
            self.children.close()


def fresh(function: str, extra: str = "") -> list[str]:
    """Arguments of a fresh interpreter that runs a function of this package."""
    import subprocess

    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    module, name = function.rsplit(".", 1)
    code = f"import sys; sys.path.insert(0, {root!r}); from {module} import {name}; {name}({extra})"
    return [sys.executable, *flags, "-c", code]


def spawn_command() -> list[str]:
    """What the engine starts as a spawned worker."""
    return fresh("schwimmbad_go._worker.main")


def write_setup(engine: _engine.Engine, prefix: str, initializer: bytes) -> None:
    """Leave in shared memory what a fresh worker reads first."""
    packages = [p for p in ("multiprocessing", "multiprocess") if f"{p}.process" in sys.modules]
    data = pickle.dumps((prefix, sys.path, sys.argv, packages, initializer), 5)
    write_setup_frame(engine, data)


def write_setup_frame(engine: _engine.Engine, data: bytes) -> None:
    """Leave pickled bytes where workers look for their set-up."""
    frame = blob_frame(data)
    at = engine.check(engine.lib.swg_alloc(engine.handle, len(frame)))
    engine.arena[at : at + len(frame)] = frame
    engine.check(engine.lib.swg_set_setup(engine.handle, at))


def blob_frame(data: bytes) -> bytes:
    """A frame around pickled bytes."""
    return L.FRAME.pack(L.MAGIC, L.TYPE_BLOB, L.PICKLE, 0, 0, 0, 0, 0, 0, 0, len(data), 0, 0, 0, 0, 0) + data


def enter(setup: Any, index: int) -> tuple[Callable[..., Any] | None, tuple[Any, ...]]:
    """In a fresh worker: take over the master's path and arguments, return the initializer."""
    if setup is None:
        return None, ()
    prefix, path, argv, packages, initializer = setup
    sys.path[:] = path
    sys.argv[:] = argv
    for package in {"multiprocessing", *packages}:  # so that the worker can say its name there
        importlib.import_module(f"{package}.process")
    name_process(prefix, index + 1)
    func, args = pickle.loads(initializer)
    return func, args
