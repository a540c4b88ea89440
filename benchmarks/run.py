"""Compare schwimmbad-go's MultiPool with the other pools on this machine: one table, one JSON document.

python benchmarks/run.py [--quick] [--only NAME]... [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Before numpy is imported anywhere: BLAS threads in the workers would fight over the cores. And before
# workers start: the fresh interpreters of loky and joblib find the tasks through PYTHONPATH.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))

import contenders  # noqa: E402
import footprint  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
import workloads  # noqa: E402

ORDER = (*workloads.CASES, "create", "cpu", "footprint")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = "may be repeated: " + ", ".join(ORDER)
    parser.add_argument("--quick", action="store_true", help="smaller inputs, few rounds: under a minute")
    parser.add_argument("--only", action="append", choices=ORDER, metavar="NAME", help=names)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample and ratio")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table for a document")
    baseline = "the pool that ratios refer to instead of ours"
    parser.add_argument("--baseline", default=contenders.OURS, metavar="POOL", help=baseline)
    return parser.parse_args()


def fresh_rows(
    name: str, pools: Sequence[contenders.Contender], settings: measure.Settings
) -> list[measure.Row]:
    """The rows for which each contender is started anew."""
    if name == "create":
        return measure.creation_rows(pools, settings)
    keys = [c.key for c in pools if c.parallel and c.only is None]
    return footprint.rows(keys, settings.probes, settings.idle)


def rig_rows(
    names: Sequence[str], rig: measure.Rig, quick: bool, settings: measure.Settings
) -> dict[str, list[measure.Row]]:
    """The rows of one group of open pools."""
    found: dict[str, list[measure.Row]] = {}
    for name in names:
        start = time.perf_counter()
        if name == "cpu":
            found[name] = measure.cpu_rows(rig, settings)
        else:
            found[name] = measure.time_case(workloads.CASES[name](quick), rig, settings)
        measure.say(f"{name}: {time.perf_counter() - start:.1f} s, load {measure.load()}")
    return found


def command(args: argparse.Namespace) -> str:
    """The command line that makes this table again; files it wrote are the reader's own."""
    words = ["python benchmarks/run.py", *(["--quick"] if args.quick else [])]
    words += [f"--only {name}" for name in args.only or []]
    words += [f"--baseline {args.baseline}"] if args.baseline != contenders.OURS else []
    return " ".join(words)


def main() -> int:
    args = arguments()
    # Python 3.12 and later warn about every fork of a process with threads; most peers have threads here.
    warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork.*")
    settings = measure.QUICK if args.quick else measure.FULL
    pools, missing = contenders.available()
    if args.baseline not in [c.key for c in pools]:
        reason = missing.get(args.baseline, "no such contender")
        print(f"{args.baseline}: {reason}. Ratios need it; --baseline chooses another.", file=sys.stderr)
        return 2
    chosen = args.only or ORDER
    start, load_before = time.perf_counter(), measure.load()

    found: dict[str, list[measure.Row]] = {}
    for name in ("footprint", "create"):  # before the groups: a parent with little in it forks as users' do
        if name in chosen:
            measure.say(f"{name}, load {measure.load()}")
            found[name] = fresh_rows(name, pools, settings)
    # Samplers are imported before the pools are opened, as users do: forked workers then have them too.
    for name, package in workloads.REQUIRES.items():
        if name in chosen and importlib.util.find_spec(package) is None:
            missing[name] = f"{package} is not installed"
        elif name in chosen:
            importlib.import_module(package)
    chosen = [name for name in chosen if name not in missing]
    for workers in (2, 8):
        names = [n for n in chosen if n not in found and (n in workloads.EIGHT_WORKERS) == (workers == 8)]
        if names:
            with measure.Rig(pools, workers) as rig:
                missing |= rig.broken
                found |= rig_rows(names, rig, args.quick, settings)
    rows = [row for name in ORDER for row in found.get(name, [])]

    about = {
        "command": command(args),
        "environment": report.environment(),
        "load_before": load_before,
        "load_after": measure.load(),
        "seconds": round(time.perf_counter() - start, 1),
        "missing": missing,
    }
    lines = report.table(rows, pools, args.baseline)
    summary = report.summary(about, rows, pools)
    print(report.text_table(lines), summary, sep="\n\n")
    if args.json:
        document = report.document(rows, pools, args.baseline, about)
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(report.markdown_table(lines) + "\n\n" + summary + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
