"""The MPI transport by itself: Go's own tests, on two ranks."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from capi.parse import ROOT
from helpers import mpirun

PACKAGE = "./pools/internal/mpix"


def headers(family: str) -> str:
    """Directory of the family's mpi.h, as the build finds it."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from swgbuild import mpi
    finally:
        sys.path.pop(0)
    return str(mpi.find_headers(family).directory)


@pytest.mark.slow
def test_go_tests(family: str, tmp_path: Path) -> None:
    """gompi asks for libmpi; for a test, unlike for the library, it has to be there when it is linked."""
    libraries = Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or "")
    if family == "mpich":
        (tmp_path / "libmpi.so").write_text("INPUT(-lmpich)\n")  # Debian's has another name; this is a linker script
    binary = tmp_path / "mpix.test"
    flags = {"CGO_CFLAGS": f"-O2 -I{shlex.quote(headers(family))}", "CGO_LDFLAGS": f"-L{tmp_path} -L{libraries}", "CGO_ENABLED": "1"}
    built = subprocess.run(
        [os.environ.get("GO", "go"), "test", "-tags", "mpi", "-c", "-o", str(binary), PACKAGE],
        cwd=ROOT, env={**os.environ, **flags}, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    runner = tmp_path / "run.py"
    runner.write_text(f"import os\nos.execv({str(binary)!r}, ['mpix.test', '-test.v'])\n")
    result = mpirun.run(family, 2, runner, timeout=100).ok()
    assert "--- PASS: TestMessages" in result.stdout and "FAIL" not in result.stdout
