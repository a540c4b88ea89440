#!/usr/bin/env python3
"""schwimmbad's canonical script: the same code serially, on several cores, or over MPI, chosen by an option.

It estimates pi by throwing points at a square. Each task has its own seed, so every pool gives the same numbers.

    python examples/canonical.py
    python examples/canonical.py --ncores 4
    mpirun -n 4 python examples/canonical.py --mpi
"""

from __future__ import annotations

import argparse
import random
from typing import Any

import schwimmbad_go as schwimmbad

POINTS = 20_000


def worker(seed: int) -> int:
    """How many of `POINTS` random points lie in the unit circle; runs in a worker."""
    draw = random.Random(seed).random
    return sum(draw() ** 2 + draw() ** 2 <= 1.0 for _ in range(POINTS))


def main(pool: Any, tasks: int) -> None:
    """Map over any pool: this is all a script needs to know about it."""
    hits = 0
    for result in pool.map(worker, range(tasks)):
        hits += result
    pool.close()
    print(f"{type(pool).__name__}: pi is about {4 * hits / (tasks * POINTS):.4f} after {tasks * POINTS} points")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Estimate pi over a pool.")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--ncores", dest="n_cores", default=1, type=int, help="number of processes")
    group.add_argument("--mpi", dest="mpi", default=False, action="store_true", help="run with MPI")
    parser.add_argument("--tasks", default=50, type=int, help="number of tasks")
    args = parser.parse_args()
    main(schwimmbad.choose_pool(mpi=args.mpi, processes=args.n_cores), args.tasks)
