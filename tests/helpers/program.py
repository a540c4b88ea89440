"""The program schwimmbad-go: built once for all tests of a run, started with a mark by which nothing that it leaves goes unseen."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers import leaks

ROOT = Path(__file__).resolve().parents[2]
# What makes the program take another Python than the one a test means.
_CHOICES = ("VIRTUAL_ENV", "CONDA_PREFIX", "SCHWIMMBAD_GO_PYTHON", "SCHWIMMBAD_GO_CACHE", "PYTHONPATH", "PYTHONHOME", "PYTHONUNBUFFERED")


@dataclass(frozen=True)
class Result:
    returncode: int
    stdout: str
    stderr: str

    def ok(self) -> str:
        """stdout of a run that must succeed and say nothing on stderr."""
        assert (self.returncode, self.stderr) == (0, ""), f"rc {self.returncode}\nstdout: {self.stdout}\nstderr: {self.stderr}"
        return self.stdout


@dataclass(frozen=True)
class Program:
    """The built program with a cache of its own."""

    path: Path
    cache: Path

    def environment(self, mark: str, variables: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k not in _CHOICES}
        return {**kept, "SCHWIMMBAD_GO_CACHE": str(self.cache), leaks.MARK: mark, **(variables or {})}

    @contextmanager
    def start(
        self,
        *args: str | Path,
        cwd: Path,
        variables: Mapping[str, str] | None = None,
        stdin: int | None = subprocess.DEVNULL,
        before: tuple[str, ...] = (),
    ) -> Iterator[subprocess.Popen[str]]:
        """The running program, in a process group of its own. Whatever it has left a second after its end fails the test."""
        mark = uuid.uuid4().hex
        process = subprocess.Popen(
            [*before, str(self.path), *map(str, args)],
            cwd=cwd,
            env=self.environment(mark, variables),
            text=True,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            yield process
            process.wait(30)
            left = leaks.poll(lambda: not leaks.marked(mark), 2.0)
            assert left <= 2.0, f"left behind: {leaks.marked(mark)}"
        finally:
            for pid in leaks.marked(mark):
                os.kill(pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # what was not written, to a program that has left
                        pipe.close()

    def __call__(
        self,
        *args: str | Path,
        cwd: Path,
        variables: Mapping[str, str] | None = None,
        input: str | None = None,
        timeout: float = 60,
        before: tuple[str, ...] = (),
    ) -> Result:
        """Run the program to its end."""
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        with self.start(*args, cwd=cwd, variables=variables, stdin=stdin, before=before) as process:
            out, err = process.communicate(input, timeout)
            return Result(process.returncode, out, err)


@pytest.fixture(name="program", scope="session")
def program_fixture(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The program as 'go build' makes it here, with the embedded Python and without cgo."""
    folder = tmp_path_factory.mktemp("program")
    path = folder / "schwimmbad-go"
    done = subprocess.run(
        [os.environ.get("GO", "go"), "build", "-o", path, "./cmd/schwimmbad-go"], cwd=ROOT, text=True, capture_output=True,
        env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Program(path, folder / "cache")
