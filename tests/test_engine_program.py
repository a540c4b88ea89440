"""An installation without the library, as on musl: the first pool starts the engine, in a process of the installed program."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import schwimmbad_go
from helpers import scripts
from helpers.program import Program, program_fixture  # noqa: F401 - a fixture


@pytest.fixture(scope="session")
def installed(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as a musl wheel has it: `_bin` and no `_lib`."""
    folder = tmp_path_factory.mktemp("musl")
    package = folder / "schwimmbad_go"
    (package / "_bin").mkdir(parents=True)
    (package / "_bin" / "schwimmbad-go").hardlink_to(program.path)
    for path in Path(schwimmbad_go.__file__).parent.iterdir():
        if path.name not in ("_lib", "_bin", "__pycache__"):
            (package / path.name).symlink_to(path)
    return folder


@pytest.fixture
def environ(installed: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """For a script that imports that package."""
    for name in ("SCHWIMMBAD_GO_LIBRARY", "SCHWIMMBAD_GO_FD"):
        monkeypatch.delenv(name, raising=False)
    return {"PYTHONPATH": os.pathsep.join([str(installed), str(scripts.TESTS)])}


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_pools_work(environ: dict[str, str], tmp_path: Path, method: str) -> None:
    """Pools one after the other, with one engine process; all is gone when the script ends. Only started workers may have a pool of
    their own: what is forked has neither its own socket nor the right to use this one."""
    out = scripts.succeed(tmp_path, f"""
        import os
        import schwimmbad_go

        def nested(n):
            try:
                with schwimmbad_go.MultiPool(1) as pool:
                    return pool.map(abs, [-n])
            except schwimmbad_go.error.EngineError as error:
                return str(error)[:23]

        if __name__ == "__main__":
            for _ in range(2):
                with schwimmbad_go.MultiPool(2, start_method={method!r}) as pool:
                    print(pool.map(abs, range(-5, 0)), pool.map(nested, [7]))
            from schwimmbad_go import _engine
            print(_engine.library().in_process, _engine.origin().name, os.get_inheritable(_engine._inherited.fd))
    """, env=environ)
    inner = "['this process was forked']" if method == "fork" else "[[7]]"
    assert out.splitlines() == [f"[5, 4, 3, 2, 1] {inner}"] * 2 + ["False schwimmbad-go False"]


def test_descriptor_3_is_the_users(environ: dict[str, str], tmp_path: Path) -> None:
    """The program looks for its socket there; the script's own file of that number must stay."""
    out = scripts.succeed(tmp_path, """
        import os
        import schwimmbad_go

        ends = os.pipe()
        os.dup2(ends[0], 3)
        os.write(ends[1], b"here")
        with schwimmbad_go.MultiPool(1) as pool:
            print(pool.map(abs, [-1]), os.read(3, 10))
    """, env=environ)
    assert out == "[1] b'here'\n"


def test_children_of_the_script(environ: dict[str, str], tmp_path: Path) -> None:
    """The engine is none of them: a script that waits for all of its children comes to an end."""
    out = scripts.succeed(tmp_path, """
        import os
        import schwimmbad_go

        with schwimmbad_go.MultiPool(1) as pool:
            print(pool.map(abs, [-1]))
        try:
            os.wait()
        except ChildProcessError:
            print("none")
    """, env=environ)
    assert out == "[1]\nnone\n"


def test_killed(environ: dict[str, str], tmp_path: Path) -> None:
    """The engine and the workers end with the script."""
    code, _, err = scripts.run(tmp_path, """
        import os, signal
        import schwimmbad_go

        pool = schwimmbad_go.MultiPool(2)
        pool.map(abs, [-1])
        os.kill(os.getpid(), signal.SIGKILL)
    """, env=environ)
    assert (code, err) == (-9, "")


def test_a_program_that_does_not_run(environ: dict[str, str], installed: Path, tmp_path: Path) -> None:
    package = tmp_path / "broken" / "schwimmbad_go"
    (package / "_bin").mkdir(parents=True)
    for path in (installed / "schwimmbad_go").iterdir():
        if path.name != "_bin":
            (package / path.name).symlink_to(path)
    for words, said in (("no program at all", "does not start"), ("#!/bin/sh\nexit 5\n", "exit code 5")):
        (package / "_bin" / "schwimmbad-go").write_text(words)
        (package / "_bin" / "schwimmbad-go").chmod(0o755)
        out = scripts.succeed(tmp_path, """
            import schwimmbad_go
            try:
                schwimmbad_go.MultiPool(1)
            except schwimmbad_go.error.EngineError as error:
                print(error)
        """, env={"PYTHONPATH": os.pathsep.join([str(package.parent), str(scripts.TESTS)])})
        assert said in out, out


def test_no_mpi(environ: dict[str, str], tmp_path: Path) -> None:
    out = scripts.succeed(tmp_path, """
        import schwimmbad_go
        from schwimmbad_go import _engine
        try:
            _engine.mpi_library("openmpi")
        except schwimmbad_go.error.EngineError as error:
            print(error)
    """, env=environ)
    assert "musl" in out


def test_doctor_and_run(environ: dict[str, str], program: Program, tmp_path: Path) -> None:
    """Both find out which engine there is."""
    script = tmp_path / "script.py"
    script.write_text("import schwimmbad\nwith schwimmbad.MultiPool(2) as pool:\n    print(list(pool.map(abs, [-1, 2])))\n")
    variables = {**environ, "SCHWIMMBAD_GO_PYTHON": sys.executable}
    assert program("run", script, cwd=tmp_path, variables=variables).ok() == "[1, 2]\n"
    found = program("doctor", cwd=tmp_path, variables=variables).stdout
    assert "this installation has no library" in found and "libschwimmbad.so" not in found
