"""Functions that schwimmbad's published tests import from here."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable
from typing import Any

__all__ = ["_batch_function", "_function", "isclose"]


def isclose(a: float, b: float, rel_tol: float = 1e-9, abs_tol: float = 0.0) -> bool:
    """Whether two numbers agree to `rel_tol` of the larger, or to `abs_tol`."""
    return math.isclose(a, b, rel_tol=rel_tol, abs_tol=abs_tol)


def _function(x: Any) -> float:
    """A task of 0.1 to 0.5 ms; always 42.01."""
    time.sleep(random.uniform(1e-4, 5e-4))
    return 42.01


def _batch_function(batch: Iterable[Any]) -> list[float]:
    """`_function` of every element of a batch."""
    return [_function(x) for x in batch]
