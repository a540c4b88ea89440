"""How this process was started: what an MPI launcher's variables say, and which launcher is here.

Importing this module loads nothing, and nothing in it touches MPI.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["TITLES", "VARIABLES", "Launch", "beside_mpirun", "family_of_mpirun", "launch", "scrubbed"]

TITLES: Final = {"openmpi": "Open MPI", "mpich": "MPICH"}


@dataclass(frozen=True)
class Launch:
    """What the environment tells about the launcher that started this process.

    Attributes
    ----------
    variable : str
        The environment variable that gave the launcher away.
    size : int or None
        Processes in the run; None under a PMIx launcher that does not say.
    rank : int or None
        Number of this process in the run, where it is told.
    family : str or None
        ``"openmpi"`` or ``"mpich"``: whose libraries understand this launcher; None for srun without an MPI plugin. A
        hint only where `variable` is ``PMIX_RANK``.
    """

    variable: str
    size: int | None
    rank: int | None
    family: str | None


class _Sign(NamedTuple):
    size: str
    rank: str
    family: str | None
    beside: tuple[str, ...] = ()  # one of these must be set as well


# The first that is found counts: Open MPI's mpirun and hydra, when they run inside a Slurm step, set theirs on top.
_SIGNS: Final = (
    _Sign("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "openmpi"),
    _Sign("PMI_SIZE", "PMI_RANK", "mpich", ("PMI_RANK", "PMI_FD", "PMI_PORT", "HYDI_CONTROL_FD")),
    _Sign("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "mpich"),
)
#: What `launch` looks at, for messages.
VARIABLES: Final = (*(sign.size for sign in _SIGNS), "PMIX_RANK", "SLURM_STEP_NUM_TASKS")


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None


def launch(environ: Mapping[str, str] | None = None) -> Launch | None:
    """How this process was started, from the environment alone.

    Parameters
    ----------
    environ : mapping, optional
        Variables to look at; None for this process's.

    Returns
    -------
    Launch or None
        None if no MPI launcher and no srun started this process. The script of a Slurm batch job is not a launch,
        although Slurm sets ``SLURM_NTASKS`` for it: only what srun starts has ``SLURM_STEP_NUM_TASKS``.
    """
    env = os.environ if environ is None else environ
    for sign in _SIGNS:
        size = _number(env, sign.size)
        if size is not None and (not sign.beside or any(name in env for name in sign.beside)):
            return Launch(sign.size, size, _number(env, sign.rank), sign.family)
    step = _number(env, "SLURM_STEP_NUM_TASKS")
    if "PMIX_RANK" in env:
        return Launch("PMIX_RANK", step, _number(env, "PMIX_RANK"), "openmpi")
    if step is not None:
        return Launch("SLURM_STEP_NUM_TASKS", step, _number(env, "SLURM_PROCID"), None)
    return None


# Launchers' variables. A child of a rank that has them and starts MPI ends in MPI_Init: it is no member of the run.
_LAUNCHER_PREFIXES: Final = (
    "OMPI_", "PMIX_", "PMI_", "PMI2_", "ORTE_", "PRTE_", "HYD", "MPI_LOCAL", "SLURM_", "MV2_COMM_WORLD_", "PALS_",
)  # fmt: skip
# Of those, what the user or the site said about the machine and the job, not the launcher about this process. mpirun
# puts its own words under OMPI_MCA_ too (ess, pmix, orte_*), so that one is a list of frameworks. Of Slurm, what
# scripts read to name their files and count their cores; a list of hosts would be taken for an allocation.
_KEPT: Final = re.compile(
    r"(OMPI|PRTE)_ALLOW_RUN_AS_ROOT(_CONFIRM)?"
    r"|OMPI_MCA_(btl|pml|mtl|osc|coll|io|opal|hwloc|rmaps)(_\w+)?"
    r"|OMPI_MCA_mpi_(yield_when_idle|warn_on_fork|leave_pinned)"
    r"|PRTE_MCA_(rmaps|hwloc)_\w+"
    r"|SLURM_(ARRAY_\w+|JOB_ID|JOB_NAME|JOB_PARTITION|JOB_ACCOUNT|SUBMIT_DIR|SUBMIT_HOST|RESTART_COUNT|TMPDIR"
    r"|CPUS_PER_TASK|CPUS_ON_NODE|GPUS\w*)"
)


def scrubbed(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for child processes of a rank: without what the launcher said about the rank.

    Parameters
    ----------
    environ : mapping, optional
        Variables to start from; None for this process's.

    Returns
    -------
    dict
        A copy. A child with these variables that imports mpi4py is a run of one process. What the user said about
        networks, memory and placement (``OMPI_MCA_btl``, ...) and about the job (``SLURM_JOB_ID``,
        ``SLURM_ARRAY_TASK_ID``, ``SLURM_CPUS_PER_TASK``, ...) stays.
    """
    env = os.environ if environ is None else environ
    return {k: v for k, v in env.items() if not k.startswith(_LAUNCHER_PREFIXES) or _KEPT.fullmatch(k)}


def _mpirun() -> Path | None:
    found = shutil.which("mpirun") or shutil.which("mpiexec")
    return Path(os.path.realpath(found)) if found else None


def beside_mpirun() -> list[Path]:
    """Where the libraries of the mpirun on PATH should be."""
    mpirun = _mpirun()
    return [] if mpirun is None else [mpirun.parent.parent / lib for lib in ("lib", "lib64")]


def family_of_mpirun() -> str | None:
    """Whose mpirun is on PATH, by the program's true name: Debian's mpirun is a link to orterun or to mpiexec.hydra."""
    mpirun = _mpirun()
    if mpirun is None:
        return None
    if mpirun.name in ("orterun", "prterun", "ompirun_wrapper", "mpirun.openmpi", "prte"):
        return "openmpi"
    return "mpich" if mpirun.name in ("mpiexec.hydra", "hydra", "mpiexec.mpich", "mpirun.mpich") else None
