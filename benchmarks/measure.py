"""How it is measured: alternated rounds, one clock, no favourites.

All pools of a group are alive at once. In each round every variant (a contender at one chunk size) runs one
block of maps, in an order drawn anew per round, so that a change of the machine's load meets all of them
alike. A sample is the mean time per map of one block, so a rare slow map counts; the collector is off while
the clock runs and has run before the round. Freeing a result is outside the clock.
"""

from __future__ import annotations

import gc
import math
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tasks
from contenders import Contender, SchwimmbadGoZeroCopy, Serial
from workloads import CPU_MASTER_GOALS, CPU_WORKERS_GOALS, CREATE_GOALS, ZERO_COPY_GOALS, Case, Goal

# Above so many tasks a default chunk size of 1 is timed on a part of them and scaled up (marked "~").
EXTRAPOLATE_ABOVE, EXTRAPOLATE_FROM = 4_000, 2_000
# A map that takes longer than this is a hang: the contender leaves the row, with a note.
HANG_SECONDS = 60.0
ZERO_COPY = SchwimmbadGoZeroCopy.key


@dataclass(frozen=True)
class Settings:
    budget: float  # seconds of rounds per case
    min_rounds: int
    max_rounds: int
    block: float  # seconds one block of small maps should last
    tune_steps: int  # chunk sizes tried per peer
    cpu_tasks: int
    creations: int
    probes: int  # fresh processes per contender in the footprint rows
    idle: float  # seconds of idleness watched


FULL = Settings(10.0, 3, 31, 0.02, 4, 5000, 12, 3, 1.0)
QUICK = Settings(0.3, 2, 7, 0.006, 1, 1000, 2, 1, 0.2)


@dataclass
class Series:
    """Samples by round, so that ratios can be taken between values of the same round."""

    samples: dict[int, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        return statistics.median(self.samples.values())

    @property
    def p10(self) -> float:
        return float(np.percentile(list(self.samples.values()), 10))


@dataclass
class Cell:
    """One contender in one row: at its default chunk size, and at the best one found."""

    default: Series = field(default_factory=Series)
    tuned: Series = field(default_factory=Series)  # the default's own where no chunk size was better
    chunk: int | None = None  # of `tuned`; None: the default
    extrapolated: bool = False  # the default was timed on a part of the tasks
    error: str | None = None


@dataclass
class Row:
    name: str
    title: str
    cells: dict[str, Cell]
    goals: tuple[Goal, ...] = ()
    quantity: str = "time"  # "time" (seconds), "bytes", "share" (of one CPU)
    absolute: bool = False  # show values rather than ratios
    ideal: float | None = None
    base: str | None = None  # the contender this row's ratios refer to, where it is not the usual one
    note: str = ""


class Hang(Exception):
    """A contender did not come back in time."""


@contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    def ring(signum: int, frame: Any) -> None:
        raise Hang(f"no answer within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def no_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Rig:
    """A group of contenders with all pools open and warm."""

    def __init__(self, contenders: Sequence[Contender], workers: int) -> None:
        self.workers = workers
        self._all = list(contenders)
        self._open: list[Contender] = []
        self.broken: dict[str, str] = {}  # contenders that did not start, and why

    def __enter__(self) -> Rig:
        for contender in self._all:
            try:
                with watchdog(HANG_SECONDS):
                    contender.open(self.workers)
                    contender.map(tasks.square, contender.adapt(list(range(16))))
            except Exception as error:
                self.broken[contender.key] = f"does not start: {_describe(error)}"
                continue
            self._open.append(contender)
        return self

    def __exit__(self, *exc: object) -> None:
        for contender in self._open:
            try:
                with watchdog(10):
                    contender.close()
            except Hang as error:
                say(f"{contender.key}: close: {error}")

    def contenders(self, case: str) -> list[Contender]:
        return [c for c in self._open if c.only is None or case in c.only]

    def drop(self, contender: Contender) -> None:
        """Leave a contender out from now on: after a hang its pool cannot be trusted, nor closed."""
        self._open.remove(contender)


@dataclass
class _Variant:
    contender: Contender
    chunk: int | None
    call: Callable[[], Any]
    scale: float  # from one call to one unit of the whole case
    block: int = 1
    series: Series = field(default_factory=Series)
    trial: float = math.inf  # seconds per unit, roughly, from before the rounds

    def run(self) -> float:
        """Seconds per unit, the mean over one block."""
        total, clock, call = 0, time.perf_counter_ns, self.call
        for _ in range(self.block):
            start = clock()
            result = call()
            total += clock() - start
            del result
        return total * 1e-9 / self.block * self.scale


def time_case(case: Case, rig: Rig, settings: Settings) -> list[Row]:
    """Check every contender's result, find each peer's best chunk size, then run the rounds."""
    cells: dict[str, Cell] = {}
    variants: list[_Variant] = []
    expected = _Expected(case)
    for contender in rig.contenders(case.name):
        if not contender.parallel and not case.serial:
            continue
        cell = cells[contender.key] = Cell()
        try:
            default = _make(expected, contender, None, rig.workers, settings)
            best = _tuned(expected, contender, default, rig.workers, settings)
        except Exception as error:  # whatever a pool raises is a finding, shown in its cell
            _failed(case, cell, contender, error, rig)
            continue
        cell.default = cell.tuned = default.series
        cell.extrapolated = default.scale * case.per > 1
        variants.append(default)
        if best is not None:
            cell.tuned, cell.chunk = best.series, best.chunk
            variants.append(best)
    expected.results.clear()

    def sample(variant: _Variant) -> float | None:
        cell = cells[variant.contender.key]
        if cell.error is not None:
            return None
        try:
            return variant.run()
        except Exception as error:
            _failed(case, cell, variant.contender, error, rig)
            return None

    _rounds(variants, settings, sample)
    for cell in cells.values():
        if cell.chunk is not None and cell.error is None and cell.tuned.median >= cell.default.median:
            cell.tuned, cell.chunk = cell.default, None  # looked better in the trial, was not
    if case.over_serial:
        _subtract_serial(cells)
    rows = [Row(case.name, case.title, cells, case.goals, ideal=case.ideal)]
    if ZERO_COPY in cells:
        title = "the same, results zero-copy"
        rows.append(Row(f"{case.name}-zero-copy", title, cells, ZERO_COPY_GOALS, base=ZERO_COPY))
    return rows


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _failed(case: Case, cell: Cell, contender: Contender, error: Exception, rig: Rig) -> None:
    cell.error = _describe(error)
    say(f"{case.name}: {contender.key}: {cell.error}")
    if isinstance(error, Hang):
        rig.drop(contender)


class _Expected:
    """The serial map's results for the first so many tasks, each made once."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.results: dict[int, Any] = {}

    def __getitem__(self, count: int) -> Any:
        if not self.case.serial:  # sleeps: they return their task, and in series they would take an age
            return self.case.inputs[:count]
        if count not in self.results:
            self.results[count] = self.case.prepare(Serial(), None, count)()
        return self.results[count]


def _make(
    expected: _Expected, contender: Contender, chunk: int | None, workers: int, settings: Settings
) -> _Variant:
    """A variant whose result has been compared with the serial one, warmed up and with its block size set."""
    case, total = expected.case, len(expected.case)
    size = chunk or contender.default_chunk(total, workers)
    count = EXTRAPOLATE_FROM if size == 1 and total > EXTRAPOLATE_ABOVE else total
    with watchdog(HANG_SECONDS):
        reference = expected[count]
        call = case.prepare(contender, chunk, count)
        start = time.perf_counter()
        result = call()
        once = time.perf_counter() - start
        if not same(result, reference):
            raise AssertionError("not the results of the serial map")
        del result
        variant = _Variant(contender, chunk, call, total / count / case.per)
        if once > 0.1:  # warm enough: start-up effects are far smaller
            variant.trial = once * variant.scale
        else:
            variant.block = _fits(variant, settings.block)
            variant.trial = min(variant.run() for _ in range(3))
    return variant


def _fits(variant: _Variant, seconds: float) -> int:
    """How many calls in a row fit into a block. By the shortest of some: the first ones after a pause take a multiple, as no cache has
    what they need, and blocks sized by them would hold no others."""
    once, spent = math.inf, 0.0
    while spent < seconds:
        once = min(once, variant.run() / variant.scale)
        spent += once
    return max(1, min(400, round(seconds / once)))


def _tuned(
    expected: _Expected, contender: Contender, default: _Variant, workers: int, settings: Settings
) -> _Variant | None:
    """The best of a few explicit chunk sizes, or None where none beats the default."""
    if not contender.tunable:
        return None
    n = len(expected.case)
    ladder = [math.ceil(n / (workers * k)) for k in (1, 4, 2, 16, 64)]
    if n <= 2000:
        ladder.insert(1, 1)
    sizes = dict.fromkeys(expected.case.tune if expected.case.tune is not None else ladder)
    sizes.pop(contender.default_chunk(n, workers), None)
    tried: list[_Variant] = []
    spent = 0.0
    for size in list(sizes)[: settings.tune_steps]:
        start = time.perf_counter()
        tried.append(_make(expected, contender, size, workers, settings))
        spent += time.perf_counter() - start
        if spent > settings.budget / 10:
            break
    best = min(tried, key=lambda variant: variant.trial, default=None)
    return best if best is not None and best.trial < default.trial else None


def _rounds(variants: Sequence[Any], settings: Settings, sample: Callable[[Any], float | None]) -> None:
    """Alternate until the budget is used up; each variant runs at least min_rounds times.

    Slow ones run no more often than that: their ratios are large and need less care, the others need rounds.
    """
    order = random.Random(1)
    start = time.perf_counter()
    last: dict[int, float] = {}
    for number in range(settings.max_rounds):
        shuffled = list(variants)
        if number >= settings.min_rounds:
            if time.perf_counter() - start > settings.budget:
                break
            shuffled = [v for v in shuffled if last[id(v)] < settings.budget / 10]
        order.shuffle(shuffled)
        gc.collect()
        with no_collection():
            for variant in shuffled:
                began = time.perf_counter()
                with watchdog(2 * HANG_SECONDS):
                    value = sample(variant)
                last[id(variant)] = time.perf_counter() - began
                if value is not None:
                    variant.series.samples[number] = value


def _subtract_serial(cells: dict[str, Cell]) -> None:
    serial = cells[Serial.key].default
    done: set[int] = set()
    for key, cell in cells.items():
        for series in (cell.default, cell.tuned):
            if key != Serial.key and id(series) not in done:
                done.add(id(series))
                series.samples = {r: v - serial.samples[r] for r, v in series.samples.items()}


def cpu_rows(rig: Rig, settings: Settings) -> list[Row]:
    """CPU time per task at chunk size 1, of this process (all threads) and of the workers, and the wall time.

    CPU time hardly depends on load, so it tells what a pool costs where two cores cannot show it.
    """
    n = settings.cpu_tasks
    inputs = list(range(n))
    pools = [c for c in rig.contenders("cpu") if c.parallel]
    with watchdog(HANG_SECONDS):
        pids = {c.key: worker_pids(c, rig.workers) for c in pools}
    names = ("cpu-master", "cpu-workers", "cpu-wall")
    cells: dict[str, dict[str, Cell]] = {name: {} for name in names}
    for contender in pools:
        for name in names:
            cells[name][contender.key] = Cell()
        contender.map(tasks.noop, contender.adapt(inputs), 1)

    @dataclass
    class Probe:
        contender: Contender
        series: Series = field(default_factory=Series)

    def sample(probe: Probe) -> float:
        contender = probe.contender
        prepared = contender.adapt(inputs)
        workers = pids[contender.key]
        before = [time.process_time(), sum(map(cpu_time, workers)), time.perf_counter()]
        contender.map(tasks.noop, prepared, 1)
        wall = time.perf_counter()
        after = [time.process_time(), sum(map(cpu_time, workers)), wall]
        number = len(probe.series.samples)
        for name, old, new in zip(names, before, after, strict=True):
            series = cells[name][contender.key].default
            series.samples[number] = (new - old) / n
        return wall - before[2]

    _rounds([Probe(c) for c in pools], settings, sample)
    head = "chunksize=1: per task, "
    return [
        Row("cpu-master", head + "CPU of the master", cells["cpu-master"], CPU_MASTER_GOALS),
        Row("cpu-workers", head + "CPU of the workers", cells["cpu-workers"], CPU_WORKERS_GOALS),
        Row("cpu-wall", head + "wall time", cells["cpu-wall"]),
    ]


def creation_rows(contenders: Sequence[Contender], settings: Settings) -> list[Row]:
    """Create 8 workers and run a first map; then stop them. Here no other pool is alive."""
    pools = [c for c in contenders if c.parallel and c.only is None]
    first: dict[str, Cell] = {c.key: Cell() for c in pools}
    whole: dict[str, Cell] = {c.key: Cell() for c in pools}
    order = random.Random(1)
    for number in range(settings.creations):
        order.shuffle(pools)
        for contender in pools:
            # The pools that start fresh interpreters take a second each: fewer rounds for them.
            series = first[contender.key].default, whole[contender.key].default
            if number >= settings.min_rounds and series[0].median > 0.4:
                continue
            if first[contender.key].error is not None:
                continue
            inputs = contender.adapt(list(range(16)))
            gc.collect()
            try:
                with no_collection(), watchdog(HANG_SECONDS):
                    start = time.perf_counter()
                    contender.open(8)
                    contender.map(tasks.square, inputs)
                    mapped = time.perf_counter()
                    contender.close()
                    stopped = time.perf_counter()
            except Exception as error:
                first[contender.key].error = whole[contender.key].error = _describe(error)
                say(f"create: {contender.key}: {_describe(error)}")
                continue
            series[0].samples[number] = mapped - start
            series[1].samples[number] = stopped - start
    note = "loky and joblib start fresh interpreters, the others fork"
    return [
        Row("create", "create 8 forked workers + first map", first, CREATE_GOALS, note=note),
        Row("create-stop", "the same + stop", whole, note=note),
    ]


def worker_pids(contender: Contender, workers: int) -> list[int]:
    """The processes that run tasks, found by asking them."""
    seen: set[int] = set()
    for _ in range(20):
        seen.update(contender.map(tasks.worker_pid, contender.adapt([0.005] * workers * 4), 1))
        if len(seen) >= workers:
            return sorted(seen)
    raise RuntimeError(f"{contender.key}: only {len(seen)} of {workers} workers ever ran a task")


def cpu_time(pid: int) -> float:
    """CPU seconds of another process, all threads, to the nanosecond (/proc/<pid>/stat has 10 ms ticks).

    Linux numbers the CPU clock of a process so; clock_getcpuclockid(3) computes the same and Python lacks it.
    """
    return time.clock_gettime((~pid << 3) | 2)


def memory(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, and its proportional share (a page that n processes map counts 1/n)."""
    fields = {}
    with open(f"/proc/{pid}/smaps_rollup") as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            if name in ("Rss", "Pss"):
                fields[name] = int(rest.split()[0]) * 1024
    return fields["Rss"], fields["Pss"]


def same(a: Any, b: Any) -> bool:
    """Equal values of equal types, all the way down; floats bit for bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return bool(a == b)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def load() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())
