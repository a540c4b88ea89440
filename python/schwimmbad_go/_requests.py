"""Requests to the engine in another process: one message, one reply, on a connection that one call has for itself.

Connections are sockets that were passed to the engine over the inherited one. So no thread waits for another one's reply, and
there is no thread that sorts replies. A socket keeps messages apart (SOCK_SEQPACKET): none is sent or read in parts.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
import weakref
from typing import Final

from . import _inherited
from . import error as _error

REPLY: Final = 4096  # bytes; the longest are words of errors
VALUE: Final = struct.Struct("<q")
# Seconds that the engine gets to answer a call that does not wait, after Ctrl-C: a guess. It takes microseconds, or it is stopped.
PATIENCE: Final = 5.0


class Connection(socket.socket):
    """A socket that is closed with its last reference."""

    __slots__ = ()

    def __init__(self, fd: int) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)

    def __del__(self) -> None:
        self.close()


class Lines:
    """The idle connections for the calls on one engine. Used from any thread."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.idle: list[Connection] = []
        self.closed = False

    def ask(self, request: bytes, waits: bool = False, passes: bool = False) -> tuple[bytes, list[int]]:
        """Send a request and wait for the reply, with the descriptors that one of it `passes`; an empty one: the engine is gone.

        What is raised meanwhile (Ctrl-C) ends a call that `waits`: the engine hears nothing of it and finishes the call for nobody,
        before any other on the same port. Other calls end first: nobody could say later whether one was still to come.
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
                reply, fds, _, _ = socket.recv_fds(connection, REPLY, 4, socket.MSG_CMSG_CLOEXEC)
            else:
                reply = connection.recv(REPLY)
        except OSError:
            reply = b""
        except BaseException:
            if not (reply or waits):
                self._settle(connection)
            connection.close()
            raise
        if reply and not self.closed:
            self.idle.append(connection)
        else:
            connection.close()
        return reply, fds

    def _settle(self, connection: Connection) -> None:
        """See a call to its end that may or may not have been sent: the engine answers what was, then sees the end of the stream."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                connection.shutdown(socket.SHUT_WR)
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
        while self.idle:
            self.idle.pop().close()


class Hub:
    """The inherited socket, over which connections are passed.

    Raises
    ------
    EngineError
        It is no such socket.
    """

    def __init__(self, fd: int) -> None:
        self.lock = threading.RLock()  # held while a descriptor is on its way, and over forks
        self.all: weakref.WeakSet[Connection] = weakref.WeakSet()
        self.socket = socket.socket(fileno=fd)
        if (self.socket.family, self.socket.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
            self.socket.detach()
            raise _error.EngineError(f"descriptor {fd} is not the engine's socket: {_inherited.VARIABLE} is schwimmbad-go run's to set")
        # Of a socket pair, who made it.
        self.pid: int = struct.unpack("3i", self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        os.register_at_fork(before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._forget)

    def connect(self) -> Connection:
        """Another connection. Cost: some 30 us."""
        with self.lock:  # a child that is forked now would keep both ends, and nobody would see the engine's end
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                connection = Connection(ours.detach())
                self.all.add(connection)
                try:
                    socket.send_fds(self.socket, [b"c"], [theirs.fileno()])
                except ConnectionError:  # the engine is gone: the first request finds that
                    pass
            return connection

    def _before_fork(self) -> None:
        self.lock.acquire()

    def _after_fork(self) -> None:
        self.lock.release()

    def _forget(self) -> None:
        """In a forked child: the sockets are the parent's alone."""
        self.lock = threading.RLock()
        self.socket.detach()  # `_inherited` closes it
        for connection in self.all:
            connection.close()
