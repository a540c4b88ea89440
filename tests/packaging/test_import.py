"""Importing the package is free: no library, no thread, no process, no descriptor, no optional dependency."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import run

OPTIONAL = ("numpy", "joblib", "tqdm", "dill", "cloudpickle", "multiprocess", "mpi4py", "loky")

SCRIPT = """
import os, sys
descriptors = os.listdir("/proc/self/fd")
import schwimmbad_go
{more}
with open("/proc/self/maps") as maps:
    loaded = [line for line in maps if "schwimmbad" in line and "_lib" in line]
assert not loaded, loaded
assert len(os.listdir("/proc/self/task")) == 1, "a thread was started"
with open(f"/proc/self/task/{{os.getpid()}}/children") as children:
    assert children.read() == "", "a process was started"
assert os.listdir("/proc/self/fd") == descriptors, "a descriptor was opened"
print(*[name for name in {optional!r} if name in sys.modules])
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _optional_modules_after(more: str, root: Path, tmp_path: Path) -> list[str]:
    script = SCRIPT.format(more=more, optional=OPTIONAL)
    return run(sys.executable, "-W", "error", "-c", script, cwd=tmp_path, env={"PYTHONPATH": str(root / "python")}).stdout.split()


def test_package_loads_no_library_and_starts_nothing(root: Path, tmp_path: Path) -> None:
    assert _optional_modules_after("", root, tmp_path) == []


def test_neither_does_any_public_name(root: Path, tmp_path: Path) -> None:
    _optional_modules_after("for name in schwimmbad_go.__all__: getattr(schwimmbad_go, name)", root, tmp_path)
