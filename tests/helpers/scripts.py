"""Runs a user's script in an interpreter of its own, in a process group of its own, and watches what it leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import schwimmbad_go

from helpers import leaks

TESTS = Path(__file__).resolve().parent.parent
PACKAGE = Path(schwimmbad_go.__file__).resolve().parent.parent
# A program that hosts the engine for the scripts (tests/test_engine_fd.py sets it); none: they load the library.
HOST = "SWG_TEST_HOST"


def environment(mark: str, extra: dict[str, str] | None = None) -> dict[str, str]:
    paths = [str(PACKAGE), str(TESTS)]
    if os.environ.get("PYTHONPATH"):
        paths.append(os.environ["PYTHONPATH"])
    ours = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", leaks.MARK: mark}
    return {**os.environ, **ours, **(extra or {})}


@dataclass
class Script:
    """A running script. Use as a context manager: whatever is left of it is killed at the end."""

    process: subprocess.Popen[str]
    mark: str
    started: float = field(default_factory=time.monotonic)

    def family(self) -> set[int]:
        """The script and everything that came from it."""
        return leaks.marked(self.mark)

    def finish(self, timeout: float = 30.0) -> tuple[int, str, str]:
        """(return code, stdout, stderr) at its end; a script that hangs is killed and fails the test."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"script still ran after {timeout} s\nstdout: {out}\nstderr: {err}") from None
        return self.process.returncode, out, err

    def read_line(self) -> str:
        """The next line of stdout: how a script says that it got somewhere."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def interrupt(self) -> None:
        """What Ctrl-C in a terminal does: SIGINT to the whole foreground process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        for pid in self.family():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self.process.wait(10)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def start(directory: Path, source: str, *args: str, stdin: bool = False, flags: tuple[str, ...] = (),
          env: dict[str, str] | None = None) -> Script:
    """Start `source` as `directory`/script.py, or fed through stdin as a notebook or a heredoc would."""
    mark = uuid.uuid4().hex
    path = directory / "script.py"
    path.write_text(textwrap.dedent(source))
    environ = environment(mark, env)
    with open(path if stdin else os.devnull) as source_file:
        process = subprocess.Popen(
            [*filter(None, [environ.get(HOST)]), sys.executable, *flags, "-" if stdin else str(path), *args],
            cwd=directory, env=environ, text=True, start_new_session=True,
            stdin=source_file, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
    return Script(process, mark)


def run(directory: Path, source: str, *args: str, timeout: float = 30.0, stdin: bool = False,
        flags: tuple[str, ...] = (), env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run to the end, and fail if a process of the script outlives it by more than a second."""
    with start(directory, source, *args, stdin=stdin, flags=flags, env=env) as script:
        result = script.finish(timeout)
        seconds = leaks.poll(lambda: not script.family(), 1.0)
        assert seconds <= 1.0, f"left behind by the script: {script.family()}\nstderr: {result[2]}"
    return result


def succeed(directory: Path, source: str, *args: str, timeout: float = 30.0, stdin: bool = False,
            flags: tuple[str, ...] = (), env: dict[str, str] | None = None) -> str:
    """stdout of a script that must end with code 0 and say nothing on stderr."""
    code, out, err = run(directory, source, *args, timeout=timeout, stdin=stdin, flags=flags, env=env)
    assert code == 0 and err == "", f"rc {code}\nstdout: {out}\nstderr: {err}"
    return out
