"""What the workers run.

A module of its own because loky and mpire import the function by name in their workers; run.py puts this
folder on PYTHONPATH for them. It imports numpy and the standard library only: a fresh worker starts fast.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np


def noop(task: Any) -> Any:
    """The smallest task there is: what remains is the pool's own cost."""
    return task


def square(x: int) -> int:
    return x * x


def log_prob(theta: np.ndarray) -> np.float64:
    """A Gaussian log-probability: about a microsecond, returns np.float64 as real likelihoods do."""
    return -0.5 * np.dot(theta, theta)


def double(array: np.ndarray) -> np.ndarray:
    return array * 2.0


def sleep(seconds: float) -> float:
    """A task that takes wall time but no CPU, so that 8 workers can be watched on 2 cores."""
    time.sleep(seconds)
    return seconds


def busy(task: tuple[int, float]) -> int:
    """Use up so many seconds of this thread's CPU time (not wall time: sharing a core must show)."""
    index, seconds = task
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    return index


def worker_pid(seconds: float) -> int:
    """Hold the worker long enough that its siblings have to take the other tasks."""
    time.sleep(seconds)
    return os.getpid()


class Likelihood:
    """A callable that carries data, as samplers' likelihoods do.

    It reads one element per call: the row measures how the data travel, not how fast they are summed.
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __call__(self, theta: np.ndarray) -> np.float64:
        index = int(theta[0] * 1e6) % len(self.data)
        return -0.5 * np.dot(theta, theta) + 1e-9 * self.data[index]


def call_pair(task: tuple[Likelihood, np.ndarray]) -> np.float64:
    """The likelihood arrives inside the task, as in dynesty."""
    likelihood, theta = task
    return likelihood(theta)


def prior_transform(u: np.ndarray) -> np.ndarray:
    return 10.0 * u - 5.0
