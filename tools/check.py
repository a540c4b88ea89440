#!/usr/bin/env python3
"""Run every check of the project, two at a time, and count; `bash dev.sh test` and `bash dev.sh lint` call it.

A stage that fails does not stop the others. Its output is shown in one piece when it has ended. The last line is `N passed, N
failed`, summed over the Go tests and pytest; a stage that fails without a failed test to show for it (a formatter, a build error, a
timeout) counts as one failure.

A few failed tests run once more, without company: many have limits of seconds, and two lanes of processes on two CPUs exceed them once in
a while. What then passes is counted as passed and named at the end. What the race detector has found fails at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from lanes import ROOT, Counts, Lanes, Run, Stage, lines_of, plain
from swgbuild import mpi as mpi_headers
from swgbuild.project import ToolMissing

# The newest release that is written for the go line of go.mod.
STATICCHECK = "honnef.co/go/tools/cmd/staticcheck@v0.8.2"


def go() -> str:
    return os.environ.get("GO", "go")  # dev.sh exports the one that tools/gobuild.py chose


def gofmt(out: TextIO) -> tuple[int, Counts]:
    """Names the Go files that gofmt would change. Hidden directories are left out: .venv may hold a whole Go tree."""
    files = [str(f.relative_to(ROOT)) for f in ROOT.rglob("*.go") if not any(p.startswith(".") for p in f.relative_to(ROOT).parts)]
    root = subprocess.run([go(), "env", "GOROOT"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.strip()
    code: list[int] = []
    unformatted = list(lines_of([str(Path(root, "bin", "gofmt")), "-l", *files], code, out, capture=True)) if files else []
    for name in unformatted:
        print(f"not formatted by gofmt: {name}", end="", file=out)
    return (code[0] if code else 0) or int(bool(unformatted)), Counts()


# More are no accident.
SECOND_TRIES = 4
_second: list[str] = []  # what passed at the second try


def go_test(*flags: str) -> Run:
    """go test over all packages; prints a line per package and the whole output of what failed."""

    def run(out: TextIO) -> tuple[int, Counts]:
        code, counts, failed = once("./...")(out)
        if code == 0 or not 0 < len(failed) <= SECOND_TRIES or counts.failed == 0:
            return code, counts
        for package, names in failed.items():
            print(f"\nonce more: {package} {' '.join(sorted(names))}", file=out)
            code, more, _ = once("-run", f"^({'|'.join(sorted(names))})$", package)(out)
            if code != 0 or not more.passed:
                return 1, counts
            _second.extend(f"{package} {name}" for name in sorted(names))
        return 0, counts._replace(passed=counts.passed + counts.failed, failed=0, again=counts.failed)

    def once(*what: str) -> Callable[[TextIO], tuple[int, Counts, dict[str, set[str]]]]:
        return lambda out: _go_test_once([*flags, *what], out)

    return run


def _go_test_once(arguments: list[str], out: TextIO) -> tuple[int, Counts, dict[str, set[str]]]:
    """Exit code, counts, and by package the failed tests that may be tried again; none if something else failed, too."""
    outcomes = dict.fromkeys(("pass", "fail", "skip"), 0)
    output: dict[tuple[str, str], list[str]] = defaultdict(list)
    failed: dict[str, set[str]] = defaultdict(set)
    packages: set[str] = set()
    final = False  # a failure that no second try can mend
    code: list[int] = []
    for line in lines_of([go(), "test", "-json", "-timeout=10m", *arguments], code, out, capture=True):
        try:
            event = json.loads(line)
        except json.JSONDecodeError:  # the go command itself speaks plain text
            print(line, end="", file=out)
            continue
        action, key = event["Action"], (event.get("Package", ""), event.get("Test", ""))
        if action == "output":
            output[key].append(event["Output"])
            final = final or "DATA RACE" in event["Output"]
        elif action == "build-output":
            print(event["Output"], end="", file=out)
            final = True
        elif action in outcomes:
            if key[1]:
                outcomes[action] += 1
            text = output.pop(key, [])
            if action == "fail":
                print("".join(text), end="", file=out)
                if key[1]:
                    failed[key[0]].add(key[1].partition("/")[0])
                else:
                    packages.add(key[0])
            elif not key[1]:
                print(text[-1] if text else f"{action}\t{key[0]}\n", end="", file=out)
    for text in output.values():  # tests that never ended: a panic, a timeout
        print("".join(text), end="", file=out)
        final = final or bool(text)
    if final or packages != failed.keys():
        failed = {}
    return code[0], Counts(outcomes["pass"], outcomes["fail"], outcomes["skip"]), failed


# Directories that make a pytest run of their own; all the rest is one more. Runs of several at once are kept apart: each finds its own
# processes by a mark in their environment. Long ones first, so that both lanes end at about the same time.
PARTS = ("mpi", "conformance", "crash", "packaging")


def pytest(*arguments: str) -> Run:
    """A run of pytest, counted by its report."""

    def run(out: TextIO) -> tuple[int, Counts]:
        with tempfile.TemporaryDirectory() as scratch:
            # A cache of its own: the usual one would be written by two at once.
            options = ["-q", "--maxfail=60", "--durations=5", "-o", f"cache_dir={scratch}/cache"]
            code, counts, _ = _pytest_once(scratch, *options, *arguments)(out)
            if code != 1 or not 0 < counts.failed <= SECOND_TRIES:
                return code, counts
            print("\nonce more: what failed", file=out)
            code, more, names = _pytest_once(scratch, *options, "--last-failed", "--last-failed-no-failures=none", *arguments)(out)
            if code != 0 or more.passed != counts.failed:
                return code or 1, counts
            _second.extend(names)
            return 0, counts._replace(passed=counts.passed + more.passed, failed=0, again=more.passed)

    return run


def _pytest_once(scratch: str, *arguments: str) -> Callable[[TextIO], tuple[int, Counts, list[str]]]:
    def run(out: TextIO) -> tuple[int, Counts, list[str]]:
        report = Path(scratch, "junit.xml")
        report.unlink(missing_ok=True)
        code, _ = plain(sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments)(out)
        if not report.exists():  # killed, or crashed before the end
            return code or 1, Counts(), []
        suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
        tests, failures, errors, skipped = (sum(int(s.get(key, 0)) for s in suites) for key in ("tests", "failures", "errors", "skipped"))
        names = [f"{case.get('classname')}::{case.get('name')}" for suite in suites for case in suite.iter("testcase")]
        return code, Counts(tests - failures - errors - skipped, failures + errors, skipped), names

    return run


def with_mpi(*command: str) -> Run:
    """A command over the Go files that are built with `-tags mpi` only, against the header of each family that is here.

    Both, because they disagree about types: an MPI_Comm is a pointer in Open MPI and an integer in MPICH.
    """

    def run(out: TextIO) -> tuple[int, Counts]:
        failed = 0
        for family in mpi_headers.MPI_TITLES:
            try:
                headers = mpi_headers.find_headers(family)
            except ToolMissing as error:
                print(f"skipped: {error}", file=out)
                continue
            failed = plain(*command, CGO_CFLAGS=f"'-I{headers.directory}' -O2")(out)[0] or failed
        return failed, Counts()

    return run


LINT = (
    Stage("gofmt", gofmt),
    Stage("go vet", plain(go(), "vet", "./...")),
    Stage("go vet, mpi", with_mpi(go(), "vet", "-tags=mpi", "./...")),
    Stage("staticcheck", plain(go(), "run", STATICCHECK, "./...")),
    Stage("staticcheck, mpi", with_mpi(go(), "run", STATICCHECK, "-tags=mpi", "./pools/...", "./pyshim/...")),
    Stage("ruff", plain(sys.executable, "-m", "ruff", "check", ".")),
    Stage("mypy", plain(sys.executable, "-m", "mypy")),
)
MPI, *PARTS_AFTER = (Stage(f"pytest {part}", pytest(f"tests/{part}")) for part in PARTS)
# The longest first, beside all that computes: the ranks of its jobs wait for each other.
TESTS = (
    MPI,
    *LINT,
    Stage("go test", go_test()),
    Stage("go test -race", go_test("-race")),
    *PARTS_AFTER,
    Stage("pytest, the rest", pytest("tests", *(f"--ignore=tests/{part}" for part in PARTS))),
)


def main() -> int:
    if sys.argv[1:] not in (["test"], ["lint"]):
        print("usage: check.py test|lint", file=sys.stderr)
        return 2
    start = time.monotonic()
    lanes = Lanes(LINT if sys.argv[1] == "lint" else TESTS)
    lanes.run()
    print("\n" + "\n".join(lanes.lines))
    for name in _second:
        print(f"passed at the second try only: {name}")
    print(f"{'together':<38}{time.monotonic() - start:>7.1f} s")
    print(f"{lanes.total.passed} passed, {lanes.total.failed} failed", flush=True)
    return 1 if lanes.total.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
