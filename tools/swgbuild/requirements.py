"""What pip must install before a build works here."""

from __future__ import annotations

from pathlib import Path

from . import mpi, toolchain
from .project import ROOT, ToolMissing, musl


def requirements(root: Path = ROOT) -> list[str]:
    """Requirements of the build, each only where this machine has nothing of the kind.

    Parameters
    ----------
    root : Path
        The source tree: its go.mod decides which Go is new enough.

    Returns
    -------
    list of str
        Go (75 MB) and a C compiler (100 MB); the wheel of an MPI that $SWG_MPI names, for its mpi.h (7 and 13 MB). Never one that
        was not asked for: the two MPIs own the same files, so nobody but the user can choose. On musl no C compiler: what is
        built there is pure Go.

    Raises
    ------
    BuildError
        A variable names a tool or a directory that cannot be used.
    """
    needed = []
    try:
        toolchain.find_go(root)
    except ToolMissing:
        needed.append(toolchain.GO_REQUIREMENT)
    if musl():
        return needed
    try:
        toolchain.find_compiler()
    except ToolMissing:
        needed.append(toolchain.ZIG_REQUIREMENT)
    asked = [family for family, required in mpi.mpi_wanted().items() if required]
    missing = [family for family in asked if family in mpi.missing_mpi()]
    return needed + (missing if len(missing) == 1 else [])  # two in one environment would overwrite each other's mpi.h
