"""The binding to the engine: finding and loading the library, calls, codes to exceptions.

One library per process, loaded when the first pool is made, never at import. A forked child must not call it: the Go
runtime in it does not survive a fork, so the child's binding is dead and says so.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from . import _inherited, _program
from . import _layout as L
from . import error as _error

_CODES: Final = {
    -1: "internal", -2: "handle", -3: "argument", -4: "memory", -5: "system", -6: "init", -7: "start", -8: "terminated",
    -9: "unsupported", -10: "ports", -11: "mpi", -12: "lost",
}  # fmt: skip
INIT: Final = -6
START: Final = -7
TERMINATED: Final = -8
LOST: Final = -12


class _Config(ctypes.Structure):
    _fields_ = (
        ("abi", ctypes.c_uint32), ("workers", ctypes.c_uint32), ("arena_bytes", ctypes.c_uint64),
        ("max_tasks", ctypes.c_uint64), ("command", ctypes.c_char_p),
    )  # fmt: skip


class _Info(ctypes.Structure):
    _fields_ = (
        ("address", ctypes.c_uint64), ("length", ctypes.c_uint64), ("worker_fds", ctypes.c_int32 * 4),
        ("master_fds", ctypes.c_int32 * 6),
    )  # fmt: skip


class MPIInfo(ctypes.Structure):
    """What is known of MPI in this process."""

    _fields_ = (
        ("initialized", ctypes.c_int32), ("finalized", ctypes.c_int32), ("level", ctypes.c_int32), ("main_thread", ctypes.c_int32),
        ("rank", ctypes.c_int32), ("size", ctypes.c_int32), ("version", ctypes.c_char * 256),
    )  # fmt: skip


class Peer(ctypes.Structure):
    """What another rank told about itself."""

    _fields_ = (("pid", ctypes.c_int32), ("workers", ctypes.c_int32), ("host", ctypes.c_char * 256))


class Desk(ctypes.Structure):
    """A rank's place among the workers of rank 0's machine, with descriptors of its own."""

    _fields_ = tuple((name, ctypes.c_int32) for name in ("index", "work", "answer", "memory"))


_STATS: Final = (
    "tasks", "chunks", "retries", "lost", "retired", "bytes_in", "bytes_out", "busy_nanos", "workers", "in_flight", "jobs",
)  # fmt: skip


class _Stats(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in _STATS)


_I32, _I64, _U64, _P = ctypes.c_int32, ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p
# Return type and argument types, as in schwimmbad.h; a test compares them with the header.
SIGNATURES: Final[dict[str, tuple[Any, ...]]] = {
    "swg_abi": (_I32,),
    "swg_version": (ctypes.c_char_p,),
    "swg_last_error": (ctypes.c_char_p,),
    "swg_code_name": (ctypes.c_char_p, _I32),
    "swg_open": (_I64, ctypes.POINTER(_Config)),
    "swg_start": (_I32, _I64),
    "swg_get_info": (_I32, _I64, ctypes.POINTER(_Info)),
    "swg_get_stats": (_I32, _I64, ctypes.POINTER(_Stats)),
    "swg_attach": (_I32, _I64, _I32, _I32, _I32),
    "swg_worker_pid": (_I32, _I64, _I32),
    "swg_kill": (_I32, _I64, _I32, _I32),
    "swg_set_setup": (_I32, _I64, _U64),
    "swg_close": (_I32, _I64),
    "swg_terminate": (_I32, _I64),
    "swg_join": (_I32, _I64, _I32),
    "swg_free": (_I32, _I64),
    "swg_alloc": (_I64, _I64, _U64),
    "swg_release": (_I32, _I64, _U64),
    "swg_same": (_I32, _I64, _U64, _P, _U64),
    "swg_copy": (_I32, _I64, _U64, _P, _U64),
    "swg_port_open": (_I64, _I64, ctypes.POINTER(_U64)),
    "swg_port_close": (_I32, _I64),
    "swg_begin": (_I64, _I64),
    "swg_step": (_I32, _I64, _I32, _I32),
    "swg_grow": (_I64, _I64, _I32, _U64),
    "swg_cancel": (_I32, _I64, _I64, _I32),
    "swg_requeue": (_I32, _I64, _I64, _I32, _U64, _U64),
    "swg_reject": (_I32, _I64, _I64),
    "swg_kick": (_I32, _I64),
    "swg_mpi_look": (_I32, ctypes.POINTER(MPIInfo)),
    "swg_mpi_start": (_I32,),
    "swg_mpi_stop": (_I32,),
    "swg_mpi_abort": (_I32, _I32),
    "swg_comm_open": (_I64, _I32, _I32),
    "swg_comm_ready": (_I32, _I64, _I32),
    "swg_comm_rank": (_I32, _I64),
    "swg_comm_size": (_I32, _I64),
    "swg_comm_broken": (_I32, _I64),
    "swg_comm_peer": (_I32, _I64, _I32, ctypes.POINTER(Peer)),
    "swg_comm_exit": (_I32, _I64, _I32),
    "swg_unsent": (_I32, _I64),
    "swg_buffer_free": (_I32, _P),
    "swg_fork": (_I32, _P, _P, _P),
    "swg_open_ranks": (_I64, ctypes.POINTER(_Config), _I64, _I32, _P, _U64),
    "swg_rank_open": (_I64, _I64, ctypes.POINTER(_Config)),
    "swg_rank_get_info": (_I32, _I64, ctypes.POINTER(_Info)),
    "swg_rank_attach": (_I32, _I64, _I32, _I32, _I32),
    "swg_rank_server": (_I32, _I64, _I32),
    "swg_rank_desk": (_I32, _I64, ctypes.POINTER(Desk)),
    "swg_rank_hello": (_I32, _I64),
    "swg_rank_refuse": (_I32, _I64, _I32, ctypes.c_char_p, _U64),
    "swg_rank_next": (_I64, _I64, _U64),
    "swg_rank_look": (_I32, _I64),
    "swg_rank_close": (_I32, _I64),
}

_lock = threading.Lock()
_fork_lock = threading.Lock()
_library: Any = None
_mpi_library: Any = None
_engines: weakref.WeakSet[Shared] = weakref.WeakSet()
_forking: Shared | None = None  # whose worker the child of the fork under way will be


def library_path() -> Path:
    """Where the engine's library lies; ``SCHWIMMBAD_GO_LIBRARY`` names another file."""
    named = os.environ.get("SCHWIMMBAD_GO_LIBRARY")
    if named:
        return Path(named)
    suffix = "dylib" if sys.platform == "darwin" else "so"
    return Path(__file__).with_name("_lib") / f"libschwimmbad.{suffix}"


def library() -> Any:
    """The loaded library. Raises EngineError where it is missing, does not load, or speaks another protocol."""
    global _library
    with _lock:
        if isinstance(_library, _DeadLibrary):
            _library()  # raises
        if _library is None:
            if _inherited.fd is None and in_program():
                _inherited.own(_program.start_engine())
            _library = _load(library_path()) if _inherited.fd is None else _connect(_inherited.fd)
        return _library


def origin() -> Path:
    """Where the engine comes from: the library, or the program that hosts it."""
    return _program.path() if in_program() else library_path()


def in_program() -> bool:
    """Whether this installation has its engine in the program ``schwimmbad-go`` alone."""
    return not library_path().exists() and "SCHWIMMBAD_GO_LIBRARY" not in os.environ and os.access(_program.path(), os.X_OK)


def mpi_library(family: str) -> Any:
    """The library with MPI, for the MPI library of this family, which must have been loaded. It serves all pools from then on,
    unless the plain one was loaded before it: each then keeps its own.

    Raises EngineError where it was not built.
    """
    global _library, _mpi_library
    with _lock:
        if isinstance(_mpi_library, _DeadLibrary):
            _mpi_library()  # raises
        if _mpi_library is None:
            path = library_path()
            path = path.with_name(f"{path.stem}_{family}{path.suffix}")
            if not path.exists():
                if _inherited.fd is not None or in_program():
                    raise _error.EngineError(
                        "an engine over a socket has no MPI: it runs in the process that loads its library. Use a "
                        "Python into which schwimmbad-go is installed with pip, not one on a musl system, or MultiPool"
                    )
                raise _error.EngineError(
                    f"the engine was built without support for this MPI ({path} does not exist). Install its headers (mpi.h; "
                    "Debian: libopenmpi-dev or libmpich-dev), then schwimmbad-go again, from source"
                )
            _mpi_library = _load(path)
            _library = _library or _mpi_library
        return _mpi_library


def _connect(fd: int) -> Any:
    """The engine in the process that started this one."""
    if fd == _inherited.FORKED:
        raise _error.EngineError(
            "this process was forked from one whose engine is in another process, over a socket that is for that one alone. Make the pool "
            "there; here a SerialPool always works"
        )
    from ._engine_fd import Library

    return Library(fd)


def _load(path: Path) -> Any:
    if not path.exists():
        named = f"{_inherited.VARIABLE}={_inherited.stale}"
        why = f" ({named} was for the process that started this one, which has not passed the descriptor on.)" if _inherited.stale else ""
        raise _error.EngineError(
            f"the engine library {path} does not exist.{why} Install the package with pip (it builds the library; from a "
            "checkout: python tools/gobuild.py --inplace)"
        )
    try:
        lib: Any = ctypes.CDLL(str(path))
    except OSError as error:
        raise _error.EngineError(
            f"the engine library {path} does not load: {error}. A library built for another system or C library? "
            "Reinstall with pip install --force-reinstall --no-binary schwimmbad-go schwimmbad-go"
        ) from error
    for name, (result, *arguments) in SIGNATURES.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    lib.in_process = True
    if lib.swg_abi() != L.ABI:
        raise _error.EngineError(
            f"the engine library {path} speaks protocol {lib.swg_abi()}, this package ({__file__}) protocol {L.ABI}: two "
            "versions are mixed; reinstall schwimmbad-go"
        )
    return lib


class _DeadLibrary:
    """Stands in for the library in a forked child."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *_: Any) -> Any:
        raise _error.EngineError(
            "this process was forked from one that had a pool open, and the engine does not live on in a forked child. "
            'Make the pool after the fork, or start the outer pool\'s workers with start_method="forkserver" or "spawn"; '
            "inside a worker a SerialPool always works"
        )


def _after_fork() -> None:
    """In a forked child: the engine is dead here, and the master's ends of the pipes must not stay open, or the workers
    would not notice the master's death."""
    global _library, _mpi_library, _lock, _fork_lock
    _lock = threading.Lock()
    _fork_lock = threading.Lock()
    if _library is None:
        return
    _library = _DeadLibrary()
    _mpi_library = _mpi_library and _library
    for engine in list(_engines):
        engine.abandon(_library, keep_worker_ends=engine is _forking)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def dead() -> bool:
    """Whether this process was forked from one that had a pool: it cannot have one of its own."""
    return isinstance(_library, _DeadLibrary) or _inherited.fd == _inherited.FORKED


@contextmanager
def forking_worker(engine: Shared) -> Iterator[None]:
    """Around the fork of a worker: the child keeps this engine's worker ends."""
    global _forking
    with _fork_lock:
        _forking = engine
        try:
            yield
        finally:
            _forking = None


def check(lib: Any, code: int) -> int:
    """Pass a count on, turn a code into its exception."""
    if code >= 0:
        return code
    text = lib.swg_last_error().decode(errors="replace")
    if code == TERMINATED:
        raise _error.PoolClosed(text)
    if code == LOST:
        raise _error.RankLost(f"{text}. MPI cannot go on without it: save what you have; the job ends with an error")
    if _CODES.get(code) == "memory":
        raise MemoryError(text)
    raise _error.EngineError(f"{text} (engine error {_CODES.get(code, code)})")


class Shared:
    """What an engine and a serving rank have in common: memory and descriptors that they share with worker processes."""

    lib: Any
    handle: int

    def _open(self, lib: Any, handle: int, get_info: Any) -> None:
        self.lib = lib
        self.owner = os.getpid()
        self.handle = self.check(handle)
        info = _Info()
        self.check(get_info(self.handle, info))
        self.worker_fds: tuple[int, ...] = tuple(info.worker_fds)
        self.master_fds: tuple[int, ...] = tuple(fd for fd in info.master_fds if fd >= 0)
        memory = (ctypes.c_char * info.length).from_address(info.address)
        self.arena = memoryview(memory).cast("B")
        _engines.add(self)

    def check(self, code: int) -> int:
        """Pass a count on, turn a code into its exception."""
        return code if code >= 0 else check(self.lib, code)

    def attach(self, index: int, pid: int, child: bool) -> None:
        """Tell of a worker that was started; pid 0: it could not be."""
        raise NotImplementedError

    def abandon(self, dead: Any, keep_worker_ends: bool) -> None:
        """In a forked child: never call the library, close what belongs to the master and, unless the child is a worker
        of this pool, to the workers."""
        self.lib = dead
        for fd in self.master_fds if keep_worker_ends else self.master_fds + self.worker_fds:
            try:
                os.close(fd)
            except OSError:  # closed before the fork
                continue

    def add_master_fd(self, fd: int) -> None:
        """Another descriptor that no forked child may keep."""
        with _fork_lock:
            self.master_fds += (fd,)

    def drop_master_fd(self, fd: int) -> None:
        """It is about to be closed: its number may be anything from now on."""
        with _fork_lock:
            self.master_fds = tuple(n for n in self.master_fds if n != fd)

    def released(self) -> None:
        """The descriptors are closed. Under the fork lock."""
        self.master_fds = self.worker_fds = ()
        _engines.discard(self)


class Engine(Shared):
    """One open engine. Every method checks the returned code; a closed handle is an error, not a crash.

    Parameters
    ----------
    workers : int
        Processes on this machine.
    max_tasks : int
        A worker is replaced after so many; 0: never.
    command : list of str or None
        Starts a worker; None: the caller does.
    ranks : tuple or None
        For MPI: library, communicator's handle, worker processes per rank (0: the rank works itself), and the bytes of the ranks' set-up
        or None.
    """

    def __init__(
        self, workers: int, max_tasks: int, command: list[str] | None, ranks: tuple[Any, int, int, bytes | None] | None = None
    ) -> None:
        words = b"".join(os.fsencode(w) + b"\0" for w in command) + b"\0" if command else None
        config = _Config(L.ABI, workers, 0, max_tasks, words)
        self.starts = False  # the workers itself
        if ranks is None:
            lib = library()
            self.starts = bool(command) and lib.in_process
            if not self.starts:
                config.command = None
            handle = lib.swg_open(config)
        else:
            lib, comm, per_rank, setup = ranks
            handle = lib.swg_open_ranks(config, comm, per_rank, setup, len(setup or b""))
        self.ports: list[Port] = []
        self._open(lib, handle, lib.swg_get_info)
        self.crew: int = L.WORD32.unpack_from(self.arena, L.CTL_WORKERS)[0]  # workers that share the arena

    def attach(self, index: int, pid: int, child: bool) -> None:
        """Tell of a worker that was started; pid 0: it could not be."""
        self.check(self.lib.swg_attach(self.handle, index, pid, child))

    def abandon(self, dead: Any, keep_worker_ends: bool) -> None:
        """In a forked child. Ports have functions of the library at hand, which must not be called either."""
        super().abandon(dead, keep_worker_ends)
        for port in self.ports:
            port.begin = port.step = dead

    def adopt(self, address: int, nbytes: int) -> Any:
        """Memory of a result that lies outside of the arena, as an object that owns it."""
        block = (ctypes.c_char * nbytes).from_address(address)
        weakref.finalize(block, self.lib.swg_buffer_free, address).atexit = False
        return block

    def free(self) -> None:
        """Give memory and descriptors back. Their numbers may be anything from now on: no fork may run meanwhile."""
        with _fork_lock:
            self.check(self.lib.swg_free(self.handle))
            self.released()
            self.ports.clear()

    def stats(self) -> dict[str, int]:
        """Counters since the engine was opened."""
        out = _Stats()
        self.check(self.lib.swg_get_stats(self.handle, out))
        return {name: getattr(out, name) for name in _STATS}

    def open_port(self) -> Port:
        """An exchange area for one thread."""
        port = Port(self)
        self.ports.append(port)
        return port

    def address_range(self, data: memoryview) -> tuple[int, int]:
        """Address and length of a buffer that need not be writable."""
        view = _PyBuffer()
        ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), ctypes.byref(view), 0)
        address = view.buf or 0
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
        return address, data.nbytes


class Rank(Shared):
    """The serving end of an MPI rank other than 0.

    Parameters
    ----------
    lib
        The library.
    comm : int
        Handle of the communicator.
    workers : int
        Processes that run the tasks; 0: this one does.
    max_tasks : int
        A worker process is replaced after so many; 0: never.
    """

    def __init__(self, lib: Any, comm: int, workers: int, max_tasks: int) -> None:
        self._open(lib, lib.swg_rank_open(comm, _Config(L.ABI, workers, 0, max_tasks, None)), lib.swg_rank_get_info)

    def attach(self, index: int, pid: int, child: bool) -> None:
        """Tell of a worker that was started; pid 0: it could not be."""
        self.check(self.lib.swg_rank_attach(self.handle, index, pid, child))

    def free(self) -> None:
        """Give memory and descriptors back, and end the worker processes."""
        with _fork_lock:
            self.check(self.lib.swg_rank_close(self.handle))
            self.released()


class _PyBuffer(ctypes.Structure):
    """Py_buffer of the C API; only its first member is read."""

    _fields_ = (
        ("buf", ctypes.c_void_p), ("obj", ctypes.c_void_p), ("len", ctypes.c_ssize_t), ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int), ("ndim", ctypes.c_int), ("format", ctypes.c_void_p), ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p), ("suboffsets", ctypes.c_void_p), ("internal", ctypes.c_void_p),
    )  # fmt: skip


ctypes.pythonapi.PyObject_GetBuffer.argtypes = (ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
ctypes.pythonapi.PyBuffer_Release.argtypes = (ctypes.c_void_p,)
ctypes.pythonapi.PyBuffer_Release.restype = None


class Port:
    """One thread's exchange area: 64-bit words in shared memory, and the calls that go with them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.handle = 0
        lib = engine.lib
        self.step: Any = lib.swg_step  # (handle, submitted, wait)
        self.begin: Any = lib.swg_begin
        self.renew()

    def renew(self) -> None:
        """Begin anew, on another area: whatever the last call left in this one is cancelled."""
        engine, at = self.engine, _U64()
        if self.handle:
            engine.lib.swg_port_close(self.handle)  # it may be closed, if we were interrupted right here
        self.handle = engine.check(engine.lib.swg_port_open(engine.handle, at))
        self.at = at.value
        self.words = engine.arena[self.at : self.at + L.PORT_SIZE].cast("q")
        self.settled = True  # nothing of an earlier call can be left

    def grow(self, offer: int, nbytes: int) -> int:
        """A larger slot for an offer."""
        return self.engine.check(self.engine.lib.swg_grow(self.handle, offer, nbytes))

    def cancel(self, job: int, kill: bool) -> None:
        """Give a job up; with `kill` the workers that run its tasks are ended and replaced."""
        self.engine.check(self.engine.lib.swg_cancel(self.handle, job, kill))

    def requeue(self, chunk: int, split: bool, serial: int, at: int) -> None:
        """Offer the tasks of a chunk again."""
        self.engine.check(self.engine.lib.swg_requeue(self.handle, chunk, split, serial, at))

    def reject(self, chunk: int) -> None:
        """Let the first task of a chunk fail with the record the worker left."""
        self.engine.check(self.engine.lib.swg_reject(self.handle, chunk))

    def kick(self) -> None:
        """Make `step` return in the thread that waits there."""
        self.engine.check(self.engine.lib.swg_kick(self.handle))
