"""Everything that a wheel gets from a build: libraries, header, command, build information."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from . import compiling, mpi, toolchain
from .compiling import BINARY, VARIANTS, WORDS, Variant
from .project import ROOT, BuildError, ToolMissing, machine, musl, project_version
from .toolchain import Compiler, Go

NOTE_LENGTH = 2000  # characters of a compiler's complaint that go into _build_info.py
NO_MUSL = "a Go shared library cannot be loaded on musl systems such as Alpine (golang/go#54805)"


class Build(NamedTuple):
    """What a build made, and what it left out."""

    files: dict[str, Path]  # path inside the package -> file
    skipped: dict[str, str]  # variant -> why there is none
    compiler: Compiler | None  # None where nothing was compiled from C


def build(out: Path, root: Path = ROOT, require_mpi: bool = False) -> Build:
    """Build all of it into `out`.

    Parameters
    ----------
    out : Path
        Laid out like the Python package: `_lib/<library>`, `_lib/include/schwimmbad.h`, `_bin/schwimmbad-go`, `_build_info.py`.
        Each file is put in place by a rename, so that a process that has loaded the old library keeps it.
    root : Path
        The source tree.
    require_mpi : bool
        Whether it is an error if an MPI variant cannot be built. Otherwise the reason is noted in the result and in
        `_build_info.py`: the pools that need no MPI must install everywhere. $SWG_MPI can ask for families by name.

    Returns
    -------
    Build

    Raises
    ------
    BuildError
        No tools, an unsupported platform, or the compiler's own message.

    Notes
    -----
    Cost on 2 cores, three libraries one after the other: 16 to 18 s with cold caches, 4 s warm.
    """
    libraries = _libraries_can_be_loaded(root)
    go, version = toolchain.find_go(root), project_version(root)
    compiler = toolchain.find_compiler() if libraries else None
    with tempfile.TemporaryDirectory(prefix="schwimmbad-go-") as scratch_name:
        scratch = Path(scratch_name)
        env = compiling.environment(scratch)
        made = _Made(skipped={} if libraries else {variant.name: NO_MUSL for variant in VARIANTS})
        if compiler is not None:
            _compile_libraries(made, go, compiler, version, root, env, scratch, require_mpi)
        if has_command(root):
            made.files[f"_bin/{BINARY}"] = compiling.compile_binary(go, version, root, env, scratch)
        info = scratch / "_build_info.py"
        info.write_text(_build_info(go, compiler, version, made), "utf-8")
        made.files["_build_info.py"] = info
        placed = {inside: _place(path, out / inside) for inside, path in made.files.items()}
    _remove_stale(out, placed)
    return Build(placed, made.skipped, compiler)


def has_command(root: Path) -> bool:
    """Whether the tree holds the command line written in Go."""
    return (root / compiling.COMMAND).is_dir()


def _libraries_can_be_loaded(root: Path) -> bool:
    if sys.platform not in ("linux", "darwin"):
        raise BuildError(f"schwimmbad-go has no engine for {sys.platform} yet; Linux is supported")
    if musl() and not has_command(root):
        raise BuildError(f"{NO_MUSL}; use a glibc Python")
    return not musl()


class _Made:
    """What is there so far, still in the scratch directory."""

    def __init__(self, skipped: dict[str, str]) -> None:
        self.files: dict[str, Path] = {}
        self.variants: list[Variant] = []
        self.headers: dict[str, mpi.Headers] = {}
        self.skipped = skipped


def _compile_libraries(
    made: _Made, go: Go, compiler: Compiler, version: str, root: Path, env: Mapping[str, str], scratch: Path, require_mpi: bool
) -> None:
    wanted = dict.fromkeys(mpi.MPI_TITLES, True) if require_mpi else mpi.mpi_wanted()
    for variant in VARIANTS:
        family, variables = variant.family, env
        try:
            if family is not None:
                if family not in wanted:
                    raise ToolMissing("not asked for by $SWG_MPI")
                if sys.platform != "linux":
                    raise ToolMissing("MPI is supported on Linux only, so far")
                made.headers[variant.name] = mpi.find_headers(family)
                variables = mpi.environment(env, made.headers[variant.name], mpi.stubs(go, env))
            made.files[f"_lib/{variant.filename}"] = compiling.compile_library(variant, go, compiler, version, root, variables, scratch)
            made.variants.append(variant)
        except BuildError as error:
            named = family is not None and bool(os.environ.get(mpi.include_variable(family)))
            if family is None or wanted.get(family) or named:
                raise
            made.skipped[variant.name] = str(error)[:NOTE_LENGTH]
    made.files[f"_lib/{WORDS.filename}"] = compiling.compile_words(compiler, root, scratch)
    made.files["_lib/include/schwimmbad.h"] = root / "pyshim/capi/schwimmbad.h"


def _place(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")  # same file system as the target, so that the rename is atomic
    shutil.copyfile(source, beside)
    beside.chmod(0o755 if target.parent.name == "_bin" else 0o644)
    beside.replace(target)
    return target


def _remove_stale(out: Path, placed: Mapping[str, Path]) -> None:
    """What an earlier build left and this one did not make would speak an older protocol."""
    for inside in (*(f"_lib/{variant.filename}" for variant in (*VARIANTS, WORDS)), f"_bin/{BINARY}"):
        if inside not in placed:
            (out / inside).unlink(missing_ok=True)


def _build_info(go: Go, compiler: Compiler | None, version: str, made: _Made) -> str:
    libraries = {variant.name: variant.filename for variant in made.variants}
    mpis = {
        name: f"{mpi.MPI_TITLES[name]} {headers.release}, found by {headers.how}"
        for name, headers in made.headers.items()
        if name in libraries
    }
    return f'''"""What the files in _lib and _bin were built from. Generated by tools/gobuild.py: edits are lost."""

VERSION = {version!r}
GO = {go.version!r}
COMPILER = {(compiler.version if compiler else "none")!r}
PLATFORM = {f"{sys.platform}-{machine()}"!r}
LIBRARIES: dict[str, str] = {libraries!r}
# The command line in _bin, or nothing.
COMMAND = {(BINARY if f"_bin/{BINARY}" in made.files else "")!r}
# Whose mpi.h each MPI variant was compiled with; why others are absent.
MPI: dict[str, str] = {mpis!r}
SKIPPED: dict[str, str] = {made.skipped!r}
'''
