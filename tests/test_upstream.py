"""schwimmbad's own tests of the pools and of utils, unchanged, on this package under the import alias."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import schwimmbad_go
import upstream
from helpers import mpirun

SOURCE = Path(schwimmbad_go.__file__).parent.parent
RUNNER = """
import sys
from schwimmbad_go import _alias
_alias.install()
import pytest, schwimmbad, schwimmbad_go
assert schwimmbad is schwimmbad_go
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def files() -> Path:
    try:
        return upstream.directory()
    except upstream.Unavailable as why:
        pytest.skip(f"schwimmbad's sdist cannot be had: {why}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("test", "count"),
    [
        ("test_pools.py::TestSerialPool", 3),
        ("test_pools.py::TestMultiPool", 3),
        ("test_pools.py::TestJoblibPool", 3),
        ("test_utils.py", 3),
    ],
)
def test_passes_upstream(files: Path, test: str, count: int, tmp_path: Path) -> None:
    options = ["-q", "-W", "error", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(SOURCE), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUNNER, *options, str(files / test)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
        env=environment,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert re.search(rf"\b{count} passed in", done.stdout)  # and nothing skipped
    assert done.stderr == ""


ALIAS = ("-W", "error", "-m", "schwimmbad_go", "run")


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("script", ["test_mpi.py", "test_mpi_with_dill.py"])
def test_mpi_script_passes(files: Path, family: str, script: str, n: int) -> None:
    """They are no pytest files but programs, to be run by hand under mpirun."""
    done = mpirun.run(family, n, files / script, flags=ALIAS, env={"PYTHONDONTWRITEBYTECODE": "1"}).ok()
    assert done.stdout == done.stderr == ""


@pytest.mark.slow
def test_mpi_script_that_should_fail_fails(files: Path, family: str) -> None:
    """schwimmbad itself ends with success here."""
    done = mpirun.run(family, 3, files / "test_mpi_fail.py", flags=ALIAS, env={"PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode != 0 and not done.left
    assert done.stderr.count("AttributeError: Derp") >= 1 and "RankLost" not in done.stderr
