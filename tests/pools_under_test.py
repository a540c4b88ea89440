"""The registry: every pool that the conformance suite and the crash table run on.

A new pool joins by adding a row. What it cannot do goes into `lacks`, with the reason that the skip will show; a case asks
with ``kind.needs("parallel")``. Nothing is skipped for any other cause.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import schwimmbad_go

CAPABILITIES = {
    "workers": "tasks run in processes of their own: a task can die, or exit, without taking the caller along",
    "pickling": "functions, tasks and results are copied on their way",
    "parallel": "two tasks can run at the same time, and a call can return before its tasks have run",
    "size": "the number of workers can be chosen",
    "closes": "a closed pool refuses work",
    "eager map": "map without a callback returns a list, and its tasks have run",
    "late by reference": "a worker sees functions by name, as they were when it was forked",
    "inherits": "a worker starts with a copy of the caller's memory: its globals, seeds and open descriptors",
    "recycles": "maxtasksperchild replaces workers",
    "task timeout": "a running task can be cut off",
    "statistics": "pool.statistics() counts what went where",
}


@dataclass(frozen=True)
class PoolKind:
    name: str
    cls: str  # name in schwimmbad_go
    options: Mapping[str, Any] = field(default_factory=dict)  # literals only: they are also written into scripts
    lacks: Mapping[str, str] = field(default_factory=dict)  # capability -> why not
    cheap: bool = True  # workers start in milliseconds: tests may take a new pool per case

    def __post_init__(self) -> None:
        unknown = set(self.lacks) - set(CAPABILITIES)
        assert not unknown, f"not in CAPABILITIES: {unknown}"

    def __call__(self, processes: int = 2, **options: Any) -> Any:
        return getattr(schwimmbad_go, self.cls)(processes=processes, **{**self.options, **options})

    def expression(self, processes: int = 2, **options: Any) -> str:
        """The constructor call as source text, for scripts that did ``import schwimmbad_go``."""
        words = {"processes": processes, **self.options, **options}
        return f"schwimmbad_go.{self.cls}({', '.join(f'{k}={v!r}' for k, v in words.items())})"

    def has(self, capability: str) -> bool:
        assert capability in CAPABILITIES, capability
        return capability not in self.lacks

    def needs(self, *capabilities: str) -> None:
        """Skip the running test, with the registered reason, on a pool that lacks one of these."""
        for capability in capabilities:
            if not self.has(capability):
                pytest.skip(f"{self.name}: {self.lacks[capability]}")


IN_CALLER = "runs tasks in the caller's own process"

SERIAL = PoolKind(
    "serial", "SerialPool",
    lacks={
        "workers": IN_CALLER,
        "pickling": IN_CALLER,
        "parallel": "runs one task at a time, inside the call",
        "size": "has one worker, the caller",
        "closes": "close() is a no-op, as in schwimmbad",
        "eager map": "map without a callback is lazy, as in schwimmbad",
        "late by reference": IN_CALLER,
        "inherits": IN_CALLER,
        "recycles": IN_CALLER,
        "task timeout": "limits a task's time by the interval timer, which pytest-timeout holds here",
        "statistics": "moves no bytes",
    },
)
FORK = PoolKind("multi-fork", "MultiPool", {"start_method": "fork"})
NOT_FORKED = {"inherits": "its workers are fresh interpreters", "late by reference": "its workers are fresh interpreters"}
FORKSERVER = PoolKind("multi-forkserver", "MultiPool", {"start_method": "forkserver"}, lacks=NOT_FORKED, cheap=False)
SPAWN = PoolKind("multi-spawn", "MultiPool", {"start_method": "spawn"}, lacks=NOT_FORKED, cheap=False)

KINDS = (SERIAL, FORK, FORKSERVER, SPAWN)
