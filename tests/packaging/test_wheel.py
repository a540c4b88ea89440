"""What a wheel promises by its name, what it contains, and what its library is."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile

import pytest
from commands import run
from swgbuild import build, compiling, project, toolchain

pytestmark = pytest.mark.slow

LIBRARY = "schwimmbad_go/_lib/libschwimmbad" + (".dylib" if sys.platform == "darwin" else ".so")
WORDS = "schwimmbad_go/_lib/libschwimmbad_words" + (".dylib" if sys.platform == "darwin" else ".so")
HEADER = "schwimmbad_go/_lib/include/schwimmbad.h"
LICENCES = {"LICENSE", "licenses/go.txt", "licenses/gompi.txt", "licenses/msgpack.txt", "licenses/tagparser.txt"}


def elffile_of(file: BinaryIO) -> Any:
    return pytest.importorskip("elftools.elf.elffile", reason="part of the test extra").ELFFile(file)


def test_one_wheel_serves_every_python_of_this_platform(wheel: Path) -> None:
    system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name == f"schwimmbad_go-0.1.0-py3-none-{system}.whl"
    with ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/WHEEL")]
        text = archive.read(name).decode()
    assert "Root-Is-Purelib: false" in text
    assert f"Tag: py3-none-{system}" in text


def test_record_lists_the_files_that_matter_and_no_other_than_the_files_there(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (record,) = [n for n in names if n.endswith(".dist-info/RECORD")]
        recorded = {row[0] for row in csv.reader(io.StringIO(archive.read(record).decode()))}
    assert recorded == names
    metadata = record.removesuffix("RECORD")
    assert {LIBRARY, HEADER, "schwimmbad_go/py.typed", "schwimmbad_go/_build_info.py", "schwimmbad_go/__init__.py"} <= names
    assert {metadata + "licenses/" + licence for licence in LICENCES} <= names
    assert {n.partition("/")[0] for n in names} == {"schwimmbad_go", metadata.rstrip("/")}
    assert not [n for n in names if "__pycache__" in n or n.endswith((".pyc", ".go"))]


def test_each_module_linked_into_a_file_of_the_wheel_has_its_licence_here(root: Path) -> None:
    template = "{{with .Module}}{{if not .Main}}{{.Path}}{{end}}{{end}}"
    linked = [("1", "-tags=mpi", "pyshim/capi")]
    if build.has_command(root):
        linked.append(("0", "-tags=nopython", compiling.COMMAND.as_posix()))
    names: set[str] = set()
    for cgo, tags, package in linked:
        command = [toolchain.find_go().path, "list", tags, "-deps", "-f", template, f"./{package}"]
        for module in run(*command, cwd=root, env={"CGO_ENABLED": cgo}).stdout.split():
            if not module.startswith("golang.org/x/"):  # those have Go's own licence
                # github.com/owner/NAME, with /v2 and so on after it; gopkg.in/NAME.v3
                names.add(re.sub(r"(/v\d+|\.v\d+)$", "", module).rpartition("/")[2])
    assert "gompi" in names
    assert names <= {path.stem for path in (root / "licenses").glob("*.txt")}


def test_the_command_travels_as_a_static_program(root: Path, wheel: Path, unpacked: Path) -> None:
    if not build.has_command(root):
        pytest.skip(f"this tree has no {compiling.COMMAND}")
    name = f"schwimmbad_go/_bin/{compiling.BINARY}"
    with ZipFile(wheel) as archive:
        assert (archive.getinfo(name).external_attr >> 16) & 0o111 == 0o111, "pip would install it as a file that cannot be run"
    program = unpacked / name
    program.chmod(0o755)
    with open(program, "rb") as file:
        kinds = {segment.header.p_type for segment in elffile_of(file).iter_segments()}
    assert not {"PT_INTERP", "PT_DYNAMIC"} & kinds, "it needs a C library"
    assert project.project_version(root) in run(program, "version", cwd=unpacked).stdout


def test_version_is_the_same_everywhere(root: Path, unpacked: Path) -> None:
    version = project.project_version(root)
    assert [p.name for p in unpacked.glob("*.dist-info")] == [f"schwimmbad_go-{version}.dist-info"]
    script = (
        "import ctypes, schwimmbad_go\n"
        "from schwimmbad_go import _build_info\n"
        f"library = ctypes.CDLL({str(unpacked / LIBRARY)!r})\n"
        "library.swg_version.restype = ctypes.c_char_p\n"
        "print(schwimmbad_go.__version__, _build_info.VERSION, library.swg_version().decode())"
    )
    done = run(sys.executable, "-c", script, cwd=unpacked, env={"PYTHONPATH": str(unpacked)})
    assert done.stdout.split() == [version] * 3


def test_library_exports_each_function_of_the_header(unpacked: Path) -> None:
    header = re.sub(r"/\*.*?\*/", "", (unpacked / HEADER).read_text(), flags=re.S)
    functions = re.findall(r"^\w[\w\s*]*?\b(swg_\w+)\(", header, flags=re.M)
    assert functions
    script = f"import ctypes; library = ctypes.CDLL({str(unpacked / LIBRARY)!r}); [getattr(library, f) for f in {functions!r}]"
    run(sys.executable, "-c", script, cwd=unpacked)


@pytest.mark.parametrize("language", ["c", "c++"])
def test_header_compiles_on_its_own(unpacked: Path, language: str) -> None:
    compiler = toolchain.find_compiler().command
    flags = ("-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
    if language == "c++" and subprocess.run([*compiler, "-x", "c++", "-fsyntax-only", "-"], input="", text=True).returncode != 0:
        pytest.skip("this compiler has no C++")
    source = unpacked / f"header.{'c' if language == 'c' else 'cc'}"
    source.write_text('#include "schwimmbad.h"\n')
    run(*compiler, "-x", language, *flags, f"-I{(unpacked / HEADER).parent}", source, cwd=unpacked)


@pytest.mark.skipif(sys.platform != "linux", reason="ELF")
def test_library_needs_the_c_library_only(unpacked: Path) -> None:
    with open(unpacked / LIBRARY, "rb") as file:
        tags = list(elffile_of(file).get_section_by_name(".dynamic").iter_tags())
    needed = {tag.needed.partition(".so")[0] for tag in tags if tag.entry.d_tag == "DT_NEEDED"}
    # Above all no libmpi: which one is right is known only where the program runs.
    assert needed <= {"libc", "libpthread", "libdl", "libresolv", "ld-linux-x86-64", "ld-linux-aarch64"}
    with open(unpacked / WORDS, "rb") as file:  # nor Python, whose functions are handed to it
        section = elffile_of(file).get_section_by_name(".dynamic")
        assert {tag.needed for tag in section.iter_tags() if tag.entry.d_tag == "DT_NEEDED"} <= {"libc.so.6"}
    assert [tag.soname for tag in tags if tag.entry.d_tag == "DT_SONAME"] == ["libschwimmbad.so"]
