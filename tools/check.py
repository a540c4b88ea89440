#!/usr/bin/env python3
"""Run every check of the project, two at a time, and count; `bash dev.sh test` and `bash dev.sh lint` call it.

A stage that fails does not stop the others. Its output is shown in one piece when it has ended. The last line is `N passed, N
failed`, summed over the Go tests and pytest; a stage that fails without a failed test to show for it (a formatter, a build error, a
timeout) counts as one failure.
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


def go_test(*flags: str) -> Run:
    """go test over all packages; prints a line per package and the whole output of what failed."""

    def run(out: TextIO) -> tuple[int, Counts]:
        outcomes = dict.fromkeys(("pass", "fail", "skip"), 0)
        output: dict[tuple[str, str], list[str]] = defaultdict(list)
        code: list[int] = []
        for line in lines_of([go(), "test", "-json", "-timeout=10m", *flags, "./..."], code, out, capture=True):
            try:
                event = json.loads(line)
            except json.JSONDecodeError:  # the go command itself speaks plain text
                print(line, end="", file=out)
                continue
            action, key = event["Action"], (event.get("Package", ""), event.get("Test", ""))
            if action == "output":
                output[key].append(event["Output"])
            elif action == "build-output":
                print(event["Output"], end="", file=out)
            elif action in outcomes:
                if key[1]:
                    outcomes[action] += 1
                text = output.pop(key, [])
                if action == "fail":
                    print("".join(text), end="", file=out)
                elif not key[1]:
                    print(text[-1] if text else f"{action}\t{key[0]}\n", end="", file=out)
        for text in output.values():  # tests that never ended: a panic, a timeout
            print("".join(text), end="", file=out)
        return code[0], Counts(outcomes["pass"], outcomes["fail"], outcomes["skip"])

    return run


# Directories that make a pytest run of their own; all the rest is one more. Runs of several at once are kept apart: each finds its own
# processes by a mark in their environment. Long ones first, so that both lanes end at about the same time.
PARTS = ("mpi", "conformance", "crash", "packaging")


def pytest(*arguments: str) -> Run:
    """A run of pytest, counted by its report."""

    def run(out: TextIO) -> tuple[int, Counts]:
        with tempfile.TemporaryDirectory() as scratch:
            report = Path(scratch, "junit.xml")
            # The cache would be written by two at once.
            options = ["-q", "-p", "no:cacheprovider", "--maxfail=60", "--durations=5", f"--junitxml={report}"]
            code, _ = plain(sys.executable, "-m", "pytest", *options, *arguments)(out)
            if not report.exists():  # killed, or crashed before the end
                return code or 1, Counts()
            suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
        tests, failures, errors, skipped = (sum(int(s.get(key, 0)) for s in suites) for key in ("tests", "failures", "errors", "skipped"))
        return code, Counts(tests - failures - errors - skipped, failures + errors, skipped)

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
    print(f"{'together':<38}{time.monotonic() - start:>7.1f} s")
    print(f"{lanes.total.passed} passed, {lanes.total.failed} failed", flush=True)
    return 1 if lanes.total.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
