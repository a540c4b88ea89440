"""Objects that ride in every task of a map, as a sampler's likelihood does, and tasks that look at them."""

from __future__ import annotations

import os
import time
from typing import Any

from helpers.tasks import STATE


class Rider:
    """Data in a buffer (any object with ``sum()``) or in a list, and a count of calls that tasks leave in it."""

    def __init__(self, data: Any, extra: Any = None) -> None:
        self.data = data
        self.extra = extra
        self.calls = 0

    def total(self) -> float:
        return float(self.data.sum() if hasattr(self.data, "sum") else sum(self.data))


class Guarded(Rider):
    """Its state goes through __reduce__, and what it was rebuilt from is counted."""

    def __reduce__(self) -> Any:
        return rebuild, (self.data,), {"extra": self.extra}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.extra = state["extra"]
        self.calls = 100


class Stubborn:
    """Does not pickle."""

    def __reduce__(self) -> Any:
        raise ValueError("stubborn")


class Slow:
    """A result that takes a while to pickle."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        end = time.perf_counter() + 200e-6
        while time.perf_counter() < end:
            pass
        return Slow, (self.value,)


def rebuild(data: Any) -> Guarded:
    return Guarded(data)


def total(task: tuple[Any, Any]) -> tuple[Any, float]:
    rider, n = task
    return n, rider.total()


def change(task: tuple[Any, Any]) -> tuple[Any, float, int]:
    """What an earlier task of the same worker left in the rider, and then leaves something itself."""
    rider, n = task
    seen = n, rider.total(), rider.calls
    rider.calls += 1
    rider.data[0] = rider.data[0] + 1
    return seen


def same(task: tuple[Any, Any, Any]) -> bool:
    first, second, third = task
    return first is second and first.data is third


def state(task: tuple[Any, Any]) -> tuple[Any, Any, int, str]:
    rider, n = task
    return n, rider.extra, rider.calls, type(rider).__name__


def keep(task: tuple[Any, Any]) -> bool:
    """Change the rider and hold on to it beyond the map, and say whether what was held before is as it was left."""
    rider, n = task
    held = STATE.setdefault("riders", [])
    intact = all(one.total() == then for one, then in held)
    if all(one is not rider for one, _ in held):
        rider.data[0] = n
        held.append((rider, rider.total()))
    return intact


def slow(task: tuple[Any, Any]) -> Slow:
    rider, n = task
    return Slow((n, rider.total()))


def slow_or_die(task: tuple[Any, Any]) -> Slow:
    if task[1] == "die":
        os.kill(os.getpid(), 9)
    return slow(task)
