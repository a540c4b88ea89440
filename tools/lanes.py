"""Stages of a check, run two at a time: each a command or several, with its output, exit code and tests."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

ROOT = Path(__file__).resolve().parent.parent
# Tests of processes wait more than they compute: pytest alone keeps two CPUs busy for 40 % of its time.
LANES = 2
STAGE_SECONDS = 900  # a hang must end the stage, not the machine's patience


class Counts(NamedTuple):
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    again: int = 0  # of the passed: those that failed first, and passed when they ran alone


Run = Callable[[TextIO], tuple[int, Counts]]  # where its output goes -> exit code, tests


class Stage(NamedTuple):
    name: str
    run: Run


_running: set[subprocess.Popen[str]] = set()


def kill_all() -> None:
    """End the commands of all lanes, with all that they started."""
    for process in list(_running):
        os.killpg(process.pid, signal.SIGKILL)


def lines_of(
    command: list[str], code: list[int], out: TextIO, capture: bool, variables: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Lines of a command's output where captured (else they go to `out`); its exit code is appended to `code` at the end."""
    environment = {**os.environ, "GOFLAGS": "-buildvcs=false", "CGO_ENABLED": "1", "PYTHONUNBUFFERED": "1", **(variables or {})}
    out.flush()
    # A session of its own: a deadline must reach the grandchildren too, test binaries and workers.
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, errors="replace", start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if capture else out, stderr=out,
    )  # fmt: skip
    _running.add(process)
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
    except BaseException:  # the stage has failed on a line, or was given up
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        deadline.cancel()
        _running.discard(process)
        if process.stdout is not None:
            process.stdout.close()
    if expired.is_set():
        print(f"check: killed after {STAGE_SECONDS} s: {' '.join(command)}", file=out)
    code.append(process.returncode)


def plain(*command: str, **variables: str) -> Run:
    """A stage judged by its exit code alone."""

    def run(out: TextIO) -> tuple[int, Counts]:
        code: list[int] = []
        for _ in lines_of(list(command), code, out, False, variables):
            raise AssertionError("uncaptured output arrived")
        return code[0], Counts()

    return run


class Lanes:
    """Takes stages from one queue, `LANES` at a time, and shows each when it has ended."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._queue = deque(stages)
        self._lock = threading.Lock()
        self.lines: list[str] = []
        self.total = Counts()

    def run(self) -> None:
        threads = [threading.Thread(target=self._lane, daemon=True) for _ in range(LANES)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self._queue.clear()
            kill_all()
            raise

    def _lane(self) -> None:
        while True:
            try:
                stage = self._queue.popleft()
            except IndexError:
                return
            start = time.monotonic()
            with tempfile.TemporaryFile("w+", errors="replace") as out:
                try:
                    code, counts = stage.run(out)
                except Exception as error:  # of this program, not of the command: the stage has failed, the others go on
                    code, counts = 1, Counts()
                    print(f"check: {type(error).__name__}: {error}", file=out)
                out.seek(0)
                self._report(stage, code, counts, time.monotonic() - start, out.read())

    def _report(self, stage: Stage, code: int, counts: Counts, seconds: float, output: str) -> None:
        if code != 0 and counts.failed == 0:
            counts = counts._replace(failed=1)
        line = (
            f"{stage.name:<20}{'ok' if code == 0 else f'FAILED (exit {code})':<18}{seconds:>7.1f} s"
            f"{counts.passed:>7} passed{counts.failed:>5} failed{counts.skipped:>5} skipped"
            f"{f'{counts.again:>5} at the second try' if counts.again else ''}"
        )
        with self._lock:
            print(f"\n== {stage.name}, {seconds:.1f} s\n{output}", end="", flush=True)
            self.lines.append(line)
            self.total = Counts(*(a + b for a, b in zip(self.total, counts)))
