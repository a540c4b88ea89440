"""The registry: every pool that the conformance suite and the crash table run on.

A new pool joins by adding a row. What it cannot do goes into `lacks`, with the reason that the skip will show; a case asks
with ``kind.needs("parallel")``. Nothing is skipped for any other cause.

MPIPool cannot be run beside the others: its workers are the ranks of a job. tests/mpi starts such jobs; in them this registry
holds that pool alone.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import schwimmbad_go

# One open pool per kind, for the tests that only use it.
KEPT: dict[str, Any] = {}
_latest: dict[str, Any] = {}

CAPABILITIES = {
    "workers": "tasks run in other processes than the caller's: a task can exit without taking the caller along",
    "deaths": "a worker can die without taking the pool along",
    "fresh workers": "a new pool has new worker processes",
    "handles": "pool._pool lists the worker processes, named and numbered as multiprocessing's",
    "state": "_state and repr tell how the pool ended, as multiprocessing's",
    "input order": "callbacks come in input order unless asked otherwise",
    "pickling": "functions, tasks and results are copied on their way",
    "parallel": "two tasks can run at the same time, and a call can return before its tasks have run",
    "prompt": "no result and no task waits behind a task that was taken for a short one",
    "side by side": "several pools can be open at once",
    "size": "the number of workers can be chosen",
    "tells size": "size is the number of workers",
    "lone worker": "a pool of one has a worker beside the caller",
    "plain count": "processes= is a number from 1 on",
    "own state": "what a worker keeps is its own, and goes with it",
    "cannot travel": "the pool itself cannot be pickled, as multiprocessing's",
    "closes": "a closed pool refuses work",
    "eager map": "map without a callback returns a list, and its tasks have run",
    "late by reference": "a worker sees functions by name, as they were when it was forked",
    "ends with a fork": "in a forked child the pool refuses to work",
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
        if not self.has("side by side"):
            self._make_room()
        made = getattr(schwimmbad_go, self.cls)(processes=processes, **{**self.options, **options})
        _latest[self.name] = weakref.ref(made)
        return made

    def _make_room(self) -> None:
        """End the pool that is kept from test to test. One of the running test's own is in the way."""
        if self.name in KEPT:
            KEPT[self.name].terminate()
            KEPT.pop(self.name).join()
        latest = _latest.get(self.name, lambda: None)()
        if latest is not None and not latest._closed:
            self.needs("side by side")

    def kept(self) -> Any:
        """The standing pool with two workers, made if there is none."""
        if self.name not in KEPT:
            made = self(2)
            KEPT[self.name] = made
        return KEPT[self.name]

    def renew(self) -> None:
        """Let the next one who asks have another standing pool."""
        if self.name in KEPT:
            KEPT[self.name].terminate()
            KEPT.pop(self.name).join()

    @property
    def workers(self) -> int:
        """How many workers the standing pool has: two, or the caller alone."""
        return 2 if self.has("size") or self.has("tells size") else 1

    @property
    def in_order(self) -> dict[str, str]:
        """The option of map that makes callbacks come in input order, where that is not the default."""
        return {} if self.has("input order") else {"callback_order": "input"}

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
        "deaths": IN_CALLER,
        "handles": IN_CALLER,
        "state": "has no state",
        "pickling": IN_CALLER,
        "parallel": "runs one task at a time, inside the call",
        "size": "has one worker, the caller",
        "tells size": "has one worker, the caller",
        "lone worker": "has one worker, the caller",
        "plain count": "has one worker, the caller",
        "cannot travel": "can be pickled, as in schwimmbad",
        "ends with a fork": "works in a forked child as well",
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


_JOBLIB = {
    "tells size": "its size is 0, as in schwimmbad",
    "lone worker": "with n_jobs=1 tasks run in the caller, as in joblib",
    "plain count": "counts as joblib does: -1 is every CPU",
    "cannot travel": "can be pickled, as in schwimmbad",
    "ends with a fork": "works in a forked child as well, there in the calling process",
    "closes": "can be used after close(), as in schwimmbad",
    "handles": "has no _pool, as in schwimmbad",
    "state": "has no _state, as in schwimmbad",
}
IN_THREADS = "its workers are threads of the caller's process"
JOBLIB_FORK = PoolKind("joblib-multiprocessing", "JoblibPool", {"backend": "multiprocessing"}, lacks=_JOBLIB)
JOBLIB_THREADS = PoolKind(
    "joblib-threading", "JoblibPool", {"backend": "threading"},
    lacks={
        **_JOBLIB,
        "workers": IN_THREADS,
        "deaths": IN_THREADS,
        "pickling": IN_THREADS,
        "late by reference": IN_THREADS,
        "inherits": IN_THREADS,
        "recycles": IN_THREADS,
        "task timeout": "a thread cannot be ended",
        "own state": IN_THREADS,
    },
)  # fmt: skip
JOBLIB_SERIAL = PoolKind("joblib-sequential", "JoblibPool", {"backend": "sequential"}, lacks={
    **{k: v for k, v in SERIAL.lacks.items() if k != "eager map"}, **_JOBLIB,
})  # fmt: skip


# The variable by which a rank of a job knows what to open; tests/mpi sets it.
MPI_MODE = "SWG_MPI_MODE"
BESIDE_MPI = "its workers were started before the tests were"
_RANKS = {
    "side by side": "one pool at a time works on the same ranks",
    "size": "its size is that of the job",
    "plain count": "its size is that of the job",
    "handles": "has no _pool, as in schwimmbad",
    "state": "has no _state, as in schwimmbad",
    "input order": "makes callbacks as results arrive, as in schwimmbad",
    "inherits": BESIDE_MPI,
    "late by reference": BESIDE_MPI,
    "prompt": "a rank may have short tasks in hand behind the one that it runs",
}
_IN_RANK = {
    **_RANKS,
    "deaths": "MPI ends the job when a rank dies",
    "fresh workers": "its workers are the ranks, which stay",
    "recycles": "MPI cannot replace a rank",
}
MPI_KINDS = {
    "default": PoolKind("mpi", "MPIPool", lacks={k: v for k, v in _IN_RANK.items() if k != "prompt"}),  # ranks share memory
    "messages": PoolKind("mpi-messages", "MPIPool", lacks=_IN_RANK),  # ranks share nothing, as on several machines
    "mixed": PoolKind("mpi-mixed", "MPIPool", lacks=_IN_RANK),  # one of them shares rank 0's memory
    "isolate": PoolKind("mpi-isolate", "MPIPool", {"isolate": True}, lacks=_RANKS),
    "master": PoolKind("mpi-master", "MPIPool", {"isolate": True, "master_works": True}, lacks=_RANKS),
    "node": PoolKind("mpi-node", "MPIPool", {"workers_per_rank": 2}, lacks=_RANKS),
}
if MPI_MODE in os.environ:
    KINDS: tuple[PoolKind, ...] = (MPI_KINDS[os.environ[MPI_MODE]],)
else:
    KINDS = (SERIAL, FORK, FORKSERVER, SPAWN, JOBLIB_FORK, JOBLIB_THREADS)
