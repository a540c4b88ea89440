"""Worker processes that are children of this process while the engine is in another one: started, and waited for, here.

The engine sees them end, whoever's children they are. How they ended only their parent can find out.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from . import _engine

_KEPT: Final = 256  # exit codes that nobody has asked for, as of workers that had no task; a guess


class Children:
    """Who is to be waited for, and how the others ended."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # reentrant: a garbage collection under it may end another pool
        self.alive: set[int] = set()
        self.ended: dict[int, int] = {}

    def add(self, pid: int) -> None:
        """Another child. Those that have ended until now leave no zombies."""
        with self.lock:
            for other in list(self.alive):
                self._wait(other, os.WNOHANG)
            self.alive.add(pid)

    def exit_code(self, pid: int) -> int | None:
        """Exit code of a child that the engine has seen dead, negative for a signal; None: somebody else has waited for it."""
        with self.lock:
            if pid in self.alive:
                self._wait(pid, 0)
            return self.ended.pop(pid, None)

    def _wait(self, pid: int, options: int) -> None:
        try:
            found, status = os.waitpid(pid, options)
        except ChildProcessError:  # somebody else's wait() took it
            self.alive.discard(pid)
            return
        if found:
            self.alive.discard(pid)
            self.ended[pid] = os.waitstatus_to_exitcode(status)
            if len(self.ended) > _KEPT:
                del self.ended[next(iter(self.ended))]

    def close(self) -> None:
        """The pool's end: no worker is left, but for one that outlived the wait for it, or the engine."""
        with self.lock:
            for pid in list(self.alive):
                self._wait(pid, os.WNOHANG)
                if pid in self.alive:
                    os.kill(pid, signal.SIGKILL)
                    self._wait(pid, 0)


class SpawnStarter:
    """Fresh interpreters, as the engine's own ``exec`` starts them."""

    prefix = "SpawnPoolWorker"

    def __init__(self, engine: _engine.Engine, command: list[str]) -> None:
        self.engine = engine
        self.command = command
        self.children = Children()

    def start(self, index: int) -> int:
        """Start worker `index`; returns its pid."""
        import fcntl

        from . import _layout as L

        inherited = range(3, 7)
        fds: list[int] = []
        try:
            for fd in self.engine.worker_fds:  # moved out of the way, or one would be overwritten by another
                fds.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, inherited.stop))
            named = ",".join(map(str, inherited))
            pid = os.posix_spawn(
                self.command[0], self.command, {**os.environ, L.WORKER_ENV: f"{L.ABI}:{index}:{named}"},
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for fd, number in zip(fds, inherited, strict=True)],
                setpgroup=0,  # Ctrl-C is the master's to handle, and an interpreter that is just starting cannot ignore it yet
            )  # fmt: skip
        finally:
            for fd in fds:
                os.close(fd)
        self.children.add(pid)
        self.engine.attach(index, pid, False)
        return pid

    def exit_code(self, pid: int) -> int | None:
        """How a worker ended that is dead."""
        return self.children.exit_code(pid)

    def close(self) -> None:
        """Wait for the workers."""
        self.children.close()
