"""The wheel in a clean virtual environment of each Python found, with nothing else installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import run

pytestmark = pytest.mark.slow

MAP = """
import math
import schwimmbad_go as schwimmbad

if __name__ == "__main__":
    with schwimmbad.SerialPool() as pool:
        assert list(pool.map(math.sqrt, [1, 4, 9])) == [1.0, 2.0, 3.0]
    with schwimmbad.MultiPool(2) as pool:
        assert pool.map(math.sqrt, [1, 4, 9]) == [1.0, 2.0, 3.0]
    print(schwimmbad.__file__)
"""


def _interpreters() -> list[str]:
    """This Python, and each other supported one on PATH that runs (a version manager's shim may not)."""
    found = [sys.executable]
    for minor in range(10, 16):
        name = f"python3.{minor}"
        if minor == sys.version_info.minor or shutil.which(name) is None:
            continue
        if subprocess.run([name, "-c", "import venv"], capture_output=True).returncode == 0:
            found.append(name)
    return found


@pytest.mark.parametrize("python", _interpreters(), ids=lambda python: Path(python).name)
def test_three_task_map_in_a_clean_environment(python: str, wheel: Path, tmp_path: Path) -> None:
    # Without pip of its own, whose installation takes longer than all the rest: this environment's pip serves them all.
    run(python, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    binaries = tmp_path / "venv" / "bin"
    pip = [sys.executable, "-m", "pip", "--python", binaries / "python", "install", "-q", "--no-index", "--disable-pip-version-check"]
    run(*pip, wheel, cwd=tmp_path)
    (tmp_path / "map.py").write_text(MAP)
    done = run(binaries / "python", "-W", "error", tmp_path / "map.py", cwd=tmp_path)
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "venv")
    assert done.stderr == ""
    assert (binaries / "schwimmbad-go").is_file()
