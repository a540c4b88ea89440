"""Requests to the engine in another process: one message, one reply, on a connection that one call has for itself.

Connections are sockets that were passed to the engine over the inherited one. So no thread waits for another one's reply, and
there is no thread that sorts replies. A socket keeps messages apart (SOCK_SEQPACKET): none is sent or read in parts.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import threading
import time
from _socket import socket as Socket  # without a layer in Python, in the middle of which a signal handler could raise
from _socket import socketpair
from collections.abc import Callable
from typing import Final

from . import _inherited
from . import error as _error

REPLY: Final = 4096  # bytes; the longest are words of errors
VALUE: Final = struct.Struct("<q")
# Seconds that the engine gets to end a call after Ctrl-C: a guess. It takes microseconds, 100 ms at the most, or it is stopped.
PATIENCE: Final = 5.0


class Lines:
    """The idle connections for the calls on one engine. Used from any thread."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.idle: list[Socket] = []
        self.closed = False
        hub.lines.add(self)

    def ask(self, request: bytes, wake: Callable[[], bytes] | None = None, passes: bool = False) -> tuple[bytes, list[int]]:
        """Send a request and wait for the reply, with the descriptors that one of it `passes`; an empty one: the engine is gone.

        What is raised meanwhile (Ctrl-C) is raised when the engine is done with the call: nobody could say later whether it was still to
        come. The request `wake` makes it be done with one that waits for long.
        """
        try:
            connection = self.idle.pop()
        except IndexError:
            if self.closed:
                return b"", []
            connection = self.hub.connect()
        reply: bytes = b""
        fds: list[int] = []
        try:
            connection.send(request)
            if passes:
                reply, fds = _receive_fds(connection)
            else:
                reply = connection.recv(REPLY)
        except OSError:
            reply = b""
        except BaseException:  # a signal handler's, raised on: the answer must not meet the next request on this connection
            if not reply:
                self._settle(connection, wake)
            connection.close()
            raise
        if reply and not self.closed:
            self.idle.append(connection)
        else:
            connection.close()
        return reply, fds

    def _settle(self, connection: Socket, wake: Callable[[], bytes] | None) -> None:
        """See a call to its end that may or may not have been sent: the engine answers what was, then sees the end of the stream."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                connection.shutdown(socket.SHUT_WR)
                if wake is not None:
                    other = self.hub.connect()
                    other.send(wake())  # whichever of the two is read first
                    other.close()
                connection.settimeout(PATIENCE)
                while connection.recv(REPLY):
                    pass
                return
            except OSError:
                break
            except BaseException:  # Ctrl-C again: the first one is on its way
                continue
        self.close()  # the engine is stopped, or gone: it is not used any more

    def close(self) -> None:
        """No more calls."""
        self.closed = True
        self.hub.lines.discard(self)
        while self.idle:
            self.idle.pop().close()


def _receive_fds(connection: Socket) -> tuple[bytes, list[int]]:
    """A reply and the descriptors that come with it, four at most; no child inherits them."""
    passed = array.array("i")
    reply, ancillary, _, _ = connection.recvmsg(REPLY, socket.CMSG_LEN(4 * passed.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            passed.frombytes(data[: len(data) // passed.itemsize * passed.itemsize])
    return reply, list(passed)


class Hub:
    """The inherited socket, over which connections are passed.

    Raises
    ------
    EngineError
        It is no such socket.
    """

    def __init__(self, fd: int) -> None:
        self.lock = threading.RLock()  # held while a descriptor is on its way, and over forks
        self.lines: set[Lines] = set()
        self.socket = Socket(fileno=fd)
        if (self.socket.family, self.socket.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
            self.socket.detach()
            raise _error.EngineError(f"descriptor {fd} is not the engine's socket: {_inherited.VARIABLE} is schwimmbad-go run's to set")
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._forget)

    def connect(self) -> Socket:
        """Another connection. Cost: some 30 us."""
        with self.lock:  # a child that is forked now would keep both ends, and nobody would see the engine's end
            ours, theirs = socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                self.socket.sendmsg([b"c"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))])
            except ConnectionError:  # the engine is gone: the first request finds that
                pass
            finally:
                theirs.close()
            return ours

    def _before_fork(self) -> None:
        self.lock.acquire()

    def _after_fork(self) -> None:
        self.lock.release()

    def _forget(self) -> None:
        """In a forked child: the sockets are the parent's alone. Those of calls in progress stay open here, unused."""
        self.lock = threading.RLock()
        self.socket.detach()  # `_inherited` closes it
        for lines in self.lines:
            for connection in lines.idle:
                connection.close()
