"""The binding to an engine in another process: the functions of the C library as requests over a socket.

Where no shared library can be had (a static binary, musl), the Go process that started this one hosts the engine. It is called
as the library is: an object with the same functions, made from the same table of signatures. Payloads do not go through the
socket: a pool's memory is passed as a descriptor and mapped here, so comparing and copying need no call. Workers are children
of this process and speak the protocol that they always speak.

Each call in progress has a connection of its own, passed to the engine over the inherited socket, so that no thread waits for
another one's reply. What is raised while a thread waits (Ctrl-C) takes the connection along: the engine then ends the wait, and
whoever uses the port next comes after it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

from . import _inherited
from . import _layout as L
from . import error as _error
from ._engine import _CODES, SIGNATURES, _Config, _Info

# By name, so that nobody has to know their numbers; tests compare with the engine's table.
HERE: Final = frozenset({"swg_last_error", "swg_same", "swg_copy"})
# MPI runs in the process that loaded its library, and workers are started by their parent, which is this process.
UNSUPPORTED: Final = frozenset(
    name for name in SIGNATURES if name.startswith(("swg_mpi_", "swg_comm_", "swg_rank_"))
) | {"swg_open_ranks", "swg_buffer_free", "swg_start"}  # fmt: skip
# They give something back. When the engine is gone, so is that.
DONE_BY_DEATH: Final = frozenset(
    {"swg_close", "swg_terminate", "swg_join", "swg_free", "swg_release", "swg_port_close", "swg_cancel", "swg_kick", "swg_worker_pid", "swg_unsent"}
)
_NUMBERS: Final = {name: code for code, name in _CODES.items()}
_KINDS: Final = {ctypes.c_int32: "i", ctypes.c_uint32: "I", ctypes.c_int64: "l", ctypes.c_uint64: "L"}
_REPLY: Final = 4096  # bytes; the longest are words of errors
_VALUE: Final = struct.Struct("<q")
_LENGTH: Final = struct.Struct("<Q")


class _Connection(socket.socket):
    """A stream of messages that is closed with its last reference."""

    __slots__ = ()

    def __init__(self, fd: int) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)

    def __del__(self) -> None:
        self.close()


class _Place:
    """What this process has of one engine: idle connections, and the arena."""

    def __init__(self, connection: _Connection) -> None:
        self.idle = [connection]
        self.closed = False
        self.base = self.length = 0
        self.fds: tuple[int, ...] = ()
        self.memory: mmap.mmap | None = None

    def close(self) -> None:
        """Give back what get_info brought. Nobody looks at the arena any more."""
        self.closed = True
        while self.idle:
            self.idle.pop().close()
        if self.memory is not None:
            self.memory.close()
        for fd in self.fds:
            os.close(fd)
        self.fds = ()


def kinds(name: str) -> str:
    """The arguments that a call sends, one letter each: i and I for 32 bits, signed and not, l and L for 64."""
    letters = ""
    for kind in SIGNATURES[name][1:]:
        if kind is ctypes.POINTER(_Config):
            letters += "".join(_KINDS[field] for _, field, *_ in _Config._fields_ if field in _KINDS)
        elif kind in _KINDS:
            letters += _KINDS[kind]
    return letters


def _request(name: str) -> Callable[..., bytes]:
    """Arguments to message."""
    sent = kinds(name)
    head = struct.pack("<BB", len(name), len(sent)) + name.encode()
    pack = struct.Struct("<" + "".join("Q" if kind.isupper() else "q" for kind in sent)).pack
    return lambda *arguments: head + pack(*arguments)


class Library:
    """The engine's functions; what `ctypes.CDLL` is for a library.

    Parameters
    ----------
    fd : int
        The socket to the engine's process.

    Raises
    ------
    EngineError
        It is no such socket, or the engine speaks another protocol.
    """

    in_process = False

    def __init__(self, fd: int) -> None:
        self._lock = threading.RLock()  # held while a descriptor is on its way, and over forks
        self._open: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self._places: dict[int, _Place] = {}  # by handle of an engine or a port
        self._said = threading.local()
        self._control = socket.socket(fileno=fd)
        if (self._control.family, self._control.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
            self._control.detach()
            raise _error.EngineError(f"descriptor {fd} is not the engine's socket: {_inherited.VARIABLE} is schwimmbad-go run's to set")
        # Of a socket pair, this is who made it.
        self.pid, _, _ = struct.unpack("3i", self._control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        os.register_at_fork(before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._forget)
        for name in SIGNATURES:
            if not hasattr(self, name):
                setattr(self, name, self._refused(name) if name in UNSUPPORTED else self._function(name))
        abi = self._once("swg_abi")[0]
        if abi != L.ABI:
            raise _error.EngineError(
                f"the engine in process {self.pid} speaks protocol {abi}, this package ({__file__}) protocol {L.ABI}: two versions "
                "are mixed"
            )

    def __getattr__(self, name: str) -> Any:  # for type checkers: __init__ sets them all
        raise AttributeError(name)

    # ---- connections ---------------------------------------------------------------------------------------

    def _connect(self) -> _Connection:
        with self._lock:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                connection = _Connection(ours.detach())
                self._open.add(connection)
                try:
                    socket.send_fds(self._control, [b"c"], [theirs.fileno()])
                except ConnectionError:  # the engine is gone; the first request finds that
                    pass
            return connection

    def _forget(self) -> None:
        """In a forked child: the sockets are the parent's alone. The mapping stays: a worker lives on it."""
        self._lock = threading.RLock()
        self._control.detach()  # closed by `_inherited`
        for connection in self._open:
            connection.close()

    def _ask(self, place: _Place, request: bytes, passes: bool = False) -> tuple[bytes, list[int]]:
        """One request and its reply; an empty one: the engine is gone."""
        fds: list[int] = []
        try:
            connection = place.idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            connection.send(request)
            if passes:
                reply, fds, _, _ = socket.recv_fds(connection, _REPLY, 4, socket.MSG_CMSG_CLOEXEC)
            else:
                reply = connection.recv(_REPLY)
        except OSError:
            reply = b""
        except BaseException:
            connection.close()
            raise
        if reply and not place.closed:
            place.idle.append(connection)
        else:
            connection.close()
        return reply, fds

    def _once(self, name: str, *arguments: int) -> tuple[int, bytes]:
        """A call that belongs to no engine."""
        place = _Place(self._connect())
        try:
            reply, _ = self._ask(place, _request(name)(*arguments))
        finally:
            place.close()
        return self._value(name, reply), reply[_VALUE.size :]

    def _value(self, name: str, reply: bytes) -> int:
        """The value of a reply. Words of an error are kept for this thread."""
        if not reply:
            if name in DONE_BY_DEATH:
                return 0
            return self._fail(
                "system",
                f"the engine's process (pid {self.pid}, schwimmbad-go) has ended, and the workers with it. Killed, or out of memory? "
                "Results that you have are complete; start the script again with schwimmbad-go run",
            )
        value: int = _VALUE.unpack_from(reply)[0]
        if value < 0:
            self._said.text = reply[_VALUE.size :]
        return value

    def _fail(self, code: str, words: str) -> int:
        self._said.text = words.encode()
        return _NUMBERS[code]

    # ---- functions -----------------------------------------------------------------------------------------

    def _function(self, name: str) -> Callable[..., int]:
        """A function as its signature says: the first argument is a handle, a pointer at the end is filled."""
        request, places, ask, value_of = _request(name), self._places, self._ask, self._value
        sent = len(kinds(name))
        fills = len(SIGNATURES[name]) - 1 > sent

        def call(*arguments: Any) -> int:
            place = places.get(arguments[0])
            if place is None:
                return self._fail("handle", f"handle {arguments[0]} is unknown or closed")
            reply, _ = ask(place, request(*arguments[:sent]))
            value = value_of(name, reply)
            if fills and value >= 0:
                out = arguments[sent]
                ctypes.memmove(ctypes.byref(out), reply[_VALUE.size :], ctypes.sizeof(out))
            return value

        call.__name__ = name
        return call

    def _refused(self, name: str) -> Callable[..., int]:
        return lambda *_: self._fail("unsupported", f"{name}: the engine in another process cannot do this")

    def swg_last_error(self) -> bytes:
        """Words of the last error of this thread."""
        return getattr(self._said, "text", b"")

    def swg_abi(self) -> int:
        """Number of the protocol."""
        return self._once("swg_abi")[0]

    def swg_version(self) -> bytes:
        """Version of the engine."""
        return self._once("swg_version")[1]

    def swg_code_name(self, code: int) -> bytes | None:
        """Name of a code."""
        return self._once("swg_code_name", code)[1] or None

    def swg_open(self, config: Any) -> int:
        """Open a pool; returns its handle."""
        if config is None:
            config = _Config()
        if config.command:
            return self._fail("argument", "the engine in another process starts no workers")
        place = _Place(self._connect())
        size = config.arena_bytes or _arena_bytes()
        reply, _ = self._ask(place, _request("swg_open")(config.abi, config.workers, size, config.max_tasks))
        handle = self._value("swg_open", reply)
        if handle < 0:
            place.close()
        else:
            self._places[handle] = place
        return handle

    def swg_get_info(self, handle: int, info: Any) -> int:
        """Map the arena, once; where it lies, and what workers inherit."""
        place = self._places.get(handle)
        if place is None:
            return self._fail("handle", f"handle {handle} is unknown or closed")
        if place.memory is None:
            reply, fds = self._ask(place, _request("swg_get_info")(handle), passes=True)
            code = self._value("swg_get_info", reply)
            if code < 0:
                return code
            place.fds = tuple(fds)
            if len(fds) < 4:
                return self._fail("system", "too few free descriptors for a pool: raise the limit (ulimit -n)")
            place.length = _LENGTH.unpack_from(reply, _VALUE.size)[0]
            try:
                place.memory = mmap.mmap(fds[3], place.length)
            except (OSError, ValueError) as error:
                return self._fail("memory", f"the arena of {place.length} bytes cannot be mapped: {error}; SCHWIMMBAD_GO_ARENA sets its size")
            if hasattr(mmap, "MADV_DONTDUMP"):
                place.memory.madvise(mmap.MADV_DONTDUMP)
            place.base = ctypes.addressof(ctypes.c_char.from_buffer(place.memory))
        info.address, info.length = place.base, place.length
        info.worker_fds[:] = place.fds
        info.master_fds[:] = [-1] * len(info.master_fds)  # they are in the engine's process
        return 0

    def swg_free(self, handle: int) -> int:
        """Give everything back."""
        place = self._places.get(handle)
        if place is None:
            return self._fail("handle", f"handle {handle} is unknown or closed")
        reply, _ = self._ask(place, _request("swg_free")(handle))
        code = self._value("swg_free", reply)
        if code >= 0:
            for known in [h for h, p in self._places.items() if p is place]:
                del self._places[known]
            place.close()
        return code

    def swg_port_open(self, handle: int, at: Any) -> int:
        """An exchange area for one thread."""
        place = self._places.get(handle)
        if place is None:
            return self._fail("handle", f"handle {handle} is unknown or closed")
        reply, _ = self._ask(place, _request("swg_port_open")(handle))
        port = self._value("swg_port_open", reply)
        if port >= 0:
            at.value = _LENGTH.unpack_from(reply, _VALUE.size)[0]
            self._places[port] = place
        return port

    def swg_same(self, handle: int, offset: int, address: int, nbytes: int) -> int:
        """Whether a range of the arena equals memory of this process: 1 or 0."""
        place = self._places.get(handle)
        if place is None:
            return self._fail("handle", f"handle {handle} is unknown or closed")
        if offset > place.length or nbytes > place.length - offset:
            return 0
        return int(_memcmp(place.base + offset, address, nbytes) == 0)

    def swg_copy(self, handle: int, offset: int, address: int, nbytes: int) -> int:
        """Memory of this process into a range of the arena."""
        place = self._places.get(handle)
        if place is None:
            return self._fail("handle", f"handle {handle} is unknown or closed")
        if offset > place.length or nbytes > place.length - offset:
            return self._fail("argument", f"range {offset}+{nbytes} lies outside the arena")
        ctypes.memmove(place.base + offset, address, nbytes)
        return 0


def _find_memcmp() -> Any:
    function = ctypes.CDLL(None).memcmp
    function.restype, function.argtypes = ctypes.c_int, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    return function


_memcmp: Final = _find_memcmp()


def _arena_bytes() -> int:
    """The size to ask for, 0 for the engine's own choice, which knows nothing of this process's limits and environment."""
    named = os.environ.get("SCHWIMMBAD_GO_ARENA", "")
    if named.isdigit():
        return int(named)
    if named:
        raise _error.EngineError(f"SCHWIMMBAD_GO_ARENA={named!r}: want a number of bytes")
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return 0 if limit == resource.RLIM_INFINITY else limit // 4
