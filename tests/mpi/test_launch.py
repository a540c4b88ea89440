"""Runs that are not what they should be: no launcher, one process, a launcher of another MPI than the library's.

None of them may look like success, and the message must be enough to mend it. `enabled` tells the same without MPI.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers import mpirun, scripts

pytestmark = pytest.mark.slow

CONSTRUCTOR = "Tried to create an MPI pool, but there was only one MPI process available. Need at least two. "
CHOICE = "Tried to run with MPI but MPIPool not enabled. "
# What a library's own launcher is called here.
STARTERS = {
    family: f"{f'{sys.prefix}/bin/mpirun' if mpirun.in_environment(family) else name} -n 4 python script.py"
    for family, name in (("openmpi", "mpirun.openmpi"), ("mpich", "mpiexec.mpich"))
}
VARIABLES = {"openmpi": "OMPI_COMM_WORLD_SIZE", "mpich": "PMI_SIZE"}
TITLES = {"openmpi": "Open MPI v", "mpich": "MPICH Version: "}

# Says what enabled() and both ways to a pool do, in that order, and ends with the last error uncaught.
SCRIPT = """
import json, sys
how = sys.argv[1]
if how == "without":
    sys.modules["mpi4py"] = None
import schwimmbad_go
from schwimmbad_go import _libmpi

def attempt(make):
    try:
        return "", repr(make())
    except Exception as error:
        kind = next(k.__name__ for k in type(error).__mro__ if k.__module__ == "builtins")
        return kind, str(error)

found = {"enabled": schwimmbad_go.MPIPool.enabled()}
found["mapped"] = _libmpi.mapped()
found["started"] = found["mapped"] is not None or _libmpi.load(False).initialized() if how == "without" else None
if how == "before":
    from mpi4py import MPI
    found["enabled"] = schwimmbad_go.MPIPool.enabled()
found["choice"] = attempt(lambda: schwimmbad_go.choose_pool(mpi=True))
found["constructor"] = attempt(schwimmbad_go.MPIPool)
print("found", json.dumps(found), flush=True)
schwimmbad_go.choose_pool(mpi=True)
"""


def need_mpi4py(how: str) -> None:
    if how != "without" and importlib.util.find_spec("mpi4py") is None:
        pytest.skip("mpi4py is not installed")


def read(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("found ")) for line in stdout.splitlines() if line.startswith("found ")]


def alone(folder: Path, how: str, env: Mapping[str, str]) -> dict[str, Any]:
    """What the script finds when it is started without a launcher, under these variables. It must fail."""
    (folder / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", how], cwd=folder, env=scripts.environment(uuid.uuid4().hex, dict(env)),
        text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1, done
    (found,) = read(done.stdout)
    return found


def check(found: Mapping[str, Any], *facts: str) -> None:
    """Both ways to a pool are refused with schwimmbad's type and sentence, and say these things."""
    for what, kind, sentence in (("choice", "SystemError", CHOICE), ("constructor", "ValueError", CONSTRUCTOR)):
        assert found[what][0] == kind, found
        text = found[what][1]
        assert text.startswith(sentence) and text.count("Tried to") == 1, text
        for fact in facts:
            assert fact in text, (fact, text)


@pytest.mark.parametrize("how", ["without", "later", "before"])
def test_no_launcher(family: str, how: str, tmp_path: Path) -> None:
    need_mpi4py(how)
    found = alone(tmp_path, how, {**mpirun.environment(family), "SCHWIMMBAD_GO_MPI": family})
    assert found["enabled"] is False and found["mapped"] is None and not found["started"]
    check(found, "No MPI launcher started this process", *VARIABLES.values(), "Start it with: ", " -n 4 python script.py")
    assert TITLES[family] in found["constructor"][1] and STARTERS[family] in found["constructor"][1]
    assert (TITLES[family] in found["choice"][1]) == (how != "later")  # it starts nothing to find out


def test_batch_script(tmp_path: Path, family: str) -> None:
    """Slurm sets its variables for the script of a batch job too, which is one process."""
    env = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SCHWIMMBAD_GO_MPI": family}
    found = alone(tmp_path, "without", {**mpirun.environment(family), **env})
    assert found["enabled"] is False and not found["started"]
    check(found, "srun or mpirun inside it makes more")


@pytest.mark.parametrize("plugin", ["none", "pmix"])
def test_srun_that_the_library_does_not_understand(family: str, plugin: str, tmp_path: Path) -> None:
    env = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SCHWIMMBAD_GO_MPI": family}
    if plugin == "pmix":
        env |= {"PMIX_RANK": "0", "PMIX_NAMESPACE": "job.7"}
    env = {**mpirun.environment(family), **env}
    if plugin == "pmix" and (family == "openmpi" or mpirun.in_environment(family)):
        # Open MPI understands it and finds nobody there, MPICH 5 (the wheel's) says that it does not: their own affair, but no success.
        (tmp_path / "script.py").write_text(SCRIPT)
        command = [sys.executable, "script.py", "without"]
        variables = scripts.environment(uuid.uuid4().hex, env)
        assert subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, timeout=60).returncode != 0
        return
    found = alone(tmp_path, "without", env)
    assert found["enabled"] is True and not found["started"]
    said = "PMIX_RANK=0" if plugin == "pmix" else "SLURM_STEP_NUM_TASKS=2"
    cure = "srun --mpi=pmix -n 4" if family == "openmpi" else "srun --mpi=pmi2 -n 4"
    check(found, said, TITLES[family], "each of the 2 processes is an MPI run of its own", cure)


@pytest.mark.parametrize("how", ["without", "later", "before"])
def test_one_process(family: str, how: str) -> None:
    need_mpi4py(how)
    done = mpirun.run(family, 1, SCRIPT, how)
    assert done.returncode not in (0, None) and not done.left
    (found,) = read(done.stdout)
    assert found["enabled"] is False and not found["started"]
    check(found, f"The launcher set {VARIABLES[family]}=1: it started one process", f"Ask for more: {STARTERS[family]}")


# How a run gets the library of the other family: variable, with or without mpi4py, and what the message says of it.
WRONG = {
    "family": ("SCHWIMMBAD_GO_MPI", "without", "set SCHWIMMBAD_GO_MPI={right}"),
    "mpi4py": ("MPI4PY_MPIABI", "later", "set MPI4PY_MPIABI={right}"),
    "mpi4py-before": ("MPI4PY_MPIABI", "before", "set MPI4PY_MPIABI={right}"),
    "file": ("SCHWIMMBAD_GO_LIBMPI", "without", "unset SCHWIMMBAD_GO_LIBMPI"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_library_of_another_launcher(family: str, wrong: str) -> None:
    """Each process is alone, and would be a master without workers that ends with success."""
    other = mpirun.need("mpich" if family == "openmpi" else "openmpi")
    variable, how, cure = WRONG[wrong]
    need_mpi4py(how)
    value = library_file(other) if variable == "SCHWIMMBAD_GO_LIBMPI" else other
    env = {**mpirun.environment(other), **mpirun.environment(family), variable: value}
    done = mpirun.run(family, 2, SCRIPT, how, env=env)
    assert done.returncode not in (0, None) and not done.left
    assert done.seconds < 20
    both = read(done.stdout)
    assert 1 <= len(both) <= 2  # Open MPI ends the second when the first has failed
    for found in both:
        assert found["enabled"] is (how != "before") and not found["started"]
        said = f"{VARIABLES[family]}=2"
        check(found, said, TITLES[other], "an MPI run of its own", cure.format(right=family), f"start it with: {STARTERS[other]}")


def library_file(family: str) -> str:
    """Where the loader finds this family's library."""
    code = "from schwimmbad_go import _libmpi; print(_libmpi.load(False).path)"
    env = scripts.environment(uuid.uuid4().hex, {**mpirun.environment(family), "SCHWIMMBAD_GO_MPI": family})
    return subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True, check=True, timeout=60).stdout.strip()


@pytest.mark.parametrize("how", ["without", "mpi4py"])
def test_enabled_starts_nothing(family: str, how: str) -> None:
    """On a login node starting MPI can kill the process: the launcher's variables are all it looks at."""
    need_mpi4py(how)
    script = """
import sys
if sys.argv[1] == "without":
    sys.modules["mpi4py"] = None
import schwimmbad_go
from schwimmbad_go import _libmpi, mpi
assert schwimmbad_go.MPIPool.enabled() is True
assert _libmpi.mapped() is None and mpi.MPI is None and "mpi4py.MPI" not in sys.modules
assert not _libmpi.load(False).initialized()
assert schwimmbad_go.MPIPool.enabled() is True
with schwimmbad_go.MPIPool() as pool:
    assert schwimmbad_go.MPIPool.enabled() is True
    assert pool.map(abs, [-1]) == [1]
assert schwimmbad_go.MPIPool.enabled() is True
with schwimmbad_go.choose_pool(mpi=True, processes=7, use_dill=True) as pool:
    assert type(pool) is schwimmbad_go.MPIPool and pool.map(abs, [-1]) == [1]
"""
    done = mpirun.run(family, 2, script, how).ok()
    assert done.stdout == done.stderr == ""


def test_a_multipool_before_and_after(family: str) -> None:
    """The first one loads the engine's library without MPI, and two of them must fit into what glibc keeps for thread-local storage."""
    script = """
import schwimmbad_go
before = schwimmbad_go.MultiPool(2)
assert before.map(abs, [-1]) == [1]
with schwimmbad_go.MPIPool() as pool:
    assert pool.map(abs, [-2]) == [2]
    with schwimmbad_go.MultiPool(2) as after:
        assert after.map(abs, [-3]) == [3]
    assert before.map(abs, [-4]) == [4] and pool.map(abs, [-5]) == [5]
before.close()
before.join()
"""
    done = mpirun.run(family, 2, script).ok()
    assert done.stdout == done.stderr == ""


def test_one_process_is_enough_where_rank_0_works(family: str) -> None:
    script = """
import schwimmbad_go
with schwimmbad_go.MPIPool(master_works=True, workers_per_rank=2) as pool:
    assert pool.size == 2 and pool.workers == set()
    assert pool.map(abs, range(-5, 0)) == [5, 4, 3, 2, 1]
with schwimmbad_go.choose_pool(mpi=True, master_works=True, workers_per_rank=2) as pool:
    assert pool.map(abs, [-1]) == [1]
"""
    done = mpirun.run(family, 1, script).ok()
    assert done.stdout == done.stderr == ""
