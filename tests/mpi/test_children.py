"""Processes that a rank starts are no ranks: nothing of the launcher's reaches them."""

from __future__ import annotations

import pytest
from helpers import mpirun

SCRIPT = """
import os
import sys
import schwimmbad_go


def left(_):
    return sorted(name for name in os.environ if name.startswith(("PMI", "HYD", "OMPI_COMM", "OMPI_UNIVERSE", "OMPI_MCA_ess")))


def main():
    method = sys.argv[1]
    if method == "isolate":
        with schwimmbad_go.MPIPool(isolate=True) as pool:
            print(pool.broadcast(left, 0))
        return
    with schwimmbad_go.MPIPool() as outer:
        assert outer.map(abs, [-1]) == [1]
        assert left(0), "the ranks themselves have them"
        with schwimmbad_go.MultiPool(2, start_method=method) as pool:
            print(pool.broadcast(left, 0)[:1])


if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn", "isolate"])
def test_environment(family: str, method: str) -> None:
    assert mpirun.run(family, 2, SCRIPT, method).ok().stdout.strip() == "[[]]"


NUMBERS = """
import multiprocessing
import schwimmbad_go


def number(_):
    process = multiprocessing.current_process()
    return process.name, process._identity


if __name__ == "__main__":
    with schwimmbad_go.MPIPool(workers_per_rank=2, master_works=True) as pool:
        print(sorted(pool.broadcast(number, 0)) == [(f"MPIPoolWorker-{k}", (k,)) for k in range(1, 7)])
"""


def test_numbers(family: str) -> None:
    """No two workers have the same number, on whichever rank: programs seed by it."""
    assert mpirun.run(family, 3, NUMBERS).ok().stdout.strip() == "True"
