"""Compiling the engine: shared libraries that Python loads, and the command as a static binary."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .project import BuildError, machine
from .toolchain import Compiler, Go

VERSION_VARIABLE = "github.com/schwimmbad-go/schwimmbad-go/pools.version"
_GOARCH = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}


class Variant(NamedTuple):
    """One shared library of the wheel: a set of build tags under a file name."""

    name: str
    stem: str
    tags: tuple[str, ...] = ()
    family: str | None = None  # of the MPI whose header it is compiled with

    @property
    def filename(self) -> str:
        return self.stem + (".dylib" if sys.platform == "darwin" else ".so")


# One library per MPI ABI, since the two families disagree about every handle and constant. Each holds all of the plain one.
VARIANTS = (
    Variant("core", "libschwimmbad"),
    Variant("openmpi", "libschwimmbad_openmpi", ("mpi",), "openmpi"),
    Variant("mpich", "libschwimmbad_mpich", ("mpi",), "mpich"),
)

# Numbers to words for the Python package: plain C, apart from the engine because worker processes load it.
WORDS = Variant("words", "libschwimmbad_words")

# The command line as one static file, for machines where no library can be loaded.
COMMAND = Path("cmd", "schwimmbad-go")
BINARY = "schwimmbad-go"


def environment(scratch: Path) -> dict[str, str]:
    """Variables for `go build`, whatever the user's environment says about other builds."""
    # GOOS, GOARCH: the library must fit the running Python. GOWORK: an unpacked sdist may lie below somebody's workspace.
    env = {key: value for key, value in os.environ.items() if key not in {"GOOS", "GOARCH", "GO111MODULE"}}
    # GOFLAGS is replaced, not extended. buildvcs fails without .git and on "dubious ownership".
    env |= {"GOFLAGS": "-mod=readonly -trimpath -buildvcs=false", "GOWORK": "off"}
    if goarch := _GOARCH.get(machine()):
        env["GOARCH"] = goarch
    if not env.get("HOME"):  # build services: Go and zig both keep caches there; the module cache must be removable afterwards
        env |= {"HOME": str(scratch), "GOFLAGS": env["GOFLAGS"] + " -modcacherw"}
    return env


def compile_library(
    variant: Variant, go: Go, compiler: Compiler, version: str, root: Path, env: Mapping[str, str], scratch: Path
) -> Path:
    """One shared library, in `scratch`.

    Raises
    ------
    BuildError
        With the compiler's own message.
    """
    linker = ""
    if sys.platform == "linux":  # else a C program linked by path would look for the library at that very path
        linker = f"-extldflags=-Wl,-soname,{variant.filename}"
    options = ["-buildmode=c-shared", f"-tags={','.join(variant.tags)}"]
    with_c = {**env, "CGO_ENABLED": "1", "CC": shlex.join(compiler.command)}
    what = f"the {variant.name} library with {compiler.version}"
    return _go_build(go, what, options, "pyshim/capi", scratch / variant.filename, version, root, with_c, linker)


def compile_words(compiler: Compiler, root: Path, scratch: Path) -> Path:
    """The library of pyshim/words, in `scratch`.

    Raises
    ------
    BuildError
        With the compiler's own message.
    """
    target = scratch / WORDS.filename
    command = [*compiler.command, "-O2", "-fPIC", "-shared", "-Wall", "-Werror", "-o", str(target), "pyshim/words/words.c"]
    done = subprocess.run(command, cwd=root, text=True, errors="replace", stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode != 0:
        raise BuildError(f"{compiler.version} could not build the {WORDS.name} library:\n{done.stderr.strip()}")
    return target


def compile_binary(go: Go, version: str, root: Path, env: Mapping[str, str], scratch: Path) -> Path:
    """The command as one static file, in `scratch`, without the embedded Python: 7 MB. Needs no C compiler.

    Raises
    ------
    BuildError
        With the compiler's own message.
    """
    without_c = {**env, "CGO_ENABLED": "0"}
    return _go_build(go, f"the {BINARY} command", ["-tags=nopython"], COMMAND.as_posix(), scratch / BINARY, version, root, without_c)


def _go_build(
    go: Go, what: str, options: list[str], package: str, target: Path, version: str, root: Path, env: Mapping[str, str], linker: str = ""
) -> Path:
    ldflags = f"-s -w -buildid= -X {VERSION_VARIABLE}={version} {linker}".rstrip()
    command = [go.path, "build", *options, "-ldflags", ldflags, "-o", str(target), f"./{package}"]
    done = subprocess.run(command, cwd=root, env=env, text=True, errors="replace", stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode != 0:
        raise BuildError(f"{go.version} could not build {what}:\n{done.stderr.strip()}")
    return target
