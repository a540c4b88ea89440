"""Why an MPI run has one process only, in sentences for its user."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from ._launcher import TITLES, VARIABLES, Launch, family_of_mpirun
from ._libmpi import SONAMES, Library


def diagnosis(started: Launch | None, library: Library | None, comm_size: int) -> str:
    """Why there is one process only, in sentences: facts first, then what to type.

    Parameters
    ----------
    started : Launch or None
        As from `launch`.
    library : Library or None
        The MPI library in use; None if none was loaded.
    comm_size : int
        What MPI_Comm_size said, or 1 if MPI was not asked.

    Returns
    -------
    str
        Empty if there is nothing to explain: more than one process.
    """
    if comm_size > 1:
        return ""
    loaded = f" The MPI library is {library}." if library else ""
    family = library.family if library else started.family if started else None
    if started is None:
        batch = ""
        if "SLURM_JOB_ID" in os.environ:
            batch = " The script of a Slurm batch job is one process: srun or mpirun inside it makes more."
        return (
            f"No MPI launcher started this process: none of {', '.join(VARIABLES)} is set.{batch}{loaded} "
            f"Start it with: {_start(family, library)}"
        )
    said = f"{started.variable}={os.environ.get(started.variable, started.rank if started.size is None else started.size)}"
    slurm = "SLURM_STEP_NUM_TASKS" in os.environ or started.variable.startswith("SLURM_")
    if started.size == 1:
        return f"The launcher set {said}: it started one process.{loaded} Ask for more: {_start(family, library, slurm)}"
    each = "each process is" if started.size is None else f"each of the {started.size} processes is"
    alone = f"{each} an MPI run of its own, of size 1."
    if library is None:
        return f"The launcher set {said}, but no MPI library is loaded. Start it with: {_start(family, library, slurm)}"
    if started.family is None:
        return (
            f"srun set {said}, but offered no way for MPI to connect the processes (--mpi=none).{loaded} So {alone} "
            f"Start it with: {_start(family, library, slurm)}"
        )
    if started.family != library.family:
        by = "srun --mpi=pmix" if slurm and started.variable == "PMIX_RANK" else f"the launcher of {TITLES[started.family]}"
        other = {
            "mpi4py": f"set MPI4PY_MPIABI={started.family}, or install an mpi4py built for it",
            "SCHWIMMBAD_GO_LIBMPI": "unset SCHWIMMBAD_GO_LIBMPI",
            "MPI4PY_LIBMPI": "unset MPI4PY_LIBMPI",
        }.get(library.how, f"set SCHWIMMBAD_GO_MPI={started.family}")
        return (
            f"The processes were started by {by} (it set {said}), but the MPI library is {library}, which does not "
            f"understand it. So {alone} To use {TITLES[started.family]}, {other}; to stay with this library, start it with: "
            f"{_start(library.family, library, slurm)}"
        )
    return (
        f"The launcher set {said}, but the MPI library, {library}, did not hear from it: it may belong to another "
        f"installation of {TITLES[library.family]}. So {alone} Start it with: {_start(family, library, slurm)}"
    )


def _start(family: str | None, library: Library | None, slurm: bool = False) -> str:
    """A command line that starts four processes with a launcher of the library's own."""
    script = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] not in ("", "-c", "-m") else "script.py"
    what = f"-n 4 python {script}"
    plugin = {"openmpi": "srun --mpi=pmix ", "mpich": "srun --mpi=pmi2 "}
    if slurm and family:
        return plugin[family] + what
    return f"{_launcher_of(family, library)} {what}"


def _launcher_of(family: str | None, library: Library | None) -> str:
    if family is None:
        return "mpirun"
    if library is not None:
        home = Path(os.path.realpath(library.path)).parent.parent if os.path.isabs(library.path) else None
    else:  # MPI from a wheel: it would be taken before any other
        home = Path(sys.prefix) if any(Path(sys.prefix, "lib", name).is_file() for name in SONAMES[family]) else None
    if home is not None and home != Path("/usr"):  # there mpirun is whichever the distribution prefers
        for name in ("mpirun", "mpiexec"):
            if (home / "bin" / name).is_file():
                return str(home / "bin" / name)
    own = {"openmpi": "mpirun.openmpi", "mpich": "mpiexec.mpich"}[family]
    if shutil.which(own):
        return own
    return "mpirun" if family_of_mpirun() in (family, None) else f"the mpirun of {TITLES[family]}:"
