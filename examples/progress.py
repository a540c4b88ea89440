#!/usr/bin/env python3
"""A progress line by callback, over tasks some of which fail.

The callback runs on this thread while later tasks still run. With `return_exceptions` a failed task does not end the map: its exception
comes in its place, to the callback too. With `return_results=False` nothing is kept.
"""

from __future__ import annotations

import math
import sys

import schwimmbad_go as schwimmbad

NUMBERS = range(100_000, 100_200)


def smallest_factor(number: int) -> int:
    """The smallest prime factor; ValueError for primes. Runs in a worker."""
    for factor in range(2, math.isqrt(number) + 1):
        if number % factor == 0:
            return factor
    raise ValueError(f"{number} is a prime")


class Progress:
    """Counts results and failures, and draws a line on stderr."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.primes = total, 0, 0

    def __call__(self, result: int | BaseException) -> None:
        self.done += 1
        self.primes += isinstance(result, ValueError)
        if sys.stderr.isatty():
            print(f"\r{self.done}/{self.total}", end="\n" if self.done == self.total else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    progress = Progress(len(NUMBERS))
    with schwimmbad.MultiPool(2) as pool:
        pool.map(smallest_factor, NUMBERS, callback=progress, return_results=False, return_exceptions=True)
    print(f"{progress.primes} of {progress.done} numbers are primes")
