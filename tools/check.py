#!/usr/bin/env python3
"""Run every check of the project, one stage after the other, and count; `bash dev.sh test` and `bash dev.sh lint` call it.

A stage that fails does not stop the others. The last line is `N passed, N failed`, summed over the Go tests and pytest; a stage that
fails without a failed test to show for it (a formatter, a build error, a timeout) counts as one failure.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from swgbuild import mpi as mpi_headers
from swgbuild.project import ToolMissing

ROOT = Path(__file__).resolve().parent.parent
STAGE_SECONDS = 900  # a hang must end the stage, not the machine's patience
# The newest release that is written for the go line of go.mod.
STATICCHECK = "honnef.co/go/tools/cmd/staticcheck@v0.8.2"


class Counts(NamedTuple):
    passed: int = 0
    failed: int = 0
    skipped: int = 0


class Stage(NamedTuple):
    name: str
    run: Callable[[], tuple[int, Counts]]  # -> exit code, tests


# --- running a command --------------------------------------------------------------------------------------------------


def lines_of(command: list[str], code: list[int], capture: bool, variables: Mapping[str, str] | None = None) -> Iterator[str]:
    """Lines of a command's output where captured (else they go to the terminal); its exit code is appended to `code` at the end."""
    environment = {**os.environ, "GOFLAGS": "-buildvcs=false", "CGO_ENABLED": "1", "PYTHONUNBUFFERED": "1", **(variables or {})}
    # A session of its own: a deadline must reach the grandchildren too, test binaries and workers.
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, errors="replace", start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if capture else None,
    )  # fmt: skip
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        os.killpg(process.pid, signal.SIGKILL)

    deadline = threading.Timer(STAGE_SECONDS, expire)
    deadline.start()
    try:
        if process.stdout is not None:
            yield from process.stdout
        process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        deadline.cancel()
    if expired.is_set():
        print(f"check: killed after {STAGE_SECONDS} s: {' '.join(command)}", flush=True)
    code.append(process.returncode)


def plain(*command: str, **variables: str) -> Callable[[], tuple[int, Counts]]:
    """A stage judged by its exit code alone."""

    def run() -> tuple[int, Counts]:
        code: list[int] = []
        for _ in lines_of(list(command), code, False, variables):
            raise AssertionError("uncaptured output arrived")
        return code[0], Counts()

    return run


# --- the stages ---------------------------------------------------------------------------------------------------------


def go() -> str:
    return os.environ.get("GO", "go")  # dev.sh exports the one that tools/gobuild.py chose


def gofmt() -> tuple[int, Counts]:
    """Names the Go files that gofmt would change. Hidden directories are left out: .venv may hold a whole Go tree."""
    files = [str(f.relative_to(ROOT)) for f in ROOT.rglob("*.go") if not any(p.startswith(".") for p in f.relative_to(ROOT).parts)]
    root = subprocess.run([go(), "env", "GOROOT"], cwd=ROOT, text=True, capture_output=True, check=True).stdout.strip()
    code: list[int] = []
    unformatted = list(lines_of([str(Path(root, "bin", "gofmt")), "-l", *files], code, capture=True)) if files else []
    for name in unformatted:
        print(f"not formatted by gofmt: {name}", end="")
    return (code[0] if code else 0) or int(bool(unformatted)), Counts()


def go_test(*flags: str) -> Callable[[], tuple[int, Counts]]:
    """go test over all packages; prints a line per package and the whole output of what failed."""

    def run() -> tuple[int, Counts]:
        outcomes = dict.fromkeys(("pass", "fail", "skip"), 0)
        output: dict[tuple[str, str], list[str]] = defaultdict(list)
        code: list[int] = []
        for line in lines_of([go(), "test", "-json", "-timeout=10m", *flags, "./..."], code, capture=True):
            try:
                event = json.loads(line)
            except json.JSONDecodeError:  # the go command itself speaks plain text
                print(line, end="")
                continue
            action, key = event["Action"], (event.get("Package", ""), event.get("Test", ""))
            if action == "output":
                output[key].append(event["Output"])
            elif action == "build-output":
                print(event["Output"], end="")
            elif action in outcomes:
                if key[1]:
                    outcomes[action] += 1
                text = output.pop(key, [])
                if action == "fail":
                    print("".join(text), end="", flush=True)
                elif not key[1]:
                    print(text[-1] if text else f"{action}\t{key[0]}\n", end="", flush=True)
        for text in output.values():  # tests that never ended: a panic, a timeout
            print("".join(text), end="")
        return code[0], Counts(outcomes["pass"], outcomes["fail"], outcomes["skip"])

    return run


def pytest() -> tuple[int, Counts]:
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "junit.xml")
        code, _ = plain(sys.executable, "-m", "pytest", "-q", "--maxfail=60", "--durations=10", f"--junitxml={report}")()
        if not report.exists():  # killed, or crashed before the end
            return code or 1, Counts()
        suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    tests, failures, errors, skipped = (sum(int(s.get(key, 0)) for s in suites) for key in ("tests", "failures", "errors", "skipped"))
    return code, Counts(tests - failures - errors - skipped, failures + errors, skipped)


def with_mpi(*command: str) -> Callable[[], tuple[int, Counts]]:
    """A command over the Go files that are built with `-tags mpi` only, against the header of each family that is here.

    Both, because they disagree about types: an MPI_Comm is a pointer in Open MPI and an integer in MPICH.
    """

    def run() -> tuple[int, Counts]:
        failed = 0
        for family in mpi_headers.MPI_TITLES:
            try:
                headers = mpi_headers.find_headers(family)
            except ToolMissing as error:
                print(f"skipped: {error}", flush=True)
                continue
            failed = plain(*command, CGO_CFLAGS=f"'-I{headers.directory}' -O2")()[0] or failed
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
TESTS = (
    Stage("go test", go_test()),
    Stage("go test -race", go_test("-race")),
    Stage("pytest", pytest),
)


def main() -> int:
    if sys.argv[1:] not in (["test"], ["lint"]):
        print("usage: check.py test|lint", file=sys.stderr)
        return 2
    total = Counts()
    summary = []
    for stage in LINT if sys.argv[1] == "lint" else LINT + TESTS:
        print(f"\n== {stage.name}", flush=True)
        start = time.monotonic()
        code, counts = stage.run()
        if code != 0 and counts.failed == 0:
            counts = counts._replace(failed=1)
        summary.append(
            f"{stage.name:<18}{'ok' if code == 0 else f'FAILED (exit {code})':<18}{time.monotonic() - start:>7.1f} s"
            f"{counts.passed:>7} passed{counts.failed:>5} failed{counts.skipped:>5} skipped"
        )
        total = Counts(*(a + b for a, b in zip(total, counts)))
    print("\n" + "\n".join(summary))
    print(f"{total.passed} passed, {total.failed} failed", flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
