"""Running a command of a test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SECONDS = 110  # per command, below pytest's own limit, so that the command's output is seen


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command that must succeed, without this process's PYTHONPATH and away from the source tree."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd, env={**inherited, **(env or {})}, text=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, f"exit code {done.returncode} of {command}\n{done.stdout}\n{done.stderr}"
    return done
