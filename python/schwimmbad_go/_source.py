"""Where the tasks of a job come from.

What can be indexed is cut when a chunk is due; everything else is drawn from its iterator one chunk at a time, never ahead
of what the scheduler asks for. Drawn tasks are kept until their results are there, since a chunk may come back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from . import _payload


class Indexed:
    """A list, tuple, range, or array whose slices can be encoded."""

    __slots__ = ("n", "tasks")

    def __init__(self, tasks: Sequence[Any]) -> None:
        self.tasks = tasks
        self.n = len(tasks)

    def take(self, first: int, count: int, fresh: bool) -> Any:
        """Tasks from index `first` on."""
        return self.tasks if count == self.n else self.tasks[first : first + count]

    def words(self, first: int, count: int) -> tuple[int, bytes] | None:
        """A run of numbers with its encoding, None for other tasks. Without a slice, which would write to every task's reference count,
        and most of them no cache holds: 5 of 142 ms of CPU for a million ints."""
        return _payload.pack_tasks(self.tasks, first, count) if type(self.tasks) is list else None

    def forget(self, first: int, count: int) -> None:
        """Results are there."""


class Drawn:
    """Any other iterable; `n` is -1 while its end has not been reached."""

    __slots__ = ("drained", "drawn", "iterator", "kept", "n")

    def __init__(self, tasks: Iterable[Any]) -> None:
        self.iterator: Iterator[Any] = iter(tasks)
        self.n = -1
        self.drawn = 0
        self.drained = False
        self.kept: dict[int, Any] = {}

    def take(self, first: int, count: int, fresh: bool) -> list[Any]:
        """Tasks from index `first` on; fewer than `count` if the iterator ends."""
        kept = self.kept
        have = min(max(self.drawn - first, 0), count)
        tasks = [kept[i] for i in range(first, first + have)]
        if have < count and not self.drained:
            new = list(islice(self.iterator, count - have))
            self.drained = len(new) < count - have
            kept.update(zip(range(self.drawn, self.drawn + len(new)), new, strict=True))
            self.drawn += len(new)
            tasks += new
        return tasks

    def words(self, first: int, count: int) -> None:
        """How many tasks there are is known once they are drawn."""

    def forget(self, first: int, count: int) -> None:
        """Results are there: the tasks can go."""
        for i in range(first, first + count):
            self.kept.pop(i, None)


def source_of(tasks: Any) -> Indexed | Drawn:
    """The source for what the user passed."""
    kind = type(tasks)
    if kind is list or kind is range:
        return Indexed(tasks)
    if kind is tuple:
        return Indexed(list(tasks))
    np = sys.modules.get("numpy")
    if np is not None and isinstance(tasks, np.ndarray) and tasks.ndim > 0:
        if _payload.is_rows(np, tasks):
            return Indexed(np.ascontiguousarray(tasks))
        return Indexed(list(tasks))
    if hasattr(tasks, "__len__") and len(tasks) == 0:
        return Indexed([])
    return Drawn(tasks)
