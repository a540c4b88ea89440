"""Finding the headers of each MPI, and compiling against them without linking their library."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Final, NamedTuple

from .project import BuildError, ToolMissing, machine, run_probe
from .toolchain import Go

MPI_TITLES: Final = {"openmpi": "Open MPI", "mpich": "MPICH"}
# Which family an mpi.h belongs to. Intel MPI, MVAPICH and Cray MPICH keep MPICH's ABI and name themselves in their own ways.
MPI_MARKS: Final = {
    "openmpi": re.compile(r"^\s*#\s*define\s+OMPI_MAJOR_VERSION\s", re.M),
    "mpich": re.compile(r"^\s*#\s*define\s+(MPICH_VERSION|I_MPI_VERSION|MVAPICH2?_VERSION|CRAY_MPICH_VERSION)\s", re.M),
}
# `-lmpi` stands in gompi's own flags. An archive without members satisfies it and leaves no NEEDED entry behind.
EMPTY_ARCHIVE = b"!<arch>\n"


class Headers(NamedTuple):
    """Where the mpi.h of one family lies."""

    directory: Path
    release: str  # as the header tells it, "4.1.4"
    how: str  # by what it was found, for the build information


def mpi_wanted() -> dict[str, bool]:
    """Family -> whether it is an error not to build it, from $SWG_MPI: `auto` (the default), `none`, or a list of families.

    Raises
    ------
    BuildError
        $SWG_MPI names something else.
    """
    chosen = os.environ.get("SWG_MPI", "").strip().lower() or "auto"
    if chosen in ("auto", "none"):
        return dict.fromkeys(MPI_TITLES, False) if chosen == "auto" else {}
    families = [name.strip() for name in chosen.split(",")]
    if unknown := [name for name in families if name not in MPI_TITLES]:
        raise BuildError(f"$SWG_MPI names {unknown[0]!r}: it may be auto, none, or a list of {', '.join(MPI_TITLES)}")
    return dict.fromkeys(families, True)


def include_variable(family: str) -> str:
    """Environment variable that names the directory of this family's mpi.h."""
    return f"SCHWIMMBAD_GO_{family.upper()}_INCLUDE"


def read_header(directory: Path) -> tuple[str, str] | None:
    """(family, release) of the mpi.h in a directory; None where there is none, or one of a family that we do not know."""
    try:
        text = (directory / "mpi.h").read_text("utf-8", "replace")
    except OSError:
        return None
    for family, mark in MPI_MARKS.items():
        if mark.search(text):
            if family == "openmpi":
                return family, ".".join(re.findall(r"^\s*#\s*define\s+OMPI_(?:MAJOR|MINOR|RELEASE)_VERSION\s+(\d+)", text, re.M))
            named = re.search(r'^\s*#\s*define\s+\w*VERSION\s+"([^"]+)"', text, re.M)
            return family, named[1] if named else "unknown release"
    return None


def _wrapper_directories(wrapper: str) -> list[Path]:
    """Include directories that a compiler wrapper (`mpicc`) adds: Open MPI's and MPICH's are asked in different words."""
    path = shutil.which(wrapper)
    if path is None:
        return []
    found: list[Path] = []
    for option in ("--showme:incdirs", "-show"):
        try:
            done = run_probe([path, option])
        except (OSError, TimeoutExpired):
            continue
        if done.returncode != 0:
            continue
        try:
            words = shlex.split(done.stdout)
        except ValueError:  # prose with an apostrophe
            continue
        if option == "-show":
            words = [word[2:] for word in words if word.startswith("-I")]
        found += [Path(word) for word in words if word.startswith("/")]
    return found


def _wheel_directories(family: str) -> list[Path]:
    """Where an installed wheel of this family has its mpi.h. pip's build environment is no prefix of its own, but a path entry."""
    try:
        files = metadata.files(family) or []
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())).resolve().parent for file in files if file.name == "mpi.h"]


def find_headers(family: str) -> Headers:
    """First mpi.h of the family among: its variable, the running Python's wheels, the wrappers on PATH, the distribution's places.

    Raises
    ------
    BuildError
        The family's variable names a directory without such a header: it is never passed over in favour of another.
    ToolMissing
        There is none; the text says what to install.
    """
    variable, title = include_variable(family), MPI_TITLES[family]
    if chosen := os.environ.get(variable):
        found = read_header(Path(chosen))
        if found is None or found[0] != family:
            raise BuildError(f"${variable} is {chosen!r}, where there is no mpi.h of {title}")
        return Headers(Path(chosen), found[1], f"${variable}")
    multiarch = sysconfig.get_config_var("MULTIARCH") or f"{machine()}-linux-gnu"
    packaged = {
        "openmpi": (f"/usr/lib/{multiarch}/openmpi/include", f"/usr/include/openmpi-{machine()}", "/usr/lib64/mpi/gcc/openmpi4/include"),
        "mpich": (f"/usr/include/{multiarch}/mpich", f"/usr/include/mpich-{machine()}", "/usr/lib64/mpi/gcc/mpich/include"),
    }[family]
    places = [(Path(sys.prefix, "include"), "the Python environment")]
    places += [(directory, f"the {family} wheel") for directory in _wheel_directories(family)]
    places += [(directory, wrapper) for wrapper in ("mpicc", f"mpicc.{family}") for directory in _wrapper_directories(wrapper)]
    places += [(Path(name), "its usual place") for name in (*packaged, "/usr/include", "/usr/local/include")]
    for directory, how in places:
        found = read_header(directory)
        if found is not None and found[0] == family:
            return Headers(directory, found[1], how)
    raise ToolMissing(
        f"no mpi.h of {title} found: install lib{family}-dev (Debian), load a module that has mpicc, pip install {family}, "
        f"or name the directory in ${variable}"
    )


def missing_mpi() -> list[str]:
    """Families whose mpi.h is not found here."""
    missing = []
    for family in MPI_TITLES:
        try:
            find_headers(family)
        except ToolMissing:
            missing.append(family)
    return missing


def stubs(go: Go, env: Mapping[str, str]) -> Path:
    """Directory with the empty libmpi.a. It lies in Go's cache, since a path that changed would make every build a cold one."""
    cache = run_probe([go.path, "env", "GOCACHE"], env=env).stdout.strip()
    if not cache.startswith("/"):
        raise BuildError(f"{go.path} has no build cache: `go env GOCACHE` says {cache!r}")
    folder = Path(cache, "schwimmbad-go")
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / "libmpi.a"
    if not archive.is_file() or archive.read_bytes() != EMPTY_ARCHIVE:
        archive.write_bytes(EMPTY_ARCHIVE)
    return folder


def environment(env: Mapping[str, str], headers: Headers, stubs: Path) -> dict[str, str]:
    """gompi's own flags name Debian's Open MPI; what stands in the environment comes before them on the command line."""
    flags = {"CGO_CFLAGS": f"-I{headers.directory}", "CGO_LDFLAGS": f"-L{stubs}"}
    given = {"CGO_CFLAGS": env.get("CGO_CFLAGS") or "-O2", "CGO_LDFLAGS": env.get("CGO_LDFLAGS", "")}
    return {**env, **{name: f"'{flag}' {given[name]}".strip() for name, flag in flags.items()}}
