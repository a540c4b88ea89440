#!/usr/bin/env python3
"""Measure every module of the running Python's standard library, once over each pool.

Some 1 500 real files, from three lines to twenty thousand: just the uneven work a pool has to balance. Each task parses one file
and returns its size, its cyclomatic complexity and what it imports. The pools must agree to the last number; the table shows
what each of them cost. Run it with `bash dev.sh demo`, or with any Python that has schwimmbad-go:

    python examples/stdlib_complexity.py [--workers N] [--limit FILES]

For MPIPool it starts itself again, under the mpirun of Open MPI and that of MPICH, with one rank more than workers: rank 0 hands
out the files. The clock of these rows runs on rank 0 and includes the start of MPI, but not that of the interpreters.
"""

from __future__ import annotations

import argparse
import ast
import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tokenize
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import schwimmbad_go as schwimmbad
from schwimmbad_go.error import PoolError

STDLIB = Path(sysconfig.get_path("stdlib"))


class FileStats(NamedTuple):
    """What one task returns. A file that is not valid Python keeps its line; `error` says why it has no numbers."""

    module: str
    lines: int = 0
    functions: int = 0
    classes: int = 0
    complexity: int = 0
    imports: tuple[str, ...] = ()
    error: str = ""


# --- the worker function ------------------------------------------------------------------------------------------------


def measure(path: str) -> FileStats:
    """Statistics of one source file; runs in a worker.

    Complexity is the cyclomatic number of T. J. McCabe, "A Complexity Measure", IEEE Transactions on Software Engineering
    SE-2 (4), 1976, pp. 308-320: for a structured program, the number of predicates plus one, where a compound condition counts
    once per operand; for several components, the sum over the components. The components here are the module's body
    and each function or lambda.
    """
    module = os.path.relpath(path, STDLIB)
    try:
        with tokenize.open(path) as file:  # honours the encoding line
            source = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in test data: the file's affair
            tree = ast.parse(source)
    except SyntaxError as error:
        where = f", line {error.lineno}" if error.lineno else ""
        return FileStats(module, error=f"{error.msg}{where}".replace(f"{STDLIB}{os.sep}", ""))
    except (ValueError, RecursionError) as error:  # ValueError: undecodable text, null bytes
        return FileStats(module, error=str(error))
    kinds: Counter[type[ast.AST]] = Counter()
    predicates = 0
    imports = set()
    for node in ast.walk(tree):
        kinds[type(node)] += 1
        predicates += _predicates(node)
        if isinstance(node, ast.Import):
            imports |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            imports.add(node.module.partition(".")[0])
    functions = kinds[ast.FunctionDef] + kinds[ast.AsyncFunctionDef]
    return FileStats(
        module,
        lines=source.count("\n"),
        functions=functions,
        classes=kinds[ast.ClassDef],
        complexity=predicates + functions + kinds[ast.Lambda] + 1,
        imports=tuple(sorted(imports)),
    )


def _predicates(node: ast.AST) -> int:
    """Decisions that this node adds to the control flow graph."""
    if isinstance(node, (ast.If, ast.For, ast.AsyncFor, ast.While, ast.IfExp, ast.ExceptHandler, ast.Assert)):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.match_case):
        catches_all = isinstance(node.pattern, ast.MatchAs) and node.pattern.pattern is None and node.guard is None
        return 0 if catches_all else 1
    return 0


# --- running it over the pools ------------------------------------------------------------------------------------------

# Every pool of the package but MPIPool. One that cannot be made here is reported with its own reason.
POOLS: tuple[tuple[str, Callable[[int], Any]], ...] = (
    ("SerialPool", lambda workers: schwimmbad.SerialPool()),
    ("MultiPool", lambda workers: schwimmbad.MultiPool(workers)),
    ("JoblibPool", lambda workers: schwimmbad.JoblibPool(workers)),
    ("JoblibPool, threads", lambda workers: schwimmbad.JoblibPool(workers, backend="threading")),
)

# Row, and names of the launcher: a plain mpirun may be either's.
MPIS = (
    ("Open MPI", ("mpirun.openmpi", "orterun", "prterun")),
    ("MPICH", ("mpiexec.mpich", "mpiexec.hydra")),
)
# Open MPI refuses more ranks than cores, ties each to a core, and refuses root, whom a container often has; 4 reads the first of
# these, 5 the second.
LENIENT = {
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
    **{f"{name}_ALLOW_RUN_AS_ROOT{more}": "1" for name in ("OMPI", "PRTE") for more in ("", "_CONFIRM")},
}
PATIENCE = 600.0  # [s] for one MPI run


class Run(NamedTuple):
    """One pool's row of the table."""

    pool: str
    workers: int
    seconds: float  # from before the pool is made to its last result
    chunks: str
    results: list[FileStats]


class Progress:
    """A line on stderr, drawn by the pool's callback as results arrive."""

    def __init__(self, label: str, total: int) -> None:
        self.label, self.total, self.done = label, total, 0
        self.live = sys.stderr.isatty()
        self.next_time = 0.0  # [s], of the next drawing on a terminal
        self.quarters = 0  # in a log, one line per quarter is enough

    def __call__(self, result: FileStats) -> None:
        self.done += 1
        if self.live:
            now = time.monotonic()
            if now >= self.next_time or self.done == self.total:
                self.next_time = now + 0.1
                print(f"\r{self.label:<20}{self._bar()}  {result.module[:50]:<50}", end="", file=sys.stderr, flush=True)
        elif 4 * self.done // self.total > self.quarters:
            self.quarters = 4 * self.done // self.total
            print(f"{self.label:<20}{self._bar()}", file=sys.stderr, flush=True)

    def _bar(self) -> str:
        return f"{self.done:>5}/{self.total} files  {100 * self.done // self.total:>3} %"

    def end(self) -> None:
        if self.live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def run(name: str, make_pool: Callable[[int], Any], paths: list[str], workers: int) -> Run | str:
    """Map all files over one pool; the reason as a string where this pool cannot be made here."""
    # Of an MPIPool the ranks other than 0 stay in make_pool, and leave the program from there.
    start = time.perf_counter()
    try:
        pool = make_pool(workers)
    except (ImportError, NotImplementedError, ValueError, PoolError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    with pool:
        progress = Progress(name, len(paths))
        results = list(pool.map(measure, paths, callback=progress))
        seconds = time.perf_counter() - start
        progress.end()
        try:
            statistics = pool.statistics()
        except (AttributeError, NotImplementedError):  # SerialPool has none, nor has a JoblibPool of one worker
            return Run(name, 1, seconds, "-", results)
        return Run(name, pool.size or statistics.workers, seconds, str(statistics.chunks), results)


def run_mpi(mpi: str, launchers: tuple[str, ...], options: argparse.Namespace) -> Run | str:
    """The same on ranks that this MPI's launcher starts. Raises if it starts them and they fail."""
    launcher = next((path for path in map(shutil.which, launchers) if path), None)
    if launcher is None:
        return f"no {' or '.join(launchers)} on PATH"
    with tempfile.TemporaryDirectory() as folder:
        outcome = Path(folder, "outcome")
        command = [launcher, "-n", str(options.workers + 1), sys.executable, os.path.abspath(__file__), "--rank", mpi, str(outcome)]
        if options.limit is not None:
            command += ["--limit", str(options.limit)]
        # stderr is the terminal's: progress comes through it.
        done = subprocess.run(command, env={**os.environ, **LENIENT}, stdin=subprocess.DEVNULL, timeout=PATIENCE)
        if done.returncode or not outcome.exists():
            raise SystemExit(f"{' '.join(command)} failed with status {done.returncode}")
        found: Run | str = pickle.loads(outcome.read_bytes())
        return found


def run_rank(mpi: str, outcome: str, paths: list[str]) -> None:
    """What each rank does; rank 0 leaves the outcome in a file, or all of them if they agree that there is no pool."""
    result = run(f"MPIPool, {mpi}", lambda workers: schwimmbad.MPIPool(), paths, 0)
    mine = f"{outcome}.{os.getpid()}"
    Path(mine).write_bytes(pickle.dumps(result))
    os.replace(mine, outcome)


def stdlib_files() -> Iterator[str]:
    """Module files of the standard library, in a fixed order; what pip installed below it is not part of it."""
    for directory, subdirectories, files in os.walk(STDLIB):
        subdirectories[:] = sorted(set(subdirectories) - {"site-packages", "dist-packages", "__pycache__"})
        yield from (os.path.join(directory, name) for name in sorted(files) if name.endswith(".py"))


# --- the report ---------------------------------------------------------------------------------------------------------


def table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    cells = [header, *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]) for row in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def report(runs: list[Run], missing: list[tuple[str, str]]) -> None:
    serial = runs[0]
    rows: list[tuple[object, ...]] = [
        (r.pool, r.workers, f"{r.seconds:.2f} s", f"{serial.seconds / r.seconds:.2f}x", len(r.results), r.chunks) for r in runs
    ]
    print(table(("pool", "workers", "wall time", "speed-up", "tasks", "chunks"), rows))
    for name, reason in missing:
        print(f"{name}: not run here ({reason})")

    parsed = [r for r in serial.results if not r.error]
    failed = [r for r in serial.results if r.error]
    top = sorted(parsed, key=lambda r: (-r.complexity, r.module))[:10]
    rows = [(r.module, r.complexity, r.functions, r.classes, r.lines, len(r.imports)) for r in top]
    print("\nThe ten most complex modules")
    print(table(("module", "complexity", "functions", "classes", "lines", "imports"), rows))
    total = [sum(column) for column in zip(*((r.lines, r.functions, r.classes, r.complexity) for r in parsed))]
    print(f"\nAll {len(parsed)}: {total[0]} lines, {total[1]} functions, {total[2]} classes, complexity {total[3]}")
    popular = Counter(name for r in parsed for name in r.imports).most_common(5)
    print("Most imported: " + ", ".join(f"{name} ({count})" for name, count in popular))
    print(f"\n{len(failed)} files are not valid Python for {sys.version.split()[0]}" + (":" if failed else ""))
    for r in failed:
        print(f"  {r.module}: {r.error}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=cpus, help="workers of each parallel pool (default: one per usable CPU)")
    parser.add_argument("--limit", type=int, help="only the first so many files")
    parser.add_argument("--rank", nargs=2, metavar=("MPI", "FILE"), help=argparse.SUPPRESS)  # how it starts itself under mpirun
    options = parser.parse_args()

    paths = list(stdlib_files())[: options.limit]
    if options.rank:
        mpi, file = options.rank
        run_rank(mpi, file, paths)
        return 0
    # Read once before the clock starts: else the first pool alone would pay for a cold disk.
    size = sum(len(Path(path).read_bytes()) for path in paths)
    python = sys.version.split()[0]
    print(f"{len(paths)} files, {size / 1e6:.1f} MB: the standard library of Python {python}; {cpus} usable CPUs", flush=True)

    runs: list[Run] = []
    missing: list[tuple[str, str]] = []
    for name, make_pool in POOLS:
        outcome = run(name, make_pool, paths, options.workers)
        if isinstance(outcome, Run):
            runs.append(outcome)
        else:
            missing.append((name, outcome))
    for mpi, launchers in MPIS:
        outcome = run_mpi(mpi, launchers, options)
        if isinstance(outcome, Run):
            runs.append(outcome)
        else:
            missing.append((f"MPIPool, {mpi}", outcome))
    report(runs, missing)

    different = [r.pool for r in runs if r.results != runs[0].results]
    if different:
        print(f"\nRESULTS DIFFER from {runs[0].pool}: {', '.join(different)}")
        return 1
    print(f"\nAll {len(runs)} pools gave identical results." if len(runs) > 1 else "\nOnly one pool ran: nothing to compare.")
    return 0


if __name__ == "__main__":
    # Workers that start clean find `measure` and its class by the name of this module; those of __main__ would have to
    # travel by value, which takes cloudpickle.
    import stdlib_complexity

    raise SystemExit(stdlib_complexity.main())
