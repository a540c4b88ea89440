"""joblib.Parallel on schwimmbad-go's workers beside loky's, in one process, by turns.

python benchmarks/joblib_backend.py [--quick] [--json FILE] [--markdown FILE]

Not called joblib.py: the other benchmarks would import it in joblib's place.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the master; both backends limit their workers themselves
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))

import joblib  # noqa: E402
import measure  # noqa: E402
import numpy as np  # noqa: E402
import report  # noqa: E402
import schwimmbad_go  # noqa: E402
import tasks  # noqa: E402

BACKENDS = ("schwimmbad", "loky")
WORKERS = 2
COLD = """
import time
start = time.perf_counter()
import joblib, schwimmbad_go
if {backend!r} == "schwimmbad":
    schwimmbad_go.register_joblib_backend()
import_time = time.perf_counter() - start
start = time.perf_counter()
joblib.Parallel(n_jobs=2, backend={backend!r})(joblib.delayed(abs)(i) for i in range(4))
print(time.perf_counter() - start)
"""


@dataclass
class Work:
    """One row: a call that is made with each backend, how many of them make a sample, and the goal."""

    title: str
    call: Callable[[str], Any]
    goal: float
    calls: int = 1
    collects: bool = False  # the garbage collector is on, as programs have it: the other rows are taken without, to scatter less


@dataclass
class Variant:
    """A backend at one row."""

    work: Work
    backend: str
    series: measure.Series = field(default_factory=measure.Series)
    cpu: measure.Series = field(default_factory=measure.Series)

    def run(self) -> float:
        """Seconds per call."""
        if self.work.collects:
            gc.enable()
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(self.work.calls):
            result = self.work.call(self.backend)
        seconds = (time.perf_counter() - start) / self.work.calls
        self.cpu.samples[len(self.cpu.samples)] = (time.process_time() - cpu) / self.work.calls
        if self.work.collects:
            gc.disable()
        del result
        return seconds


def parallel(backend: str, calls: Any) -> Any:
    return joblib.Parallel(n_jobs=WORKERS, backend=backend)(calls)


def cold(backend: str) -> float:
    """A first call in a fresh process, imports not counted."""
    source = COLD.format(backend=backend)
    return float(subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout)


def works(quick: bool) -> list[Work]:
    """What is measured. `delayed` is made once: called in the loop it would take 2.5 us per task on either side."""
    square, total, negative = (joblib.delayed(f) for f in (tasks.square, np.sum, np.negative))
    many = range(10_000 if quick else 100_000)
    arrays = [np.random.default_rng(i).random(1_000_000) for i in range(4 if quick else 16)]
    found = [
        Work("a call of 2 tiny tasks on warm workers", lambda b: parallel(b, (square(i) for i in range(2))), 2, 10),
        Work("a call of 50 tiny tasks on warm workers", lambda b: parallel(b, (square(i) for i in range(50))), 2, 5),
        Work(f"{len(many):,} tiny tasks, automatic batches", lambda b: parallel(b, (square(i) for i in many)), 3),
        Work("the same, garbage collector on", lambda b: parallel(b, (square(i) for i in many)), 3, collects=True),
        Work(f"{len(arrays)} arrays of 8 MB in", lambda b: parallel(b, (total(a) for a in arrays)), 2),
        Work(f"{len(arrays)} arrays of 8 MB in and out", lambda b: parallel(b, (negative(a) for a in arrays)), 2),
        Work(f"one array of 8 MB in {len(arrays)} tasks", lambda b: parallel(b, (total(arrays[0]) for _ in arrays)), 1),
    ]
    if importlib.util.find_spec("sklearn") is not None:
        found.append(Work("GridSearchCV, 36 fits of an SVC on the digits", _grid(quick), 1))
    return found


def _grid(quick: bool) -> Callable[[str], Any]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    X, y = load_digits(return_X_y=True)
    X, y = (X[:300], y[:300]) if quick else (X, y)
    grid = {"C": [0.1, 1.0, 10.0, 100.0], "gamma": [1e-4, 1e-3, 1e-2]}

    def fit(backend: str) -> Any:
        with joblib.parallel_config(backend, n_jobs=WORKERS):
            return GridSearchCV(SVC(), grid, cv=3).fit(X, y).cv_results_["mean_test_score"]

    return fit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller inputs, few rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table for a document")
    args = parser.parse_args()
    schwimmbad_go.register_joblib_backend()
    settings = measure.QUICK if args.quick else measure.FULL
    start, before = time.perf_counter(), measure.load()
    rows: list[tuple[str, float, list[Variant]]] = []
    for work in works(args.quick):
        variants = [Variant(work, backend) for backend in BACKENDS]
        results = [work.call(v.backend) for v in variants]  # the first call warms up, and is checked
        assert measure.same(list(results[0]), list(results[1])), work.title
        measure._rounds(variants, settings, lambda v: v.run())
        rows.append((work.title, work.goal, variants))
        measure.say(f"{work.title}: load {measure.load()}")
    first = [Variant(Work("the first call of a process", cold, 1), backend) for backend in BACKENDS]
    for number in range(settings.probes):
        for one in first:
            one.series.samples[number] = cold(one.backend)
    rows.append((first[0].work.title, 1, first))
    lines = [["work", "ours", "loky", "loky / ours", "master's CPU: ours", "loky", "goal", "reached"]]
    for title, goal, (ours, theirs) in rows:
        found = report.ratio(theirs.series, ours.series)
        assert found is not None
        times = [report.amount(v.series.median, "time") for v in (ours, theirs)]
        cpus = [report.amount(v.cpu.median, "time") if v.cpu.samples else "" for v in (ours, theirs)]
        lines.append([title, *times, report.factor(found[0]), *cpus, f"{goal:g}", "yes" if found[0] >= goal else "**no**"])
    about = {"environment": report.environment(), "joblib": joblib.__version__, "load": [before, measure.load()]}
    env = about["environment"]
    text = (
        f"Ratios are the medians over the rounds. joblib {joblib.__version__}, {env['cpu']}, {env['cpus']} CPUs, Python {env['python']}, "
        f"numpy {env['numpy']}. Load average before: {before}; after: {measure.load()}. {time.perf_counter() - start:.0f} s."
    )
    print(report.text_table(lines), text, sep="\n\n")
    if args.json:
        samples = {t: {v.backend: list(v.series.samples.values()) for v in variants} for t, _, variants in rows}
        args.json.write_text(json.dumps({**about, "seconds": samples}, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(report.markdown_table(lines) + "\n\n" + text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
