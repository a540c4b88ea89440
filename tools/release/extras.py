"""Each extra of the wheel installs, and brings what it is for."""

from __future__ import annotations

import sys
from pathlib import Path

from release.steps import environment, requirement, run

# Extra -> what must then be there: modules to import, or files below the environment.
EXTRAS: dict[str, tuple[str, ...]] = {
    "mpi": ("bin/mpiexec", "lib/libmpi.so.40"),
    "mpich": ("bin/mpiexec", "lib/libmpi.so.12"),
    "mpi4py": ("mpi4py",),
    "joblib": ("joblib",),
    "progress": ("tqdm",),
    "dill": ("dill",),
    "cloudpickle": ("cloudpickle",),
    "all": ("joblib", "tqdm", "dill", "cloudpickle"),
    "test": ("pytest", "numpy", "mpi4py", "hatchling"),
}


def check(extra: str, wheel: Path, folder: Path) -> str:
    """Install one extra into an environment of its own; what came with it.

    Raises
    ------
    Failed
        It does not install, its requirements disagree, or something is missing.
    """
    python = environment(sys.executable, folder / f"extra-{extra}", [requirement(wheel, extra)])
    run(python, "-c", "import sys; assert sys.prefix != sys.base_prefix; import schwimmbad_go", cwd=folder)
    for expected in EXTRAS[extra]:
        if "/" in expected:
            run(python, "-c", f"import pathlib, sys; (pathlib.Path(sys.prefix) / {expected!r}).stat()", cwd=folder)
        else:
            run(python, "-c", f"import {expected}", cwd=folder)
    return ", ".join(EXTRAS[extra])
