"""Plain functions for workers. No third-party import: a spawned worker should start fast."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

STATE: dict[str, Any] = {}  # what a test left in this process: lives as long as the worker
LOCK = threading.Lock()


def square(x: Any) -> Any:
    return x * x


def identity(x: Any) -> Any:
    return x


def negate(x: Any) -> Any:
    return -x


def add(a: Any, b: Any = 0, *more: Any, scale: int = 1) -> Any:
    return (a + b + sum(more)) * scale


def show(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def nothing(_: Any) -> None:
    return None


def type_name(x: Any) -> str:
    return f"{type(x).__module__}.{type(x).__qualname__}"


def boom_on(bad: Any, x: Any) -> Any:
    if x == bad:
        raise ValueError(f"boom {x}")
    return x


def boom(x: Any) -> Any:
    raise ValueError(f"boom {x}")


def boom_by_chain(x: Any) -> Any:
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError(f"chained {x}") from error


def stop_iteration(x: Any) -> Any:
    if x == 2:
        raise StopIteration("from a task")
    return x


def generator_result(x: int) -> Iterator[int]:
    yield x


def lock_result(x: Any) -> Any:
    return LOCK if x == 5 else x


def pid(_: Any = None) -> int:
    return os.getpid()


def place(_: Any = None) -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def thread_id(_: Any = None) -> int:
    return threading.get_ident()


def worker_identity(_: Any = None) -> tuple[str, tuple[int, ...], int]:
    process = multiprocessing.current_process()
    return process.name, tuple(process._identity), os.getpid()  # type: ignore[attr-defined]


def dill_worker_identity(_: Any = None) -> tuple[str, tuple[int, ...]]:
    import multiprocess

    process = multiprocess.current_process()
    return process.name, tuple(process._identity)


def main_pid(_: Any = None) -> bool:
    """True where a task runs on the main thread of its process."""
    return threading.current_thread() is threading.main_thread()


def remember(key: str, value: Any) -> int:
    STATE[key] = value
    return os.getpid()


def forget() -> None:
    STATE.clear()


def recall(key: str) -> Any:
    return STATE.get(key)


def recall_with_pid(key: str) -> tuple[int, Any]:
    return os.getpid(), STATE.get(key)


def count_up(key: str) -> int:
    STATE[key] = STATE.get(key, 0) + 1
    value: int = STATE[key]
    return value


def append_line(path: str, text: Any) -> Any:
    """Leaves a trace that survives the worker: one O_APPEND write per call."""
    with open(path, "a") as f:
        f.write(f"{text}\n")
    return text


def lines(path: str) -> list[str]:
    try:
        with open(path) as f:
            return f.read().split()
    except FileNotFoundError:
        return []


def batch_sum(batch: tuple[tuple[int, int], list[int]]) -> tuple[tuple[int, int], int]:
    (start, stop), data = batch
    return (start, stop), sum(data)


def spin(n: int) -> int:
    """Uneven work: cost grows with n."""
    total = 0
    for i in range(n):
        total += i & 3
    return total


def greet(name: str, *, punctuation: str = "!") -> str:
    return f"hello {name}{punctuation}"


def printed(x: Any) -> Any:
    print(f"out {x}")
    print(f"err {x}", file=sys.stderr)
    return x


def call(pair: tuple[Callable[..., Any], Any]) -> Any:
    func, arg = pair
    return func(arg)


class Multiplier:
    """A callable with state, to see who else sees its changes."""

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.calls = 0

    def __call__(self, x: int) -> int:
        self.calls += 1
        return self.factor * x

    def method(self, x: int) -> int:
        return self.factor * x

    def how_often(self, _: Any) -> int:
        self.calls += 1
        return self.calls

    @classmethod
    def from_class(cls, x: int) -> tuple[str, int]:
        return cls.__name__, x

    @staticmethod
    def from_static(x: int) -> int:
        return x + 1


class Point:
    def __init__(self, x: int, y: int) -> None:
        self.x = x
        self.y = y

    def __eq__(self, other: object) -> bool:
        return type(other) is Point and (self.x, self.y) == (other.x, other.y)

    def __hash__(self) -> int:
        return hash((self.x, self.y))


def point_norm(p: Point) -> int:
    assert type(p) is Point
    return p.x * p.x + p.y * p.y
