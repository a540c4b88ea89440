"""The suite for all Go pools, run by `go test`'s binary on the ranks of each MPI."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sysconfig
from pathlib import Path

import pytest
from capi.parse import ROOT
from helpers import mpirun
from mpi.test_link import headers

# It closes its pool, and the ranks have one for all cases: TestMPIPoolCloses does that.
NOT_ON_RANKS = {"TestClose"}


def names_in(file: Path) -> set[str]:
    return set(re.findall(r"^func (Test\w+)\(", file.read_text(), re.M))


@pytest.mark.slow
def test_on_ranks(family: str, tmp_path: Path) -> None:
    names = names_in(ROOT / "pools" / "conformance_test.go") - NOT_ON_RANKS
    for file in (ROOT / "pools").glob("*_linux_test.go"):  # the engine's own tests count descriptors, and MPI opens some when it likes
        if re.search(r"^package pools$", file.read_text(), re.M):
            names -= names_in(file)
    assert len(names) > 15
    link = mpirun.CACHE / f"link-{family}"
    link.mkdir(parents=True, exist_ok=True)
    libraries = Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or "")
    if family == "mpich":
        (link / "libmpi.so").write_text("INPUT(-lmpich)\n")
    flags = {
        "CGO_ENABLED": "1", "CGO_CFLAGS": f"-O2 -I{shlex.quote(headers(family))}",
        "CGO_LDFLAGS": f"-L{shlex.quote(str(link))} -L{libraries}",
    }  # fmt: skip
    binary = tmp_path / "pools.test"
    built = subprocess.run(
        [os.environ.get("GO", "go"), "test", "-tags", "mpi", "-c", "-o", str(binary), "./pools"],
        cwd=ROOT, env={**os.environ, **flags}, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    run = f"^({'|'.join(sorted(names | {'TestMPIPoolCloses'}))})$"
    runner = tmp_path / "run.py"
    runner.write_text(f"import os\nos.execv({str(binary)!r}, ['pools.test', '-test.v', '-test.run', {run!r}])\n")
    done = mpirun.run(family, 3, runner, timeout=60, env={"SWG_TEST_MPI": "1"}).ok()
    assert "--- PASS: TestMPIPoolCloses" in done.stdout and done.stdout.count("/MPIPool (") > 15 and "FAIL" not in done.stdout, done
