"""The socket to an engine in another process, if this process has one.

``schwimmbad-go run`` starts Python with a socket on the descriptor that ``SCHWIMMBAD_GO_FD`` names, which is taken over when the package
is imported; where there is no library, the first pool starts the engine. The socket is for this process alone: a child that kept it
would keep the engine from noticing our end.
"""

from __future__ import annotations

import os
import stat
from typing import Final

VARIABLE: Final = "SCHWIMMBAD_GO_FD"
FORKED: Final = -1

fd: int | None = None  # the socket; FORKED: this process was forked from the one that has it
stale: str | None = None  # the variable's value, where it was another process's


def claim() -> None:
    """Keep the descriptor and the variable from children."""
    global stale
    named = os.environ.pop(VARIABLE, None)
    if named is None:
        return
    try:
        number = int(named)
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            raise ValueError(named)
        os.set_inheritable(number, False)
    except (ValueError, OSError):  # a process between the engine's and this one passed the variable on, not the socket
        stale = named
        return
    own(number)


def own(number: int) -> None:
    """Take a socket over."""
    global fd
    fd = number
    os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    global fd
    if fd is not None and fd != FORKED:
        os.close(fd)
        fd = FORKED
