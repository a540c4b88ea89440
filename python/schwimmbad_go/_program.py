"""The program ``schwimmbad-go`` of this installation, and the engine in a process of it where there is no library.

A shared library made by Go cannot be loaded by musl, so an installation there has the static program alone.
"""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import Final

from . import error as _error

LAUNCH: Final = "engine-launch"  # the word by which the program knows what it is wanted for
FD: Final = 3  # where it looks for its socket
ABOVE_FD: Final = 10


def path() -> Path:
    """Where the program lies, if this installation has it."""
    return Path(__file__).with_name("_bin") / "schwimmbad-go"


def start_engine() -> int:
    """Start a process that hosts the engine for this one alone; it ends when we close the socket, or end.

    It is no child of ours, and has a session of its own: a script may wait for any of its children, and Ctrl-C is for the script.

    Returns
    -------
    int
        The socket, not inherited by programs that are started.

    Raises
    ------
    EngineError
        The program does not run.
    """
    program = path()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        # Duplicated to its own number a descriptor would stay one that is closed: so it has another one first.
        high = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, ABOVE_FD)
        try:
            pid = os.posix_spawn(program, [str(program), LAUNCH], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, high, FD)])
            status = _status(pid)
        except OSError as error:
            raise _error.EngineError(f"the engine's program {program} does not start: {error}") from error
        finally:
            os.close(high)
        if status != 0:
            raise _error.EngineError(f"the engine's program {program} failed to start an engine (exit code {status}); its message is above")
        return ours.detach()


def _status(pid: int) -> int:
    """Exit code of a child; 0 where somebody else collects the children of this process: the socket will tell."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return 0
    return os.waitstatus_to_exitcode(status)
