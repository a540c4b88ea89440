"""`MPIPool`: the pool whose workers are MPI ranks. In this version its name and its errors only.

Nothing here starts MPI: on the login node of a cluster that can kill the process. What is known about the run
comes from the environment that the launcher (``mpirun``, ``srun``) sets.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

from .error import PoolUnavailable
from .pool import BasePool

__all__ = ["MPI", "MPIPool"]

#: ``mpi4py.MPI`` once a pool, or `_import_mpi`, has imported it.
MPI: Any = None

# Number of ranks as launchers announce it. Slurm sets its variable for plain batch jobs as well, which are
# not MPI runs, so it counts only inside a step that srun started.
_SIZE_VARIABLES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_SIZE")
_NOT_YET = "MPIPool is not part of this version; use MultiPool."


def _dummy_callback(x: Any) -> None:
    """Does nothing."""


def _import_mpi(quiet: bool = False, use_dill: bool = False) -> Any:
    """Import ``mpi4py.MPI`` into `MPI`; this starts MPI.

    Parameters
    ----------
    quiet : bool
        Return None instead of raising if mpi4py is missing.
    use_dill : bool
        Accepted. schwimmbad replaced mpi4py's pickler for the whole process; the user's own messages are not
        ours.

    Returns
    -------
    module or None

    Raises
    ------
    ImportError
        ``Please install mpi4py``.
    """
    global MPI
    try:
        from mpi4py import MPI as found
    except ImportError as error:
        if not quiet:
            raise ImportError("Please install mpi4py") from error
    else:
        MPI = found
    return MPI


def _launched_ranks(environ: Mapping[str, str]) -> tuple[str, int] | None:
    """Variable and number of ranks by which a launcher made itself known; None if there was no launcher."""
    names = [*_SIZE_VARIABLES]
    if "SLURM_STEP_ID" in environ and environ["SLURM_STEP_ID"].isdigit():
        names.append("SLURM_STEP_NUM_TASKS")
    for name in names:
        if environ.get(name, "").isdigit():
            return name, int(environ[name])
    return None


def _diagnosis() -> str:
    """What the user needs to know after one of schwimmbad's sentences."""
    found = _launched_ranks(os.environ)
    if found is None:
        seen = f"No MPI launcher started this process (none of {', '.join(_SIZE_VARIABLES)} is set)."
    else:
        seen = f"The launcher set {found[0]}={found[1]}."
    return f"{seen} {_NOT_YET}"


def _have_libmpi() -> bool:
    from ctypes.util import find_library

    return any(find_library(name) for name in ("mpi", "mpich"))


class MPIPool(BasePool):
    """A pool whose workers are the ranks of an MPI run; not available in this version.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm, optional
        The ranks to use; None for all.
    use_dill : bool
        Pickle with dill.
    **_
        Arguments of the other pools.

    Raises
    ------
    ImportError
        Neither mpi4py nor an MPI library is installed.
    ValueError
        There is only one process.
    PoolUnavailable
        Otherwise (a NotImplementedError), so far.
    """

    def __init__(self, comm: Any = None, use_dill: bool = False, **_: Any) -> None:
        if importlib.util.find_spec("mpi4py") is None and not _have_libmpi():
            raise ImportError(f"Please install mpi4py. No MPI library was found either. {_NOT_YET}")
        found = _launched_ranks(os.environ)
        ranks = comm.Get_size() if comm is not None else found[1] if found else 1
        if ranks < 2:
            raise ValueError(
                "Tried to create an MPI pool, but there was only one MPI process available. "
                f"Need at least two. {_diagnosis()}"
            )
        raise PoolUnavailable(f"{_NOT_YET} It was asked for with {ranks} ranks.")

    @staticmethod
    def enabled() -> bool:
        """False in this version."""
        return False

    def map(self, *args: Any, **kwargs: Any) -> Any:
        """Not available."""
        raise PoolUnavailable(_NOT_YET)
