"""Starting workers: fork of the user's Python, a fork server, or fresh interpreters.

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
import socket
import stat
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

from . import _engine, _worker
from . import _layout as L
from . import error as _error

if TYPE_CHECKING:
    from ._children import Children

METHODS: Final = ("fork", "forkserver", "spawn")
_REQUEST: Final = struct.Struct("<cq")
_REPLY: Final = struct.Struct("<qq")
_UNKNOWN: Final = 1 << 20  # no exit code


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
        except BaseException:
            if os.getpid() != engine.owner:  # a signal's handler, on the child's way to `_child`
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            raise
        finally:  # if one could not be forked, the others are there all the same
            self.started += len(pids)
            self._attach(zip(indices, pids, strict=False))

    def _attach(self, started: Iterable[tuple[int, int]]) -> None:
        """Tell the engine of workers. One whose end it cannot watch must not run."""
        failure: _error.EngineError | None = None
        for index, pid in started:
            if self.children is not None:
                self.children.add(pid)
            try:
                self.engine.attach(index, pid, True)
            except _error.EngineError as error:
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


def _code(function: str, extra: str = "") -> list[str]:
    """Arguments of a fresh interpreter that runs a function of this package."""
    import subprocess

    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    module, name = function.rsplit(".", 1)
    code = f"import sys; sys.path.insert(0, {root!r}); from {module} import {name}; {name}({extra})"
    return [sys.executable, *flags, "-c", code]


def spawn_command() -> list[str]:
    """What the engine starts as a spawned worker."""
    return _code("schwimmbad_go._worker.main")


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


class ServedStarter:
    """Lets another process fork workers: one with a single thread, from which a fork is safe."""

    prefix = "ForkServerPoolWorker"
    socket: socket.socket
    pid: int  # of that process

    def __init__(self) -> None:
        self.started = 0
        self.lock = threading.Lock()
        self.engine: _engine.Shared | None = None

    def connect(self, engine: _engine.Shared) -> None:
        """From now on workers are those of this engine. The descriptors go over the socket: inherited ones would keep their
        numbers, which may be anything there."""
        self.engine = engine
        socket.send_fds(self.socket, [_REQUEST.pack(b"F", 0)], list(engine.worker_fds))
        engine.add_master_fd(self.socket.fileno())

    def start(self, index: int) -> int:
        """Start worker `index`; returns its pid."""
        assert self.engine is not None
        self.started += 1
        pid = self.ask(b"S", index | self.number(index) << 32)
        self.engine.attach(index, pid, False)
        return pid

    def number(self, index: int) -> int:
        """What the worker's name ends with; counted through, as multiprocessing does."""
        return self.started

    def ask(self, what: bytes, value: int) -> int:
        """One request and its answer."""
        try:
            with self.lock:  # or two threads would get each other's replies: a stranger would be taken for a worker, and killed
                self.socket.sendall(_REQUEST.pack(what, value))
                reply = self.socket.recv(_REPLY.size, socket.MSG_WAITALL)
        except OSError as error:
            raise self._gone() from error
        if len(reply) < _REPLY.size:
            raise self._gone()
        value, code = _REPLY.unpack(reply)
        if code:
            raise OSError(code, f"the fork server cannot start a worker: {os.strerror(code)}")
        return int(value)

    def _gone(self) -> _error.EngineError:
        return _error.EngineError(f"the fork server (pid {self.pid}) has ended; make a new pool")

    def exit_code(self, pid: int) -> int | None:
        """Exit code of a worker that is dead: it is the server's child, so the server knows."""
        try:
            code = self.ask(b"W", pid)
        except (OSError, _error.EngineError):
            return None
        return None if code == _UNKNOWN else code

    def close(self) -> None:
        """End the server. Repeatable."""
        if self.socket.fileno() >= 0:
            # Not close() alone: the server sees the end of the stream even if some other process has inherited our end.
            self.socket.shutdown(socket.SHUT_RDWR)
            if self.engine is not None:
                self.engine.drop_master_fd(self.socket.fileno())
            self.socket.close()
        self.reap()

    def reap(self) -> None:
        """Wait for the server's end."""
        raise NotImplementedError


class ForkServerStarter(ServedStarter):
    """Forks workers from a fresh, single-threaded interpreter beside this process.

    Parameters
    ----------
    engine : Engine
    environ : mapping, optional
        Variables that it and the workers have besides the inherited ones, from their start on.
    """

    def __init__(self, engine: _engine.Engine, environ: Mapping[str, str] | None = None) -> None:
        import subprocess

        super().__init__()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self.process = subprocess.Popen(
                _code("schwimmbad_go._start.serve_forks", str(theirs.fileno())), pass_fds=(theirs.fileno(),),
                env=None if environ is None else {**os.environ, **environ},
            )  # fmt: skip
            self.pid = self.process.pid
            self.socket = ours.dup()
        self.connect(engine)

    def reap(self) -> None:
        """Wait for the server's end."""
        self.process.wait()


class Zygote(ServedStarter):
    """Forks workers from a copy of this process as it was before MPI: with the script's state, without anything of MPI's.

    MPI promises nothing for a child that is forked after MPI_Init, and a worker that replaces a dead one has to come from
    somewhere. Call it before MPI is started.

    Parameters
    ----------
    initializer : Initializer
        For workers of the first pool; those of later ones find theirs in the shared memory.
    """

    prefix = "MPIPoolWorker"

    def __init__(self, initializer: Initializer) -> None:
        import multiprocessing.process  # noqa: F401  (so that a worker can say its name there)

        super().__init__()
        ours, theirs = socket.socketpair()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # or the copy would print what is buffered again
        self.owner = os.getpid()
        with no_interrupt():
            self.pid = quiet_fork()()
            if self.pid == 0:
                try:
                    _become_zygote(theirs)
                    serve_requests(theirs, self.prefix, initializer)
                except BaseException:  # nothing may return into the script in this process
                    sys.excepthook(*sys.exc_info())
                finally:
                    os._exit(1)
        theirs.close()
        self.socket = ours
        self.workers: set[int] = set()  # pids, of the pool that is open
        self.before = 0  # workers of the ranks before this one

    def number(self, index: int) -> int:
        """Its place among the workers of all ranks: programs seed by it."""
        return self.before + index + 1

    def start(self, index: int) -> int:
        """Start worker `index`; returns its pid."""
        pid = super().start(index)
        self.workers.add(pid)
        return pid

    def forget_workers(self) -> None:
        """The workers have died: let the zygote see to it, which does nothing unasked. They would be zombies until the next pool."""
        while self.workers:
            self.exit_code(self.workers.pop())

    def reap(self) -> None:
        """Wait for the zygote's end."""
        if self.owner == os.getpid() and self.pid:
            try:
                os.waitpid(self.pid, 0)
            except ChildProcessError:  # somebody else's wait() took it
                pass
            self.pid = 0


def _become_zygote(own: socket.socket) -> None:
    """Keep nothing of the launcher's: a child that has its variables and starts MPI ends there, and its pipes and sockets would
    keep it waiting for a process that is no rank."""
    leave_launch()
    for entry in os.listdir("/proc/self/fd"):
        fd = int(entry)
        if fd <= 2 or fd == own.fileno():
            continue
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                os.close(fd)
        except OSError:  # the directory's own descriptor
            continue


def serve_forks(fd: int) -> NoReturn:
    """The fork server's entry: a fresh interpreter with a socket to its master."""
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    leave_launch()
    serve_requests(sock, ForkServerStarter.prefix, None)


def serve_requests(sock: socket.socket, prefix: str, initializer: Initializer | None) -> NoReturn:
    """Fork workers, one request at a time, until the master closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import mmap

    fds: list[int] = []
    arena = memoryview(b"")
    ended: dict[int, int] = {}  # exit codes nobody has asked for yet
    while True:
        try:
            request, received, _, _ = socket.recv_fds(sock, _REQUEST.size, 4)
        except ConnectionResetError:
            request = b""
        if len(request) < _REQUEST.size:  # requests are small: they come whole
            os._exit(0)
        what, value = _REQUEST.unpack(request)
        if what == b"F":  # the workers of another engine, from now on
            for fd in fds:
                os.close(fd)
            fds = list(received)
            for fd in fds:
                os.set_inheritable(fd, False)
            arena = memoryview(mmap.mmap(fds[-1], 0)).cast("B")
            if initializer is None:
                _worker.follow_master(fds[2])
            continue
        _reap(ended, value if what == b"W" else 0)
        if what == b"W":
            sock.sendall(_REPLY.pack(ended.pop(value, _UNKNOWN), 0))
            continue
        if what == b"R":  # the rank that the workers belong to, which nobody knew before MPI was there
            from . import _errors

            _errors.rank, _errors.host = value, socket.gethostname()
            sock.sendall(_REPLY.pack(0, 0))
            continue
        try:
            pid = os.fork()
        except OSError as error:
            sock.sendall(_REPLY.pack(0, error.errno or 1))
            continue
        if pid == 0:
            sock.close()
            _forked(value & 0xFFFFFFFF, value >> 32, arena, fds, prefix, initializer)
        sock.sendall(_REPLY.pack(pid, 0))


def _reap(ended: dict[int, int], asked: int) -> None:
    """Collect the workers that have died. The engine has seen the death of one it asks about, so that one is here, or about to
    be: the kernel tells of a death a moment before the status can be had."""
    while True:
        try:
            pid, status = os.waitpid(asked if asked and asked not in ended else -1, 0 if asked and asked not in ended else os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        ended[pid] = os.waitstatus_to_exitcode(status)


def _forked(
    index: int, number: int, arena: memoryview, fds: list[int], prefix: str, own: Initializer | None
) -> NoReturn:
    try:
        channel = _worker.Channel(index, arena, fds)
        try:
            setup = pickle.loads(channel.setup() or b"N.")
            initializer: Callable[..., Any] | None
            if own is not None and setup is None:  # as the script said before the fork
                name_process(prefix, number)
                initializer, initargs = own.func, own.args
            elif own is not None:
                name_process(prefix, number)
                initializer, initargs = setup
            else:
                initializer, initargs = enter(setup, number - 1)
        except Exception as error:  # the user's initializer is being unpickled
            from . import _errors

            _worker.fail_start(channel, _errors.make_record(error, _errors.READ))
        _worker.start(_worker.Worker(channel, here=False), initializer, initargs)
    except BaseException:  # nothing may return into the server's loop in this process
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(1)
