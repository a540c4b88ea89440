"""The source tree, the machine that it is built on, and how a build says that it cannot."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path("python", "schwimmbad_go")

PROBE_TIMEOUT = 300  # [s], guessed; a Go that fetches its toolchain answers slowly


class BuildError(RuntimeError):
    """The library cannot be built here; the text says why and what to do."""


class ToolMissing(BuildError):
    """No usable Go, or no usable C compiler; the text lists what was tried."""


def project_version(root: Path = ROOT) -> str:
    """Version in pyproject.toml. Read with a pattern: Python 3.10 has no TOML reader."""
    found = re.search(r'^\[project\]$.*?^version = "([^"]+)"', (root / "pyproject.toml").read_text("utf-8"), re.M | re.S)
    if found is None:
        raise BuildError(f"no version in the [project] table of {root / 'pyproject.toml'}")
    return found.group(1)


def machine() -> str:
    """Processor the running Python was built for, which is not always the kernel's."""
    if sys.platform == "darwin":
        return platform.machine()  # get_platform() says "universal2" there; a library of ours has one architecture
    return sysconfig.get_platform().rpartition("-")[2]


def musl() -> bool:
    """Whether the running Python is for a musl system, such as Alpine."""
    return "musl" in (sysconfig.get_config_var("SOABI") or "")


def run_probe(command: list[str], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command that only answers a question: its output and exit code, whatever they are."""
    return subprocess.run(
        command, env=env, cwd=cwd, text=True, errors="replace", stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_TIMEOUT
    )
