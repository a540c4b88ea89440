"""What a pool has done: counters for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .error import PoolClosed

if TYPE_CHECKING:
    from ._runner import Runner


@dataclass(frozen=True)
class Statistics:
    """What a pool has done since it was made.

    Attributes
    ----------
    workers, lost_workers, retired_workers : int
        Alive now; died; left after ``maxtasksperchild`` tasks.
    tasks, chunks, retries : int
        Results delivered; messages sent; tasks run again.
    bytes_in, bytes_out : int
        Payload to the workers and back [bytes]; a function that was sent before counts nothing.
    busy_seconds : float
        Time inside tasks, over the workers alive now [s].
    """

    workers: int
    tasks: int
    chunks: int
    retries: int
    lost_workers: int
    retired_workers: int
    bytes_in: int
    bytes_out: int
    busy_seconds: float


def statistics(runner: Runner) -> Statistics:
    """Counters of a pool since it was made."""
    if runner.freed:
        raise PoolClosed()
    s = runner.engine.stats()
    return Statistics(
        s["workers"], s["tasks"], s["chunks"], s["retries"], s["lost"], s["retired"],
        s["bytes_in"] + runner.blobs.bytes_sent, s["bytes_out"], s["busy_nanos"] / 1e9,
    )  # fmt: skip
