"""Processes that fork workers on request: a fork server, which starts clean, and the zygote of an MPI rank, a copy of the script.

They have one thread, so that a fork is safe, and speak on a stream socket: see the end of "Between MPI ranks" in docs/PROTOCOL.md.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from . import _engine, _worker
from . import error as _error
from ._start import Initializer, enter, fresh, leave_launch, name_process, no_interrupt, quiet_fork

_REQUEST: Final = struct.Struct("<cq")
_REPLY: Final = struct.Struct("<qq")
_UNKNOWN: Final = 1 << 20  # no exit code


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
                fresh("schwimmbad_go._served.serve_forks", str(theirs.fileno())), pass_fds=(theirs.fileno(),),
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
