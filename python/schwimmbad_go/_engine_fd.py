"""The binding to an engine in another process: the functions of the C library as requests over a socket.

Where no shared library can be had (a static binary, musl), the Go process that started this one hosts the engine. It is called
as the library is: an object with the same functions, made from the same table of signatures. Payloads do not go through the
socket: a pool's memory is passed as a descriptor and mapped here, so comparing and copying need no call. Workers are children
of this process and speak the protocol that they always speak.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from . import _layout as L
from . import error as _error
from ._engine import _CODES, SIGNATURES, _Config
from ._requests import VALUE, Hub, Lines

# What needs no call: tests compare with the engine's table.
HERE: Final = frozenset({"swg_last_error", "swg_same", "swg_copy"})
# MPI runs in the process that loaded its library, and workers are started by their parent, which is this process.
UNSUPPORTED: Final = frozenset(n for n in SIGNATURES if n.startswith(("swg_mpi_", "swg_comm_", "swg_rank_"))) | {
    "swg_open_ranks", "swg_buffer_free", "swg_start", "swg_fork",
}  # fmt: skip
# Waits until something happens; `swg_join` does so for 100 ms at a time.
WAKE: Final = {"swg_step": "swg_kick"}
# They give something back. When the engine is gone, so is that.
DONE_BY_DEATH: Final = frozenset({
    "swg_close", "swg_terminate", "swg_join", "swg_free", "swg_release", "swg_port_close", "swg_cancel", "swg_kick",
    "swg_worker_pid", "swg_unsent",
})  # fmt: skip
_NUMBERS: Final = {name: code for code, name in _CODES.items()}
_KINDS: Final = {ctypes.c_int32: "i", ctypes.c_uint32: "I", ctypes.c_int64: "l", ctypes.c_uint64: "L"}
_LENGTH: Final = struct.Struct("<Q")


# Arenas by their address. A forked worker forgets the engine, and its garbage collector everything that belonged to it; but views of
# an arena know its address only, and the mapping has to stay as long as the process does.
_mapped: Final[dict[int, mmap.mmap]] = {}


class Place:
    """What this process has of one engine: connections, and the arena."""

    def __init__(self, hub: Hub) -> None:
        self.lines = Lines(hub)
        self.base = self.length = 0
        self.fds: tuple[int, ...] = ()
        self.memory: mmap.mmap | None = None

    def map(self, fds: list[int], length: int) -> None:
        """Take over what workers inherit, and map the arena."""
        self.fds, self.length = tuple(fds), length
        self.memory = mmap.mmap(fds[3], length)
        if hasattr(mmap, "MADV_DONTDUMP"):
            self.memory.madvise(mmap.MADV_DONTDUMP)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        _mapped[self.base] = self.memory

    def close(self) -> None:
        """Give everything back. Nobody looks at the arena any more."""
        self.lines.close()
        if self.memory is not None:
            del _mapped[self.base]
            self.memory.close()
            self.memory = None
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
        self._hub = Hub(fd)
        self._places: dict[int, Place] = {}  # by handle of an engine or a port
        self._said = threading.local()
        for name in SIGNATURES:
            if not hasattr(self, name):
                setattr(self, name, self._refused(name) if name in UNSUPPORTED else self._function(name))
        self._pid = 0
        abi, pid = self._once("swg_abi")
        if abi < 0:
            raise _error.EngineError(self.swg_last_error().decode())
        if abi != L.ABI:
            raise _error.EngineError(
                f"the engine over the socket {fd} speaks protocol {abi}, this package ({__file__}) protocol {L.ABI}: two versions are mixed"
            )
        self._pid = _LENGTH.unpack(pid)[0]

    # ---- calls ---------------------------------------------------------------------------------------------

    def _call(self, place: Place, name: str, *arguments: int) -> tuple[int, bytes, list[int]]:
        """A request: value, what belongs to it, descriptors."""
        return self._send(place, name, _request(name)(*arguments))

    def _send(self, place: Place, name: str, request: bytes, wake: Callable[[], bytes] | None = None) -> tuple[int, bytes, list[int]]:
        reply, fds = place.lines.ask(request, wake, name == "swg_get_info")
        if not reply:
            return self._gone(name), b"", fds
        value: int = VALUE.unpack_from(reply)[0]
        rest = reply[VALUE.size :]
        if value < 0:
            self._said.text = rest
        return value, rest, fds

    def _gone(self, name: str) -> int:
        if name in DONE_BY_DEATH:
            return 0
        who = f"pid {self._pid}, schwimmbad-go" if self._pid else "schwimmbad-go"
        return self._fail(
            "system",
            f"the engine's process ({who}) has ended, and the workers with it, or it is stopped and does not answer. Killed, or out of "
            "memory? Results that you have are complete; start the script again with schwimmbad-go run",
        )

    def _fail(self, code: str, words: str) -> int:
        self._said.text = words.encode()
        return _NUMBERS[code]

    def _unknown(self, handle: int) -> int:
        return self._fail("handle", f"handle {handle} is unknown or closed")

    def _once(self, name: str, *arguments: int) -> tuple[int, bytes]:
        """A call that belongs to no engine."""
        place = Place(self._hub)
        try:
            value, rest, _ = self._call(place, name, *arguments)
            return value, rest
        finally:
            place.close()

    def _function(self, name: str) -> Callable[..., int]:
        """A function as its signature says: the first argument is a handle, a pointer at the end is filled."""
        request, places, send = _request(name), self._places, self._send
        wake = _request(WAKE[name]) if name in WAKE else None
        sent = len(kinds(name))
        fills = len(SIGNATURES[name]) - 1 > sent

        def call(*arguments: Any) -> int:
            place = places.get(arguments[0])
            if place is None:
                return self._unknown(arguments[0])
            value, rest, _ = send(place, name, request(*arguments[:sent]), wake and partial(wake, arguments[0]))
            if fills and value >= 0:
                ctypes.memmove(ctypes.byref(arguments[sent]), rest, ctypes.sizeof(arguments[sent]))
            return value

        call.__name__ = name
        return call

    def _refused(self, name: str) -> Callable[..., int]:
        return lambda *_: self._fail("unsupported", f"{name}: the engine in another process cannot do this")

    # ---- functions that are more than a request ------------------------------------------------------------

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
        config = config or _Config()
        if config.command:
            return self._fail("argument", "the engine in another process starts no workers")
        place = Place(self._hub)
        size = config.arena_bytes or _arena_bytes()
        handle, _, _ = self._call(place, "swg_open", config.abi, config.workers, size, config.max_tasks)
        if handle < 0:
            place.close()
        else:
            self._places[handle] = place
        return handle

    def swg_get_info(self, handle: int, info: Any) -> int:
        """Map the arena, once; where it lies, and what workers inherit."""
        place = self._places.get(handle)
        if place is None:
            return self._unknown(handle)
        if place.memory is None:
            code, rest, fds = self._call(place, "swg_get_info", handle)
            if code < 0:
                return code
            if len(fds) < 4:
                return self._fail("system", "too few free descriptors for a pool: raise the limit (ulimit -n)")
            length = _LENGTH.unpack(rest)[0]
            try:
                place.map(fds, length)
            except (OSError, ValueError) as error:
                return self._fail("memory", f"the arena of {length} bytes cannot be mapped: {error}. SCHWIMMBAD_GO_ARENA sets its size")
        info.address, info.length = place.base, place.length
        info.worker_fds[:] = place.fds
        info.master_fds[:] = [-1] * len(info.master_fds)  # they are in the engine's process
        return 0

    def swg_free(self, handle: int) -> int:
        """Give everything back."""
        place = self._places.get(handle)
        if place is None:
            return self._unknown(handle)
        code, _, _ = self._call(place, "swg_free", handle)
        if code >= 0:
            for known in [h for h, p in self._places.items() if p is place]:
                del self._places[known]
            place.close()
        return code

    def swg_port_open(self, handle: int, at: Any) -> int:
        """An exchange area for one thread."""
        place = self._places.get(handle)
        if place is None:
            return self._unknown(handle)
        port, rest, _ = self._call(place, "swg_port_open", handle)
        if port >= 0:
            at.value = _LENGTH.unpack(rest)[0]
            self._places[port] = place
        return port

    def swg_same(self, handle: int, offset: int, address: int, nbytes: int) -> int:
        """Whether a range of the arena equals memory of this process: 1 or 0."""
        place = self._places.get(handle)
        if place is None:
            return self._unknown(handle)
        if offset > place.length or nbytes > place.length - offset:
            return 0
        return int(_memcmp(place.base + offset, address, nbytes) == 0)

    def swg_copy(self, handle: int, offset: int, address: int, nbytes: int) -> int:
        """Memory of this process into a range of the arena."""
        place = self._places.get(handle)
        if place is None:
            return self._unknown(handle)
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
