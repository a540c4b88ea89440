#!/usr/bin/env python3
"""Run random calls on MPIPools for a while, from one thread and from several, and check every result.

    mpirun -n 4 python tools/mpi_soak.py --minutes 10 [--seed N]

Maps of tiny, slow and failing tasks and of arrays, iterators that are left half used, callbacks that raise, time limits, broadcasts and
background calls; now and then the pool is closed or terminated with work under way, and another one opened. Deaths are not in it: a dead
rank ends the job (tests/mpi/test_crash.py). The test suite runs some seconds of it.

Rank 0 prints the number of calls; the job ends with 1, and the seed, at the first wrong result.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from schwimmbad_go import MPIPool
from schwimmbad_go.error import TaskTimeout

SIZES = (1, 2, 16, 100, 1000, 20_000)
CHUNKS = (None, None, 1, 7)


class Enough(Exception):
    """A callback has seen enough."""


def square(x: int) -> int:
    return x * x


def slow(x: int) -> int:
    time.sleep(0.0005)
    return -x


def picky(x: int) -> int:
    if x % 17 == 3:
        raise LookupError(x)
    return x


def stuck(x: int) -> int:
    while x == 5:
        pass
    return x


def larger(data: bytes) -> bytes:
    return data + b"1"


def tiny(pool: Any, rng: random.Random) -> None:
    n = rng.choice(SIZES)
    assert pool.map(square, range(n), chunksize=rng.choice(CHUNKS)) == [i * i for i in range(n)]


def pauses(pool: Any, rng: random.Random) -> None:
    n = min(rng.choice(SIZES), 100)
    assert pool.map(slow, range(n), chunksize=rng.choice(CHUNKS)) == [-i for i in range(n)]


def failures(pool: Any, rng: random.Random) -> None:
    n = max(rng.choice(SIZES), 10)
    for i, found in enumerate(pool.map(picky, range(n), chunksize=rng.choice(CHUNKS), return_exceptions=True)):
        assert type(found) is LookupError if i % 17 == 3 else found == i
    try:
        pool.map(picky, range(n), chunksize=rng.choice(CHUNKS))
    except LookupError as error:
        assert error.args[0] % 17 == 3
    else:
        raise AssertionError("no error")


def buffers(pool: Any, rng: random.Random) -> None:
    tasks = [bytes([i]) * rng.choice((10, 5000, 200_000)) for i in range(rng.choice((1, 7, 40)))]
    assert pool.map(larger, tasks, chunksize=rng.choice(CHUNKS)) == [larger(t) for t in tasks]


def half_used(pool: Any, rng: random.Random) -> None:
    n = rng.choice(SIZES)
    results = pool.imap(square, range(n))
    for i in range(rng.randrange(min(n, 50))):
        assert next(results) == i * i


def interrupted(pool: Any, rng: random.Random) -> None:
    seen: list[int] = []

    def callback(value: int) -> None:
        seen.append(value)
        if len(seen) == 5:
            raise Enough

    try:
        pool.map(slow, range(60), callback=callback)
    except Enough:
        return
    raise AssertionError("the callback was not heard")


def overdue(pool: Any, rng: random.Random) -> None:
    if rng.random() < 0.2:
        results = pool.map(stuck, range(8), timeout=0.5, return_exceptions=True)  # others may wait for a CPU, but not so long
        assert type(results[5]) is TaskTimeout and results[:5] + results[6:] == [0, 1, 2, 3, 4, 6, 7], results


def everyone(pool: Any, rng: random.Random) -> None:
    assert len(set(pool.broadcast(os.getpid))) == pool.size


def background(pool: Any, rng: random.Random) -> None:
    n = rng.choice(SIZES)
    for result in [pool.map_async(square, range(n)) for _ in range(3)]:
        assert result.get(60) == [i * i for i in range(n)]


CALLS: tuple[Callable[[Any, random.Random], None], ...] = (
    tiny, pauses, failures, buffers, half_used, interrupted, overdue, everyone, background,
)  # fmt: skip


def several(pool: Any, seeds: list[int]) -> None:
    """Five calls from each of some threads."""
    errors: list[BaseException] = []

    def calls(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(5):
                rng.choice(CALLS)(pool, rng)
        except BaseException as error:  # whatever it is, it is told below
            errors.append(error)

    threads = [threading.Thread(target=calls, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def another(pool: Any, rng: random.Random) -> Any:
    """End a pool, half of the time with work under way, and make the next."""
    if rng.random() < 0.5:
        pool.map_async(slow, range(500))
        pool.terminate()
    else:
        pool.close()
    pool.join()
    return MPIPool()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    pool = MPIPool()
    rng = random.Random(options.seed)
    end, done = time.monotonic() + 60 * options.minutes, 0
    try:
        while time.monotonic() < end:
            if rng.random() < 0.02:
                pool = another(pool, rng)
            if rng.random() < 0.1:
                several(pool, [rng.randrange(10**6) for _ in range(3)])
                done += 15
            else:
                rng.choice(CALLS)(pool, rng)
                done += 1
    except BaseException:
        print(f"seed {options.seed}, after {done} calls", file=sys.stderr, flush=True)
        raise
    pool.close()
    print(f"{done} calls, all as they should be", flush=True)


if __name__ == "__main__":
    main()
