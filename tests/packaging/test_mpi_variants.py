"""The engine's libraries for MPI: whose header they are compiled with, that they name no libmpi, and when they are left out."""

from __future__ import annotations

import ctypes
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import run
from swgbuild import build, compiling, mpi, project, toolchain

FAMILIES = ("openmpi", "mpich")
HEADERS = {
    "openmpi": "#define OMPI_MAJOR_VERSION 5\n#define OMPI_MINOR_VERSION 0\n#define OMPI_RELEASE_VERSION 11\n",
    "mpich": '#define MPICH_VERSION "5.0.2"\n',
    "intel": '#define I_MPI_VERSION "2021.13"\n',
    "other": "#define LAM_MPI 1\n",
}
RELEASES = {"openmpi": "5.0.11", "mpich": "5.0.2", "intel": "2021.13"}


def put(directory: Path, kind: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "mpi.h").write_text(HEADERS[kind])
    return directory


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any MPI: an empty PATH and Python environment, and nothing in the distribution's places."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    for family in FAMILIES:
        monkeypatch.delenv(mpi.include_variable(family), raising=False)
    monkeypatch.delenv("SWG_MPI", raising=False)
    read = mpi.read_header
    monkeypatch.setattr(mpi, "read_header", lambda directory: read(directory) if directory.is_relative_to(tmp_path) else None)
    return tmp_path


def wrapper(path: Path, open_mpi: str, mpich: str) -> None:
    """A compiler wrapper that answers as Open MPI's, as MPICH's, or as neither."""
    lines = [f'#!{shutil.which("sh", path="/bin:/usr/bin")}', 'case "$1" in']
    for option, answer in (("--showme:incdirs", open_mpi), ("-show", mpich)):
        lines.append(f"{option}) {f'echo {answer!r}' if answer else 'exit 1'};;")
    path.write_text("\n".join([*lines, "esac", ""]))
    path.chmod(0o755)


# --- whose header -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "family"), [("openmpi", "openmpi"), ("mpich", "mpich"), ("intel", "mpich"), ("other", None)])
def test_family_is_read_from_the_header(tmp_path: Path, kind: str, family: str | None) -> None:
    assert mpi.read_header(put(tmp_path, kind)) == (None if family is None else (family, RELEASES[kind]))


def test_directory_without_header(tmp_path: Path) -> None:
    assert mpi.read_header(tmp_path) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_found_says_what_to_install(bare: Path, family: str) -> None:
    with pytest.raises(project.ToolMissing, match=f"lib{family}-dev.*SCHWIMMBAD_GO_{family.upper()}_INCLUDE"):
        mpi.find_headers(family)
    assert mpi.missing_mpi() == list(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_directory_named_by_the_user_comes_first(bare: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    put(bare / "env/include", family)
    chosen = put(bare / "with space", family)
    monkeypatch.setenv(mpi.include_variable(family), str(chosen))
    assert mpi.find_headers(family).directory == chosen


def test_directory_named_by_the_user_is_never_passed_over(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bare / "env/include", "mpich")
    for content in (bare / "nothing", put(bare / "other family", "openmpi")):
        monkeypatch.setenv("SCHWIMMBAD_GO_MPICH_INCLUDE", str(content))
        with pytest.raises(project.BuildError, match="SCHWIMMBAD_GO_MPICH_INCLUDE.*no mpi.h of MPICH"):
            mpi.find_headers("mpich")


def test_wheel_in_the_python_environment_is_found(bare: Path) -> None:
    include = put(bare / "env/include", "mpich")
    assert mpi.find_headers("mpich") == (include, "5.0.2", "the Python environment")
    assert mpi.missing_mpi() == ["openmpi"]


def test_compiler_wrappers_are_asked_in_their_own_words(bare: Path) -> None:
    open_mpi, mpich = put(bare / "o", "openmpi"), put(bare / "m", "mpich")
    wrapper(bare / "bin/mpicc", f"{open_mpi} {open_mpi}/openmpi", "")
    wrapper(bare / "bin/mpicc.mpich", "", f"gcc -Wl,-z,relro -I{mpich} -L/x -lmpich")
    assert mpi.find_headers("openmpi") == (open_mpi, "5.0.11", "mpicc")
    assert mpi.find_headers("mpich") == (mpich, "5.0.2", "mpicc.mpich")


def test_wrapper_that_talks_nonsense_is_passed_over(bare: Path) -> None:
    wrapper(bare / "bin/mpicc", "it isn't here", "-I")
    assert mpi.missing_mpi() == list(FAMILIES)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("", {"openmpi": False, "mpich": False}),
        ("auto", {"openmpi": False, "mpich": False}),
        ("none", {}),
        ("MPICH", {"mpich": True}),
        ("openmpi, mpich", {"openmpi": True, "mpich": True}),
    ],
)
def test_families_asked_for(bare: Path, monkeypatch: pytest.MonkeyPatch, value: str, wanted: dict[str, bool]) -> None:
    monkeypatch.setenv("SWG_MPI", value)
    assert mpi.mpi_wanted() == wanted


def test_unknown_family_is_an_error(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWG_MPI", "openmpi,lam")
    with pytest.raises(project.BuildError, match="'lam'"):
        mpi.mpi_wanted()


# --- left out -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(bare: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`build` without tools: names the variants that it would compile; those in the file `broken` do not compile."""
    compiled: list[str] = []

    def compile_(variant: Any, *rest: Any) -> Path:
        if variant is not compiling.WORDS:
            compiled.append(variant.name)
        if (bare / "broken").exists() and variant.family:
            raise project.BuildError("the compiler's complaint")
        target: Path = rest[-1] / variant.filename
        target.write_text(variant.name)
        return target

    monkeypatch.setattr(toolchain, "find_go", lambda root: toolchain.Go("go", "go1.26.8"))
    monkeypatch.setattr(toolchain, "find_compiler", lambda: toolchain.Compiler(("cc",), "cc 1"))
    monkeypatch.setattr(compiling, "compile_library", compile_)
    monkeypatch.setattr(compiling, "compile_words", lambda *rest: compile_(compiling.WORDS, *rest))
    monkeypatch.setattr(build, "has_command", lambda root: False)
    monkeypatch.setattr(mpi, "stubs", lambda *rest: bare)
    return compiled


def information(out: Path) -> dict[str, Any]:
    return runpy.run_path(str(out / "_build_info.py"))


def test_missing_header_is_a_note_and_no_error(bare: Path, quick: list[str], tmp_path: Path) -> None:
    put(bare / "env/include", "mpich")
    stale = tmp_path / "out/_lib/libschwimmbad_openmpi.so"
    stale.parent.mkdir(parents=True)
    stale.touch()
    made = build.build(tmp_path / "out")
    assert quick == ["core", "mpich"]
    assert "_lib/libschwimmbad_mpich.so" in made.files and "_lib/libschwimmbad_openmpi.so" not in made.files
    assert not stale.exists(), "a library of an older build stayed"
    info = information(tmp_path / "out")
    assert list(info["LIBRARIES"]) == ["core", "mpich"]
    assert info["MPI"] == {"mpich": "MPICH 5.0.2, found by the Python environment"}
    assert info["SKIPPED"] == made.skipped
    assert "no mpi.h of Open MPI found" in made.skipped["openmpi"]


def test_missing_header_is_an_error_where_it_is_required(bare: Path, quick: list[str], tmp_path: Path,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    put(bare / "env/include", "mpich")
    with pytest.raises(project.BuildError, match="no mpi.h of Open MPI"):
        build.build(tmp_path / "out", require_mpi=True)
    monkeypatch.setenv("SWG_MPI", "openmpi")
    with pytest.raises(project.BuildError, match="no mpi.h of Open MPI"):
        build.build(tmp_path / "out")
    assert not (tmp_path / "out").exists(), "half a build was left behind"
    monkeypatch.setenv("SWG_MPI", "mpich")
    assert build.build(tmp_path / "out").skipped == {"openmpi": "not asked for by $SWG_MPI"}


def test_header_that_does_not_compile_spares_the_other_pools(bare: Path, quick: list[str], tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    put(bare / "env/include", "mpich")
    (bare / "broken").touch()
    assert build.build(tmp_path / "out").skipped["mpich"] == "the compiler's complaint"
    monkeypatch.setenv("SCHWIMMBAD_GO_MPICH_INCLUDE", str(bare / "env/include"))  # asked for by name: an error
    with pytest.raises(project.BuildError, match="the compiler's complaint"):
        build.build(tmp_path / "out")


def test_wrong_directory_named_by_the_user_fails_the_build(bare: Path, quick: list[str], tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHWIMMBAD_GO_MPICH_INCLUDE", str(put(bare / "other family", "openmpi")))
    with pytest.raises(project.BuildError, match="SCHWIMMBAD_GO_MPICH_INCLUDE"):
        build.build(tmp_path / "out")


# --- what was built -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tags", "cgo"), [("", "1"), ("mpi", "0")])
def test_gompi_is_reached_with_the_tag_and_cgo_only(root: Path, tags: str, cgo: str) -> None:
    """It does not compile without mpi.h, and `go build ./...` must work everywhere."""
    go = toolchain.find_go().path
    done = run(go, "list", "-deps", f"-tags={tags}", "./...", cwd=root, env={"CGO_ENABLED": cgo})
    assert "github.com/sbromberger/gompi" not in done.stdout.split()


@pytest.fixture(params=FAMILIES)
def library(request: pytest.FixtureRequest, unpacked: Path) -> Path:
    """Each MPI library of the wheel, where this machine has the header for it."""
    if request.param in mpi.missing_mpi():
        pytest.skip(f"no mpi.h of {request.param}")
    return unpacked / f"schwimmbad_go/_lib/libschwimmbad_{request.param}.so"


class Symbols:
    def __init__(self, path: Path) -> None:
        elffile = pytest.importorskip("elftools.elf.elffile", reason="part of the test extra")
        with open(path, "rb") as file:
            elf = elffile.ELFFile(file)
            tags = list(elf.get_section_by_name(".dynamic").iter_tags())
            symbols = list(elf.get_section_by_name(".dynsym").iter_symbols())
        self.needed = {tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"}
        self.soname = [tag.soname for tag in tags if tag.entry.d_tag == "DT_SONAME"]
        self.searched = [tag for tag in tags if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH")]
        self.undefined = {s.name for s in symbols if s.entry.st_shndx == "SHN_UNDEF"}
        self.defined = {s.name for s in symbols if s.entry.st_shndx != "SHN_UNDEF"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ELF")
def test_library_names_no_libmpi_and_wants_its_functions(library: Path, unpacked: Path) -> None:
    found, plain = Symbols(library), Symbols(unpacked / "schwimmbad_go/_lib/libschwimmbad.so")
    assert found.needed == plain.needed
    assert found.soname == [library.name]
    assert not found.searched
    assert {"MPI_Init_thread", "MPI_Finalize", "MPI_Comm_rank"} <= found.undefined
    assert ("ompi_mpi_comm_world" in found.undefined) == ("openmpi" in library.name)
    assert not [name for name in plain.undefined if name.startswith(("MPI_", "ompi_"))]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ELF")
def test_library_holds_all_of_the_plain_one(library: Path, unpacked: Path) -> None:
    found, plain = Symbols(library), Symbols(unpacked / "schwimmbad_go/_lib/libschwimmbad.so")
    ours = {name for name in plain.defined if name.startswith("swg_")}
    assert len(ours) > 20
    assert ours <= found.defined


@pytest.mark.slow
def test_library_without_libmpi_does_not_load(library: Path) -> None:
    """Not even lazily: variables such as ompi_mpi_comm_world, or Go's own relocations, need their addresses at once."""
    script = f"import ctypes; ctypes.CDLL({str(library)!r})"
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, env={**os.environ, "LD_PRELOAD": ""})
    assert done.returncode != 0
    assert "undefined symbol: " in done.stderr


@pytest.mark.slow
def test_build_information_in_the_wheel(unpacked: Path) -> None:
    info = information(unpacked / "schwimmbad_go")
    absent = mpi.missing_mpi()
    assert set(info["SKIPPED"]) == set(absent)
    assert set(info["MPI"]) == set(FAMILIES) - set(absent)
    for filename in info["LIBRARIES"].values():
        assert (unpacked / "schwimmbad_go/_lib" / filename).is_file()


@pytest.mark.slow
def test_licence_of_gompi_travels_in_full(unpacked: Path, root: Path) -> None:
    (text,) = [path.read_text() for path in unpacked.glob("*.dist-info/licenses/licenses/gompi.txt")]
    assert "Redistribution in any form with modification is expressly prohibited." in text
    source = run(toolchain.find_go().path, "mod", "download", "-json", "github.com/sbromberger/gompi", cwd=root)
    directory = source.stdout.partition('"Dir": "')[2].partition('"')[0]
    assert text == Path(directory, "LICENSE.md").read_text()


def test_empty_archive_is_one(tmp_path: Path) -> None:
    """A program that is linked against it has no NEEDED entry for it."""
    compiler = toolchain.find_compiler().command
    (tmp_path / "libmpi.a").write_bytes(mpi.EMPTY_ARCHIVE)
    (tmp_path / "x.c").write_text("int f(void) { return 3; }\n")
    run(*compiler, "-shared", "-fPIC", f"-L{tmp_path}", "-o", tmp_path / "x.so", tmp_path / "x.c", "-lmpi", cwd=tmp_path)
    assert ctypes.CDLL(str(tmp_path / "x.so")).f() == 3
    assert b"libmpi" not in (tmp_path / "x.so").read_bytes()
