"""Running the commands of a release check, and virtual environments for them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 1800  # per command: a test run of one Python takes 4 minutes on two free CPUs


class Failed(Exception):
    """A step did not hold; the text says what, with the command's output."""


def run(
    *command: str | Path, cwd: Path, env: Mapping[str, str] | None = None, only: bool = False, log: Path | None = None
) -> str:
    """Output of a command that must succeed.

    Parameters
    ----------
    command : str or Path
        Program and arguments.
    cwd : Path
        Where it runs; not the source tree, so that the installed package is what is imported.
    env : mapping, optional
        Variables on top of this process's.
    only : bool
        `env` is the whole environment.
    log : Path, optional
        File that keeps the output.

    Raises
    ------
    Failed
        It did not succeed, or did not end.
    """
    # Compiled modules would be written into the tree by as many Pythons; PYTHONPATH would hide the installed package.
    inherited = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}
    variables = dict(env or {}) if only else {**inherited, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
    words = [str(part) for part in command]
    try:
        done = subprocess.run(
            words, cwd=cwd, env=variables, text=True, errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise Failed(f"did not end in {SECONDS} s: {shlex.join(words)}") from error
    if log is not None:
        log.write_text(done.stdout)
    if done.returncode != 0:
        raise Failed(f"exit code {done.returncode} of {shlex.join(words)}\n{done.stdout[-8000:]}")
    return done.stdout


def environment(python: str | Path, folder: Path, requirements: Sequence[str] = ()) -> Path:
    """Interpreter of a new virtual environment with these requirements. pip is this Python's: not every Python brings one."""
    run(python, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    made = folder / "bin" / "python"
    if requirements:
        run(sys.executable, "-m", "pip", "--python", made, "install", "-q", "--disable-pip-version-check", *requirements, cwd=folder.parent)
    return made


def requirement(wheel: Path, *extras: str) -> str:
    """The wheel with extras, as pip reads it."""
    return f"schwimmbad-go[{','.join(extras)}] @ {wheel.as_uri()}" if extras else f"schwimmbad-go @ {wheel.as_uri()}"
