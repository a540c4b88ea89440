"""MPIPool beside the other MPI pools, in one job: rounds alternate, every contender has the same ranks in turn.

    python benchmarks/mpi.py [--quick] [--only NAME ...] [--rounds N] [--json FILE] [--markdown FILE]
    mpirun -n 3 python benchmarks/mpi.py ...

Without a launcher it starts itself on three ranks of each MPI that it finds. Needs mpi4py and numpy; schwimmbad is measured where it is
installed. Between two rounds the ranks are told who is next, and that contender keeps them until rank 0 has done with it: what it takes to
open and close a pool is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

MB = 1_000_000
MPI: Any = None  # imported under a launcher only: it starts MPI
WORLD: Any = None


# ---- tasks --------------------------------------------------------------------------------------------------------------


def double(x: float) -> float:
    return x * 2.0


def log_prob(row: np.ndarray) -> float:
    return -0.5 * np.sum(row * row)


def add_one(a: np.ndarray) -> np.ndarray:
    return a + 1


class Likelihood:
    def __init__(self, n: int) -> None:
        self.data = np.arange(float(n))

    def __call__(self, x: float) -> float:
        return float(self.data[3]) * x


# ---- contenders ---------------------------------------------------------------------------------------------------------


class Ours:
    """schwimmbad-go's MPIPool. Its ranks would stay until the program ends: here they are let go after each round."""

    key = "ours"

    @contextmanager
    def master(self) -> Iterator[Callable[..., Any]]:
        from schwimmbad_go import MPIPool, _ranks

        with MPIPool() as pool:
            yield pool.map
            link = pool._link
        pool.join()
        job = _ranks.job()
        job.links.remove(link)
        while job.check(job.lib.swg_comm_exit(link.handle, 1000)):
            pass

    def serve(self) -> None:
        from schwimmbad_go import _errors, _ranks
        from schwimmbad_go._rank import Server
        from schwimmbad_go._start import Initializer

        job = _ranks.job()
        link = _ranks.Link(job, None, 0, None)
        Server(link, Initializer(None, ()), 0).serve()
        job.check(job.lib.swg_comm_exit(link.handle, 1000))
        job.links.remove(link)
        _errors.rank = None


class Upstream:
    key = "schwimmbad"

    def __init__(self) -> None:
        from schwimmbad.mpi import MPIPool

        self.cls = MPIPool

    @contextmanager
    def master(self) -> Iterator[Callable[..., Any]]:
        with self.cls() as pool:
            yield lambda func, tasks, chunksize=None: pool.map(func, tasks)

    def serve(self) -> None:
        try:
            self.cls()
        except SystemExit:  # how its workers leave
            return


class Futures:
    """mpi4py.futures, chunk size 1 by default; `tuned` is its best one for each row."""

    key = "mpi4py.futures"

    @contextmanager
    def master(self) -> Iterator[Callable[..., Any]]:
        from mpi4py.futures import MPICommExecutor

        with MPICommExecutor(WORLD, root=0) as pool:
            yield lambda func, tasks, chunksize=None: list(pool.map(func, tasks, chunksize=chunksize or 1))

    def serve(self) -> None:
        from mpi4py.futures import MPICommExecutor

        with MPICommExecutor(WORLD, root=0):
            pass


class Processes:
    """schwimmbad-go's MultiPool on rank 0, while the other ranks sleep."""

    key = "MultiPool"

    @contextmanager
    def master(self) -> Iterator[Callable[..., Any]]:
        from schwimmbad_go import MultiPool

        with MultiPool(WORLD.size - 1) as pool:
            yield pool.map
        WORLD.send(None, 1) if WORLD.size > 1 else None
        for rank in range(2, WORLD.size):
            WORLD.send(None, rank)

    def serve(self) -> None:
        while not WORLD.Iprobe(0):
            time.sleep(0.01)
        WORLD.recv(source=0)


# ---- rows ---------------------------------------------------------------------------------------------------------------


class Row:
    """One kind of map. `chunks` are the sizes tried for mpi4py.futures, whose default is to send tasks one by one."""

    def __init__(
        self, name: str, title: str, func: Any, tasks: Any, repeat: int, unit: int, goals: dict[str, float],
        chunks: tuple[int, ...] = (), chunksize: int | None = None, slow: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.name, self.title, self.func, self.tasks, self.repeat, self.unit = name, title, func, tasks, repeat, unit
        self.goals, self.chunks, self.chunksize, self.slow = goals, chunks, chunksize, slow


def rows(quick: bool) -> list[Row]:
    n = 10_000 if quick else 100_000
    sixteen = np.random.default_rng(1).normal(size=(16, 5))
    arrays = [np.full(MB // 2, float(i)) for i in range(8 if quick else 64)]
    return [
        Row("trivial", f"{n:,} trivial tasks", double, list(range(n)), 3, 1, {"schwimmbad": 50, "MultiPool": 1 / 1.3}, (n // 100,)),
        Row("rows", "16 rows of a (16,5) ndarray", log_prob, sixteen, 300, 1, {"schwimmbad": 3}, (8,)),
        Row("list", "16 numbers", double, list(range(16)), 300, 1, {"schwimmbad": 1.5}, (8,)),
        Row("arrays", f"{len(arrays)} arrays of 4 MB in and out", add_one, arrays, 3, 1, {"schwimmbad": 2}, (4,)),
        Row("callable", "200 tasks, callable of 10 MB", Likelihood(10 * MB // 8), list(range(200)), 3, 1, {"schwimmbad": 50}, (100,)),
        Row("single", f"{n // 10:,} tasks, chunksize=1, per task", double, list(range(n // 10)), 3, n // 10, {"schwimmbad": 1}, (), 1),
    ]  # fmt: skip


def timed(call: Callable[[], Any], repeat: int) -> tuple[float, float]:
    """Mean seconds of wall clock, and of CPU on rank 0."""
    cpu, began = time.process_time(), time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - began) / repeat, (time.process_time() - cpu) / repeat


def measure(row: Row, key: str, pool_map: Callable[..., Any], out: dict[str, list[tuple[float, float]]]) -> None:
    """Time a row with one contender, after two warm-ups, one of which is checked."""
    expected = list(map(row.func, row.tasks)) if row.name != "arrays" else None
    variants: list[tuple[str, int | None, Any, int]] = [(key, row.chunksize, row.tasks, row.repeat)]
    if key == "mpi4py.futures":
        tasks = row.tasks[: 2000 * row.unit] if len(row.tasks) > 2000 else row.tasks
        variants = [(key, None, tasks, max(row.repeat // 10, 1))]
        variants += [(f"{key} tuned", size, row.tasks, row.repeat) for size in row.chunks]
    for name, chunksize, tasks, repeat in variants:
        extra = {} if chunksize is None else {"chunksize": chunksize}
        pool_map(row.func, tasks, **extra)  # twice, so that memory is there for whoever keeps it
        got = pool_map(row.func, tasks, **extra)
        if expected is not None:
            assert list(got) == expected[: len(tasks)], f"{name}: wrong results"
        else:
            assert all(np.array_equal(g, t + 1) for g, t in zip(got, tasks, strict=True)), f"{name}: wrong results"
        del got
        wall, cpu = timed(lambda tasks=tasks, extra=extra: pool_map(row.func, tasks, **extra), repeat)
        scale = len(row.tasks) / len(tasks) / row.unit
        out.setdefault(name, []).append((wall * scale, cpu * scale))


def lead(contenders: list[Any], chosen: list[Row], rounds: int) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Rank 0: each round every contender in turn, in changing order."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {row.name: {} for row in chosen}
    for round_number in range(rounds):
        order = contenders[round_number % len(contenders) :] + contenders[: round_number % len(contenders)]
        for one in order:
            todo = [r for r in chosen if one.key != "MultiPool" or "MultiPool" in r.goals]
            if not todo:
                continue
            WORLD.bcast(one.key)
            with one.master() as pool_map:
                for row in todo:
                    measure(row, one.key, pool_map, found[row.name])
            print(f"round {round_number + 1}/{rounds}: {one.key} done", file=sys.stderr, flush=True)
    return found


def waiting(one: Any, seconds: float) -> dict[str, Any]:
    """What a worker costs while nothing is to do, and how soon a map starts after a pause."""
    WORLD.bcast(one.key)
    with one.master() as pool_map:
        pool_map(double, list(range(16)))
        before, after = {}, {}
        for found in (before, after):
            while len(found) < WORLD.size - 1:  # until every worker has had a task
                found.update(pool_map(cpu_seconds, list(range(8))))
            if found is before:
                time.sleep(seconds)
        latencies, starts = {}, {}
        for pause in (0.0, 1e-3, 10e-3, 100e-3):
            samples, delays = [], []
            for _ in range(30):
                end = time.perf_counter() + pause
                if pause > 5e-3:
                    time.sleep(pause)
                while time.perf_counter() < end:  # rank 0 works between two maps
                    pass
                began = time.monotonic_ns()
                (started,) = pool_map(clock, [1.0])
                samples.append((time.monotonic_ns() - began) / 1e9)
                delays.append((started - began) / 1e9)
            latencies[f"{pause * 1e3:g} ms"] = statistics.median(samples)
            starts[f"{pause * 1e3:g} ms"] = statistics.median(delays)
    idle = max(after[pid] - before[pid] for pid in before) / seconds
    return {"idle_cpu": idle, "latency": latencies, "start": starts}


def clock(_: Any) -> int:
    """When this task starts, by the clock that all processes of a machine share [ns]."""
    return time.monotonic_ns()


def cpu_seconds(_: Any) -> tuple[int, float]:
    use = resource.getrusage(resource.RUSAGE_SELF)
    time.sleep(1e-3)  # so that one worker does not take them all
    return os.getpid(), use.ru_utime + use.ru_stime


def ping_pong(size: int, times: int) -> float:
    """Floor: mean seconds for a message of so many bytes to rank 1 and back, with MPI's own blocking calls."""
    data = bytearray(size)
    WORLD.bcast(("ping", size, times))
    WORLD.Barrier()
    began = time.perf_counter()
    for _ in range(times):
        WORLD.Send([data, MPI.BYTE], 1)
        WORLD.Recv([data, MPI.BYTE], 1)
    return (time.perf_counter() - began) / times


def follow(contenders: list[Any]) -> None:
    """Other ranks: serve whoever is next."""
    by_key = {one.key: one for one in contenders}
    while (what := WORLD.bcast(None)) is not None:
        if isinstance(what, str):
            by_key[what].serve()
            continue
        data = bytearray(what[1])
        WORLD.Barrier()
        for _ in range(what[2] if WORLD.rank == 1 else 0):
            WORLD.Recv([data, MPI.BYTE], 0)
            WORLD.Send([data, MPI.BYTE], 0)


def report(chosen: list[Row], found: dict[str, Any], idle: dict[str, Any], floor: dict[int, float]) -> str:
    """The table, in Markdown."""
    names = ["schwimmbad", "mpi4py.futures", "mpi4py.futures tuned", "MultiPool"]
    lines = ["| work | ours | rank 0 CPU | " + " | ".join(names) + " | must | reached |", "|---" * (len(names) + 5) + "|"]
    for row in chosen:
        ours = found[row.name]["ours"]
        cells = [row.title, _time(statistics.median(w for w, _ in ours)), _time(statistics.median(c for _, c in ours))]
        ratios: dict[str, float] = {}
        for name in names:
            other = found[row.name].get(name)
            if not other:
                cells.append("")
                continue
            ratios[name] = statistics.median(b / a for (a, _), (b, _) in zip(ours, other, strict=True))
            cells.append(f"{ratios[name]:.3g}")
        goals = {k: v for k, v in row.goals.items() if k in ratios}
        cells.append(", ".join(f"{k} {v:.3g}" for k, v in goals.items()))
        cells.append("yes" if all(ratios[k] >= v for k, v in goals.items()) else "**no**")
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Ratios are their time / ours, medians over the rounds.", ""]
    for key, what in idle.items():
        delays = ", ".join(f"{_time(what['start'][k])} of {_time(v)} after {k}" for k, v in what["latency"].items())
        idle_cpu = f"a worker idle for seconds takes {100 * what['idle_cpu']:.2f} % CPU"
        lines.append(f"{key}: {idle_cpu}; the task of a map of one starts after {delays}.")
    lines.append("Raw MPI there and back: " + ", ".join(f"{_time(t)} for {n:,} bytes" for n, t in floor.items()) + ".")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    for scale, unit in ((1e-6, "us"), (1e-3, "ms")):
        if seconds < scale * 1000:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds:.3g} s"


def launch(arguments: list[str]) -> int:
    """Start this program on three ranks of each MPI; for machines with few CPUs, and for root."""
    launchers = {"openmpi": ("mpirun.openmpi", "orterun", "prterun"), "mpich": ("mpiexec.mpich", "mpiexec.hydra")}
    worst = 0
    for family, names in launchers.items():
        program = next((found for name in names if (found := shutil.which(name))), None)
        if program is None:
            print(f"{family}: no {names[0]} found", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            variables = {
                **os.environ, "MPI4PY_MPIABI": family, "OMP_NUM_THREADS": "1",
                "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_hwloc_base_binding_policy": "none",
            }  # fmt: skip
            debian = Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or "", "libmpich.so.12")
            if family == "mpich" and debian.exists():  # mpi4py's wheels ask for it by the name that all others give it
                Path(folder, "libmpi.so.12").symlink_to(debian)
                variables["LD_LIBRARY_PATH"] = os.pathsep.join([folder, os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(os.pathsep)
            named = [a.format(family=family) for a in arguments]
            worst = max(worst, subprocess.call([program, "-n", "3", sys.executable, __file__, *named], env=variables))
    return worst


def main() -> None:
    """The command. In names of files ``{family}`` stands for the MPI."""
    global MPI, WORLD
    from schwimmbad_go import _launcher

    if _launcher.launch() is None:
        sys.exit(launch(sys.argv[1:]))
    from mpi4py import MPI as found

    MPI, WORLD = found, found.COMM_WORLD
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller inputs, two rounds")
    parser.add_argument("--rounds", type=int, help="default 7, with --quick 2")
    parser.add_argument("--only", action="append", help="a row; may be repeated")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    contenders: list[Any] = [Ours()]
    try:
        contenders.append(Upstream())
    except ImportError:
        pass
    contenders += [Futures(), Processes()]
    if WORLD.rank != 0:
        follow(contenders)
        return
    chosen = [row for row in rows(args.quick) if not args.only or row.name in args.only]
    found = lead(contenders, chosen, args.rounds or (2 if args.quick else 7))
    idle = {} if args.only else {one.key: waiting(one, 2.0 if args.quick else 4.0) for one in contenders[:2]}
    floor = {n: ping_pong(n, 200) for n in (8, 100_000, 4 * MB)}
    WORLD.bcast(None)
    text = report(chosen, found, idle, floor)
    version = MPI.Get_library_version().split("\n")[0].split(",")[0]
    text += f"\n\n{version}, {WORLD.size} ranks, {os.cpu_count()} CPUs, Python {platform.python_version()}, numpy {np.__version__}."
    print(text)
    if args.markdown:
        args.markdown.write_text(text + "\n")
    if args.json:
        args.json.write_text(json.dumps({"rows": found, "idle": idle, "floor": floor, "mpi": version}, indent=1))


if __name__ == "__main__":
    main()
