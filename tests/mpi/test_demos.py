"""What schwimmbad's documentation shows, as programs of our own, under the import alias: one script for every pool."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers import mpirun, scripts

pytestmark = pytest.mark.slow

RUN = ("-W", "error", "-m", "schwimmbad_go", "run")

# Options choose the pool; the worker is an object whose method takes results to a file as they come.
CALLBACK_CLASS = """
import argparse
import sys
import schwimmbad

class Cubes:
    def __init__(self, path):
        self.path = path
    def cube(self, task):
        number, scale = task
        return number, scale * number**3
    def keep(self, result):
        with open(self.path, "a") as file:
            print(*result, file=file)
    def __call__(self, task):
        return self.cube(task)

def main(pool, path):
    worker = Cubes(path)
    for _ in pool.map(worker, [(i, 2) for i in range(40)], callback=worker.keep):
        pass
    pool.close()
    with open(path) as file:
        lines = sorted((int(a), int(b)) for a, b in map(str.split, file))
    assert lines == [(i, 2 * i**3) for i in range(40)], lines
    print(type(pool).__name__)

parser = argparse.ArgumentParser()
group = parser.add_mutually_exclusive_group()
group.add_argument("--ncores", dest="n_cores", default=1, type=int)
group.add_argument("--mpi", dest="mpi", default=False, action="store_true")
parser.add_argument("path")
args = parser.parse_args()
pool = schwimmbad.choose_pool(mpi=args.mpi, processes=args.n_cores)
if not pool.is_master():
    pool.wait()
    sys.exit(0)
main(pool, args.path)
"""

SELECTING = """
import sys
import schwimmbad
from schwimmbad import MPIPool, MultiPool, SerialPool, choose_pool
from schwimmbad.utils import batch_tasks

def total(batch):
    (first, end), numbers = batch
    return first, end, sum(numbers)

def span(batch):
    first, end = batch
    return end - first

def weighted(batch):
    indices, numbers, weight = batch
    return weight * sum(numbers)

def square(x):
    return x * x

kinds = {"mpi": MPIPool, "multi": MultiPool, "serial": SerialPool}
pool = choose_pool(mpi=sys.argv[1] == "mpi", processes=2 if sys.argv[1] == "multi" else 1)
assert type(pool) is kinds[sys.argv[1]] and isinstance(pool, schwimmbad.pool.BasePool)
batches = max(1, pool.size)
data = list(range(101))
with pool:
    assert list(pool.map(square, data)) == [x * x for x in data]
    found = list(pool.batched_map(total, data))
    assert len(found) == batches and sum(s for _, _, s in found) == sum(data)
    assert [(a, b) for a, b, _ in found] == [(a, b) for (a, b) in batch_tasks(batches, n_tasks=101)]
    assert sum(pool.map(span, batch_tasks(batches, n_tasks=101))) == 101
    assert sum(pool.map(weighted, batch_tasks(batches, data=data, args=(3,)))) == 3 * sum(data)
    assert sum(s for _, _, s in pool.map(total, batch_tasks(n_batches=7, data=data))) == sum(data)
    seen = []
    found = pool.batched_map(total, data, callback=seen.append)
    assert sorted(seen) == sorted(found)
print(type(pool).__name__)
"""


def alone(folder: Path, source: str, arguments: Sequence[str]) -> str:
    (folder / "script.py").write_text(source)
    done = subprocess.run(
        [sys.executable, *RUN, "script.py", *arguments], cwd=folder, env=scripts.environment(uuid.uuid4().hex),
        text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.mark.parametrize(("options", "pool"), [([], "SerialPool"), (["--ncores", "2"], "MultiPool")])
def test_callback_class(options: list[str], pool: str, tmp_path: Path) -> None:
    assert alone(tmp_path, CALLBACK_CLASS, [*options, "results.txt"]) == f"{pool}\n"


@pytest.mark.parametrize("pool", ["serial", "multi"])
def test_selecting_pools(pool: str, tmp_path: Path) -> None:
    assert alone(tmp_path, SELECTING, [pool]).lower() == f"{pool}pool\n"


@pytest.mark.parametrize("n", [2, 3, 4])
def test_over_mpi(family: str, n: int, tmp_path: Path) -> None:
    done = mpirun.run(family, n, CALLBACK_CLASS, "--mpi", str(tmp_path / "results.txt"), flags=RUN).ok()
    assert (done.stdout, done.stderr) == ("MPIPool\n", "")
    done = mpirun.run(family, n, SELECTING, "mpi", flags=RUN).ok()
    assert (done.stdout, done.stderr) == ("MPIPool\n", "")
