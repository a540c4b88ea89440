"""A gate for tasks: they say that they run, and wait until the test lets them go.

Two named pipes, because they work across every start method, need no pool feature, and let a task block in the kernel
(no sleep, no polling). The test holds both ends of both pipes, so that opening never blocks and a dead task cannot
block the test.
"""

from __future__ import annotations

import os
import select
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Gate:
    """The test's side. Tasks get `gate.path` (a string) and call `pass_gate`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.path = str(directory)
        self._ends = {}
        for name in ("started", "go"):
            os.mkfifo(directory / name)
            self._ends[name] = os.open(directory / name, os.O_RDWR)

    def wait_started(self, n: int = 1, limit: float = 20.0) -> None:
        """Return when `n` more tasks have reached the gate; AssertionError after `limit` seconds."""
        deadline = time.monotonic() + limit
        seen = 0
        while seen < n:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._ends["started"]], [], [], max(0.0, left))
            assert ready, f"{seen} of {n} tasks reached the gate within {limit} s"
            seen += len(os.read(self._ends["started"], n - seen))

    def open(self, n: int = 1) -> None:
        """Let `n` tasks through (now or later)."""
        os.write(self._ends["go"], b"." * n)

    def waiting(self) -> bool:
        """True if a task has reached the gate and `wait_started` has not yet counted it."""
        return bool(select.select([self._ends["started"]], [], [], 0)[0])

    def close(self) -> None:
        """Tasks at the gate go through; one that comes later finds none, and fails instead of waiting for ever."""
        shutil.rmtree(self.path)
        for end in self._ends.values():
            os.close(end)


def pass_gate(path: str, value: Any = None) -> Any:
    """The task's side: report, wait to be let through, return `value`."""
    with open(os.path.join(path, "started"), "wb", buffering=0) as f:
        f.write(b".")
    with open(os.path.join(path, "go"), "rb", buffering=0) as f:
        f.read(1)
    return value


def pass_gate_if(path: str, slow: Iterable[Any], value: Any) -> Any:
    """Only the values in `slow` wait at the gate."""
    if value in slow:
        return pass_gate(path, value)
    return value
