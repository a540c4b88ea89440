"""numpy functions for workers; apart from `helpers.tasks`, which workers without numpy import."""

from __future__ import annotations

from typing import Any

import numpy as np

from helpers.tasks import STATE


class Tagged(np.ndarray):
    """An ndarray subclass whose attribute crosses with it."""

    tag: str = "none"

    def __array_finalize__(self, obj: Any) -> None:
        self.tag = getattr(obj, "tag", "none")

    def __reduce__(self) -> Any:
        function, args, state = super().__reduce__()  # type: ignore[misc]
        return function, args, (state, self.tag)

    def __setstate__(self, state: Any) -> None:
        inner, self.tag = state
        super().__setstate__(inner)  # type: ignore[misc]


def describe(x: Any) -> tuple[str, Any, Any, bytes]:
    """Everything about one value that could get lost on the way."""
    kind = f"{type(x).__module__}.{type(x).__qualname__}"
    if isinstance(x, np.ndarray):
        return kind, x.dtype.str, x.shape, repr(x.tolist()).encode() if x.dtype.hasobject else x.tobytes()
    return kind, getattr(getattr(x, "dtype", None), "str", None), None, repr(x).encode()


def flags(x: np.ndarray) -> tuple[bool, bool]:
    return bool(x.flags.writeable), bool(x.flags.aligned)


def scribble(x: np.ndarray) -> float:
    """Writes into the task, as in-place algorithms do."""
    before = float(x.sum())
    x[...] = -1
    return before


def sum_float64(row: Any) -> np.float64:
    total: np.float64 = np.sum(row, dtype=np.float64)
    return total


def half(x: Any) -> Any:
    return x / 2


def fill(spec: tuple[int, float]) -> np.ndarray:
    n, value = spec
    return np.full(n, value)


def mixed(n: int) -> Any:
    """Neighbouring results of every kind that looks like a number."""
    kinds = (
        int, float, np.float64, np.float32, np.int64, np.int32, np.uint8, bool, np.bool_, complex, np.complex128, str,
        lambda v: None, lambda v: v * 2**70, lambda v: np.array(float(v)), lambda v: np.array([float(v)]),
    )
    return kinds[n % len(kinds)](n)  # type: ignore[operator]


def keep(key: str, x: np.ndarray) -> float:
    """Holds on to the task's array itself, beyond the end of the task."""
    STATE.setdefault(key, []).append((x, x.copy()))
    return float(x.flat[0])


def kept_intact(key: str) -> tuple[int, bool]:
    """How many arrays this worker kept, and whether all still hold what they held."""
    pairs = STATE.get(key, [])
    return len(pairs), all(np.array_equal(now, then) for now, then in pairs)


def own_buffer(value: float) -> np.ndarray:
    """Returns the same array object each time, overwritten: what a worker with a work buffer does."""
    buffer: np.ndarray = STATE.setdefault("own buffer", np.empty(50_000))
    buffer[:] = value
    return buffer


def big_pair(x: np.ndarray) -> dict[str, Any]:
    return {"double": x * 2, "same": x, "head": x[:3].tolist()}


def checksum(x: Any) -> int:
    return int(np.asarray(x).view(np.uint8).sum(dtype=np.int64))


def draw(_: Any) -> float:
    return float(np.random.random())


def state_of_random(_: Any = None) -> bytes:
    name, keys, *rest = np.random.get_state()  # type: ignore[misc]
    return bytes(keys.tobytes()) + repr(rest).encode()
