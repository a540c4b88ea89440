"""Which MPI library is taken, what the launcher's variables mean, and the sentences about a run of one process."""

from __future__ import annotations

import os
import re
import shutil
import sys
from ctypes import CDLL
from pathlib import Path
from typing import Any

import pytest
from helpers import mpirun, scripts
from schwimmbad_go import _diagnosis, _launcher, _libmpi
from schwimmbad_go._launcher import Launch
from schwimmbad_go._libmpi import Library

HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "4", "PMI_FD": "6", "MPI_LOCALNRANKS": "4", "HYDI_CONTROL_FD": "7"}
OPENMPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "PMIX_RANK": "1"}
BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_NODELIST": "n1"}
STEP = {**BATCH, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1"}


# --- the launcher -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, None, id="none"),
        pytest.param(OPENMPI, Launch("OMPI_COMM_WORLD_SIZE", 4, 1, "openmpi"), id="Open MPI's mpirun"),
        pytest.param(HYDRA, Launch("PMI_SIZE", 4, 1, "mpich"), id="hydra"),
        pytest.param({"PMI_RANK": "0", "PMI_SIZE": "2"}, Launch("PMI_SIZE", 2, 0, "mpich"), id="PMI without a descriptor"),
        pytest.param({"PMI_SIZE": "2"}, None, id="PMI_SIZE alone means nothing"),
        pytest.param({"PMI_SIZE": "two", "PMI_RANK": "0"}, None, id="not a number"),
        pytest.param({"OMPI_COMM_WORLD_SIZE": ""}, None, id="empty"),
        pytest.param({"MV2_COMM_WORLD_SIZE": "3", "MV2_COMM_WORLD_RANK": "2"}, Launch("MV2_COMM_WORLD_SIZE", 3, 2, "mpich"), id="MVAPICH2"),
        pytest.param({"PMIX_RANK": "3", "PMIX_NAMESPACE": "x"}, Launch("PMIX_RANK", None, 3, "openmpi"), id="PMIx says no size"),
        pytest.param({**STEP, "PMIX_RANK": "1"}, Launch("PMIX_RANK", 4, 1, "openmpi"), id="srun --mpi=pmix"),
        pytest.param({**STEP, **HYDRA}, Launch("PMI_SIZE", 4, 1, "mpich"), id="srun --mpi=pmi2"),
        pytest.param(STEP, Launch("SLURM_STEP_NUM_TASKS", 4, 1, None), id="srun --mpi=none"),
        pytest.param(BATCH, None, id="a batch script is no launch"),
        pytest.param({**BATCH, **OPENMPI}, Launch("OMPI_COMM_WORLD_SIZE", 4, 1, "openmpi"), id="mpirun in a batch script"),
        pytest.param({**STEP, **OPENMPI}, Launch("OMPI_COMM_WORLD_SIZE", 4, 1, "openmpi"), id="mpirun in a step"),
    ],
)  # fmt: skip
def test_launch(environ: dict[str, str], expected: Launch | None) -> None:
    assert _launcher.launch(environ) == expected


def test_launch_reads_this_process_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _launcher.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert _launcher.launch() is None
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert _launcher.launch() == Launch("OMPI_COMM_WORLD_SIZE", 2, None, "openmpi")


KEPT = {
    "PATH": "/bin", "LD_LIBRARY_PATH": "/x", "MPI4PY_LIBMPI": "/x", "OPAL_PREFIX": "/x", "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_MCA_btl": "^openib", "OMPI_MCA_btl_vader_single_copy_mechanism": "none", "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_CPUS_PER_TASK": "2", "I_MPI_FABRICS": "shm",
}  # fmt: skip
REMOVED = {
    **OPENMPI, **HYDRA, "OMPI_MCA_ess": "^singleton", "OMPI_MCA_pmix": "^s1", "OMPI_MCA_orte_hnp_uri": "1;tcp://x",
    "OMPI_FILE_LOCATION": "/x", "OMPI_MCA_mpi_oversubscribe": "0", "PMIX_SERVER_URI2": "x", "PRTE_X": "1", "ORTE_X": "1",
    "HYDRA_X": "1", "MPI_LOCALRANKID": "0", "PMI_HOSTNAME": "n1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "1", "SLURM_NODELIST": "n1", "SLURM_JOBID": "7", "SLURM_NTASKS": "4", "SLURM_TASK_PID": "1",
}  # fmt: skip


def test_children_of_a_rank_get_no_launcher_variable_and_keep_the_users() -> None:
    before = {**KEPT, **REMOVED}
    assert _launcher.scrubbed(before) == KEPT
    assert before == {**KEPT, **REMOVED}


def test_scrubbed_environment_is_no_launch() -> None:
    for environ in (OPENMPI, HYDRA, {**STEP, "PMIX_RANK": "1"}, {**STEP, **HYDRA}, STEP):
        assert _launcher.launch(_launcher.scrubbed(environ)) is None


# --- candidates ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No mpirun on PATH, an empty Python environment, no multiarch directory."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    monkeypatch.setattr(_libmpi.sysconfig, "get_config_var", lambda name: None)
    (tmp_path / "bin").mkdir()
    return tmp_path


def candidates(environ: dict[str, str]) -> list[tuple[str, str]]:
    return [(c.name, c.how) for c in _libmpi._candidates(environ)]


def put(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return str(path)


LOADER = ["libmpi.so.40", "libmpi.so.12", "libmpich.so.12"]


def test_without_a_hint_the_loader_is_asked_for_both_families(bare: Path) -> None:
    assert candidates({}) == [(name, "loader path") for name in LOADER]


@pytest.mark.parametrize(("environ", "names"), [(OPENMPI, LOADER[:1]), (HYDRA, LOADER[1:]), ({**STEP, "PMIX_RANK": "1"}, LOADER[:1])])
def test_launcher_decides_the_family(bare: Path, environ: dict[str, str], names: list[str]) -> None:
    assert candidates(environ) == [(name, "launcher") for name in names]


def test_family_by_variable_wins_over_the_launcher(bare: Path) -> None:
    assert candidates({**OPENMPI, "SCHWIMMBAD_GO_MPI": " MPICH "}) == [(name, "SCHWIMMBAD_GO_MPI") for name in LOADER[1:]]


def test_unknown_family_is_an_error(bare: Path) -> None:
    with pytest.raises(ImportError, match="^Please install mpi4py.*'lam'"):
        candidates({"SCHWIMMBAD_GO_MPI": "lam"})


def test_file_by_variable_wins_over_all(bare: Path) -> None:
    environ = {**OPENMPI, "SCHWIMMBAD_GO_LIBMPI": "/x/libmpi.so", "MPI4PY_LIBMPI": "/y", "SCHWIMMBAD_GO_MPI": "mpich"}
    assert candidates(environ) == [("/x/libmpi.so", "SCHWIMMBAD_GO_LIBMPI")]


def test_mpi4pys_variable_is_read_as_mpi4py_reads_it(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_folder = put(bare / "folder" / "libmpi.so.12")
    monkeypatch.setenv("WHERE", str(bare))
    environ = {"MPI4PY_LIBMPI": "$WHERE/folder:libmpi_x.so:/z/libmpi.so"}
    assert candidates(environ) == [(name, "MPI4PY_LIBMPI") for name in (in_folder, "libmpi_x.so", "/z/libmpi.so")]


def test_python_environment_then_beside_mpirun_then_loader(bare: Path) -> None:
    wheel = put(bare / "env/lib/libmpi.so.12")
    put(bare / "env/lib/libmpi.so.40")
    put(bare / "module/bin/mpiexec.hydra")
    beside = put(bare / "module/lib/libmpi.so.12")
    (bare / "bin/mpirun").symlink_to(bare / "module/bin/mpiexec.hydra")
    assert candidates(HYDRA) == [(name, "launcher") for name in (wheel, beside, *LOADER[1:])]


def test_mpirun_on_path_decides_where_nothing_else_does(bare: Path) -> None:
    put(bare / "usr/bin/mpiexec.hydra")
    (bare / "bin/mpirun").symlink_to(bare / "usr/bin/mpiexec.hydra")
    assert candidates({}) == [("libmpi.so.12", "mpirun"), ("libmpich.so.12", "mpirun"), ("libmpi.so.40", "loader path")]


def test_moved_open_mpi_is_told_where_it_is(bare: Path) -> None:
    put(bare / "env/lib/libmpi.so.40")
    first, *others = _libmpi._candidates({})
    assert first.home == str(bare / "env")
    assert not any(c.home for c in others)


# --- loading, in processes of their own ---------------------------------------------------------------------------------


def show(more: str = "", use: bool = False) -> str:
    return f"""
        import os, sys
        from schwimmbad_go import _libmpi
        {more}
        found = _libmpi.load({use})
        assert _libmpi.load(not {use}) is found
        print(found.family, found.how, found.path, found.initialized(), found.finalized(), sep="|")
    """


def alone(**more: str) -> dict[str, str]:
    """No variable that names a library."""
    return {**dict.fromkeys(("SCHWIMMBAD_GO_LIBMPI", "SCHWIMMBAD_GO_MPI", "MPI4PY_LIBMPI"), ""), **more}


def test_family_is_loaded_by_name_and_mpi_is_not_started(family: str, tmp_path: Path) -> None:
    more = "assert _libmpi.mapped() is None"
    out = scripts.succeed(tmp_path, show(more), env=alone(SCHWIMMBAD_GO_MPI=family))
    kind, how, path, initialized, finalized = out.strip().split("|")
    assert (kind, how, initialized, finalized) == (family, "SCHWIMMBAD_GO_MPI", "False", "False")
    assert re.search(r"/libmpi(ch)?\.so", path)


def test_mapped_library_wins_and_becomes_visible(family: str, tmp_path: Path) -> None:
    name = {"openmpi": "libmpi.so.40", "mpich": "libmpich.so.12"}[family]
    try:
        CDLL(name)
    except OSError:
        pytest.skip(f"the loader does not know {name}")
    other = "mpich" if family == "openmpi" else "openmpi"
    more = f"""
        import ctypes
        ctypes.CDLL({name!r}, mode=os.RTLD_LOCAL | os.RTLD_NOW)
        assert not hasattr(ctypes.CDLL(None), "MPI_Init")
        assert _libmpi.mapped()
        _libmpi.load(False)
        assert hasattr(ctypes.CDLL(None), "MPI_Init"), "not promoted"
    """
    out = scripts.succeed(tmp_path, show(more), env=alone(SCHWIMMBAD_GO_MPI=other))
    assert out.split("|")[:2] == [family, "already loaded"]


def test_engine_library_loads_behind_it(family: str, tmp_path: Path) -> None:
    script = """
        import ctypes
        from schwimmbad_go import _libmpi
        found = _libmpi.load(False)
        library = ctypes.CDLL(str(_libmpi.variant_path(found.family)))
        print(found.family, library.swg_abi() > 0)
    """
    assert scripts.succeed(tmp_path, script, env=alone(SCHWIMMBAD_GO_MPI=family)) == f"{family} True\n"


def test_named_file_that_does_not_load_is_never_passed_over(tmp_path: Path) -> None:
    script = """
        from schwimmbad_go import _libmpi
        try:
            _libmpi.load(False)
        except ImportError as error:
            print(error)
    """
    out = scripts.succeed(tmp_path, script, env=alone(SCHWIMMBAD_GO_LIBMPI="/does/not/exist.so"))
    assert out.startswith("Please install mpi4py")
    assert "/does/not/exist.so (SCHWIMMBAD_GO_LIBMPI)" in out
    out = scripts.succeed(tmp_path, script, env=alone(SCHWIMMBAD_GO_LIBMPI="libc.so.6"))
    assert "has no MPI_Get_library_version" in out


def test_nothing_found_says_what_to_install(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, flags: int) -> Any:
        raise OSError("not there")

    monkeypatch.setattr(_libmpi, "_open", refuse)
    monkeypatch.setattr(_libmpi, "mapped", lambda: None)
    for name in alone():
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ImportError, match="^Please install mpi4py") as caught:
        _libmpi._load(False)
    for part in ("libmpi.so.40", "libmpich.so.12", "apt install", "pip install", "SCHWIMMBAD_GO_LIBMPI"):
        assert part in str(caught.value)


# --- loading under launchers, and with mpi4py ---------------------------------------------------------------------------

UNDER = """
from schwimmbad_go import _libmpi
found = _libmpi.load({use})
print(found.family, found.how, found.initialized(), bool(found.note))
"""


def test_launchers_family_is_taken(family: str) -> None:
    env = {"MPI4PY_MPIABI": None, "LD_LIBRARY_PATH": None}
    assert mpirun.run(family, 2, UNDER.format(use=False), env=env).ok().lines() == [f"{family} launcher False False"] * 2


def test_mpi4py_takes_the_launchers_family(family: str) -> None:
    """Also without its own variables: left to itself it would take whatever libmpi.so is."""
    pytest.importorskip("mpi4py")
    done = mpirun.run(family, 2, UNDER.format(use=True), env={"MPI4PY_MPIABI": None}).ok()
    assert done.lines() == [f"{family} mpi4py True False"] * 2


def test_mpi4py_that_cannot_load_is_done_without(family: str, tmp_path: Path) -> None:
    broken = tmp_path / "mpi4py"
    broken.mkdir()
    (broken / "__init__.py").touch()
    (broken / "MPI.py").write_text("raise ImportError('libmpi.so.12: cannot open shared object file')")
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), scripts.environment("x")["PYTHONPATH"]])}
    done = mpirun.run(family, 2, UNDER.format(use=True), env={"MPI4PY_MPIABI": None, **env}).ok()
    assert done.lines() == [f"{family} launcher False True"] * 2


WRONG = """
import ctypes
from schwimmbad_go import _diagnosis, _launcher, _libmpi
found, started = _libmpi.load(False), _launcher.launch()
found.handle.MPI_Init(None, None)
assert found.initialized() and not found.finalized()
found.handle.MPI_Finalize()
assert found.finalized()
print(_diagnosis.diagnosis(started, found, 1))
"""


@pytest.mark.skipif(len(mpirun.available()) < 2, reason="needs both Open MPI and MPICH")
def test_library_of_the_other_family_is_explained(family: str) -> None:
    other = "mpich" if family == "openmpi" else "openmpi"
    done = mpirun.run(family, 2, WRONG, env={"SCHWIMMBAD_GO_MPI": other}).ok()
    for line in done.lines():
        assert re.search(r"=2\).*each of the 2 processes is an MPI run of its own", line)
        assert f"set SCHWIMMBAD_GO_MPI={family}" in line
        assert mpirun.LAUNCHERS[other][0] + " -n 4 python script.py" in line


# --- the sentences ------------------------------------------------------------------------------------------------------


def library(family: str, how: str = "launcher", path: str = "/opt/mpi/lib/libmpi.so") -> Library:
    version = {"openmpi": "Open MPI v4.1.4, package: X", "mpich": "MPICH Version: 4.0.2"}[family]
    return Library(path, family, version, how, CDLL(None))


@pytest.fixture
def script_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/home/me/fit.py"])
    monkeypatch.setattr(shutil, "which", lambda name, *rest: None)


@pytest.mark.usefixtures("script_name")
@pytest.mark.parametrize(
    ("environ", "loaded", "parts"),
    [
        ({}, None, ["No MPI launcher", "OMPI_COMM_WORLD_SIZE", "mpirun -n 4 python fit.py"]),
        (BATCH, None, ["No MPI launcher", "batch job is one process", "fit.py"]),
        ({}, library("mpich"), ["No MPI launcher", "MPICH Version: 4.0.2 (/opt/mpi/lib/libmpi.so)"]),
        ({**OPENMPI, "OMPI_COMM_WORLD_SIZE": "1"}, library("openmpi"), ["OMPI_COMM_WORLD_SIZE=1", "one process", "Ask for more"]),
        (OPENMPI, None, ["OMPI_COMM_WORLD_SIZE=4", "no MPI library"]),
        (OPENMPI, library("mpich"), ["launcher of Open MPI", "OMPI_COMM_WORLD_SIZE=4", "MPICH Version", "SCHWIMMBAD_GO_MPI=openmpi"]),
        (HYDRA, library("openmpi", "mpi4py"), ["launcher of MPICH", "PMI_SIZE=4", "MPI4PY_MPIABI=mpich"]),
        (HYDRA, library("openmpi", "SCHWIMMBAD_GO_LIBMPI"), ["unset SCHWIMMBAD_GO_LIBMPI"]),
        (HYDRA, library("mpich"), ["PMI_SIZE=4", "another installation of MPICH"]),
        (STEP, library("mpich"), ["SLURM_STEP_NUM_TASKS=4", "--mpi=none", "srun --mpi=pmi2 -n 4 python fit.py"]),
        (STEP, library("openmpi"), ["--mpi=none", "srun --mpi=pmix -n 4 python fit.py"]),
        ({**STEP, "PMIX_RANK": "1"}, library("mpich"), ["srun --mpi=pmix", "PMIX_RANK=1", "srun --mpi=pmi2 -n 4"]),
        ({"PMIX_RANK": "1"}, library("mpich"), ["launcher of Open MPI", "each process is an MPI run"]),
    ],
)
def test_diagnosis(environ: dict[str, str], loaded: Library | None, parts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*_launcher.VARIABLES, *REMOVED, *BATCH]:
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    text = _diagnosis.diagnosis(_launcher.launch(), loaded, 1)
    for part in parts:
        assert part in text
    assert "  " not in text


def test_more_than_one_process_needs_no_diagnosis() -> None:
    assert _diagnosis.diagnosis(Launch("PMI_SIZE", 4, 0, "mpich"), library("mpich"), 4) == ""


def test_launcher_beside_the_library_is_named_by_its_path(tmp_path: Path) -> None:
    put(tmp_path / "bin/mpiexec")
    text = _diagnosis.diagnosis(None, library("mpich", path=put(tmp_path / "lib/libmpi.so.12")), 1)
    assert f"{tmp_path}/bin/mpiexec -n 4 python" in text


def test_launcher_of_a_wheel_is_named_where_no_library_is_loaded(bare: Path) -> None:
    put(bare / "env/lib/libmpi.so.12")
    put(bare / "env/bin/mpirun")
    started = Launch("PMI_SIZE", 1, 0, "mpich")
    assert f"{bare}/env/bin/mpirun -n 4 python" in _diagnosis.diagnosis(started, None, 1)
    assert f"{bare}/env" not in _diagnosis.diagnosis(Launch("OMPI_COMM_WORLD_SIZE", 1, 0, "openmpi"), None, 1)


def test_variant_path() -> None:
    assert _libmpi.variant_path("mpich").name == "libschwimmbad_mpich.so"
    with pytest.raises(ValueError, match="openmpi, mpich"):
        _libmpi.variant_path("lam")


def test_importing_the_module_loads_nothing(tmp_path: Path) -> None:
    script = """
        from schwimmbad_go import _launcher, _libmpi
        print(_libmpi.mapped(), _launcher.launch({}))
    """
    assert scripts.succeed(tmp_path, script) == "None None\n"
