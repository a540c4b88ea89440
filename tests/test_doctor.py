"""`python -m schwimmbad_go doctor`: what is there is found, what is broken is said and fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import schwimmbad_go
from helpers import mpirun
from schwimmbad_go import _doctor, _words

SOURCE = Path(schwimmbad_go.__file__).parents[1]


def doctor(*args: str, **variables: str) -> tuple[int, dict[str, dict[str, str]]]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), **variables}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "schwimmbad_go", "doctor", "--python-only", "--json", *args],
        capture_output=True, text=True, env=environment, timeout=100,
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, {finding["name"]: finding for finding in json.loads(done.stdout)}


def test_everything_is_looked_at() -> None:
    code, found = doctor()
    assert code == 0
    assert found["schwimmbad_go"]["value"] == f"{schwimmbad_go.__version__} in {SOURCE / 'schwimmbad_go'}"
    assert found["engine"]["value"].startswith(schwimmbad_go.__version__) and found["engine"]["status"] == "ok"
    assert found["numbers"]["value"] == str(_words.library_path())
    for family, title in _doctor._launcher.TITLES.items():
        assert (found[f"launcher, {title}"]["status"] == "ok") == (mpirun.launcher(family) is not None)
        if mpirun.missing(family) is None:
            assert found[f"library, {title}"]["status"] == found[f"engine, {title}"]["status"] == "ok"
    assert "usable" in found["cpus"]["value"]
    assert {"numpy", "joblib", "mpi4py", "cloudpickle", "dill", "tqdm"} <= set(found)
    for finding in found.values():
        assert finding["value"] and finding["status"] in (_doctor.OK, _doctor.NOTE, _doctor.ABSENT)


def test_what_is_missing(tmp_path: Path) -> None:
    """No MPI, no optional packages: nothing of that is a fault."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as m\ndef no(name): raise m.PackageNotFoundError(name)\nm.version = no\n"
    )
    code, found = doctor(PATH=str(tmp_path), PYTHONPATH=os.pathsep.join([str(tmp_path), str(SOURCE)]))
    assert code == 0
    assert found["launcher, Open MPI"]["status"] == found["numpy"]["status"] == "absent"
    assert found["joblib"]["advice"] == "pip install 'schwimmbad-go[joblib]'"


def test_a_broken_engine(tmp_path: Path) -> None:
    library = tmp_path / "libschwimmbad.so"
    code, found = doctor(SCHWIMMBAD_GO_LIBRARY=str(library))
    assert code == 1 and found["engine"]["status"] == "broken" and f"{library} does not exist" in found["engine"]["value"]
    library.write_text("no library")
    code, found = doctor(SCHWIMMBAD_GO_LIBRARY=str(library))
    assert code == 1 and "does not load" in found["engine"]["value"]


def test_a_broken_mpi(tmp_path: Path) -> None:
    """The launcher is there, its library is not: MPIPool would make N runs of one process."""
    launcher = tmp_path / "mpirun.openmpi"
    launcher.write_text("#!/bin/sh\n")
    launcher.chmod(0o755)
    code, found = doctor(PATH=str(tmp_path), SCHWIMMBAD_GO_LIBMPI=str(tmp_path / "libmpi.so.40"))
    assert code == 1
    assert found["launcher, Open MPI"] == {"name": "launcher, Open MPI", "status": "ok", "value": str(launcher), "advice": ""}
    assert found["library, Open MPI"]["status"] == "broken" and "LD_LIBRARY_PATH" in found["library, Open MPI"]["advice"]
    assert found["library, MPICH"]["status"] == "absent"


def test_inside_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    (finding,) = _doctor._launch()
    assert finding.status == "note" and "srun" in finding.advice
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    (finding,) = _doctor._launch()
    assert finding.value == "started by Open MPI's launcher (OMPI_COMM_WORLD_SIZE), 4 processes"


def test_a_bug_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("oh")

    monkeypatch.setattr(_doctor, "_cpus", broken)
    (finding,) = [f for f in _doctor.examine() if f.name == "broken"]
    assert finding == _doctor.Finding("broken", "broken", "RuntimeError: oh", "report this as a bug")


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert _doctor.report([_doctor.Finding("a", "ok", "1"), _doctor.Finding("long", "absent", "2", "do it")]) == 0
    assert capsys.readouterr().out == "ok      a     1\nabsent  long  2\n              -> do it\n"
    assert _doctor.report([_doctor.Finding("a", "broken", "1")]) == 1


@pytest.mark.slow
def test_selftest() -> None:
    _, found = doctor("--selftest")
    said = {name: finding for name, finding in found.items() if name.startswith("selftest")}
    assert said["selftest SerialPool()"]["status"] == said["selftest MultiPool(2)"]["status"] == "ok"
    for family in mpirun.available():
        finding = said[f"selftest MPIPool(), {_doctor._launcher.TITLES[family]}"]
        assert finding["status"] == "ok", finding
