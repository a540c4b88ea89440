"""`schwimmbad` as another name of the package, and `python -m schwimmbad_go`. All in fresh interpreters."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import schwimmbad_go
from schwimmbad_go import _alias

SOURCE = Path(schwimmbad_go.__file__).parent.parent
INSTALL = "from schwimmbad_go import _alias; _alias.install()\n"
SUBMODULES = ["serial", "pool", "utils", "error", "decorators", "mpi", "jl", "_test_helpers"]


def run(*args: str, cwd: Path, status: int = 0, path: list[Path] | None = None) -> str:
    """Run Python with warnings as errors; its standard output. It must say nothing else unless it fails."""
    entries = [SOURCE] if path is None else path
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, entries))}
    done = subprocess.run(
        [sys.executable, "-W", "error", *args],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    assert status or done.stderr == ""
    return done.stdout if not status else done.stdout + done.stderr


def code(text: str) -> str:
    return INSTALL + textwrap.dedent(text)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere" / "script.py"


class TestTheAlias:
    def test_same_modules(self, tmp_path: Path) -> None:
        program = f"""
            import importlib, sys
            import schwimmbad, schwimmbad_go
            assert schwimmbad is schwimmbad_go
            for name in {SUBMODULES}:
                found = importlib.import_module("schwimmbad." + name)
                assert found is importlib.import_module("schwimmbad_go." + name), name
                assert found.__name__ == found.__spec__.name == "schwimmbad_go." + name
                assert getattr(schwimmbad, name) is found
            from schwimmbad.serial import SerialPool
            from schwimmbad.pool import BasePool
            assert isinstance(schwimmbad_go.SerialPool(), SerialPool) and issubclass(SerialPool, BasePool)
        """
        run("-c", code(program), cwd=tmp_path)

    def test_alias_first(self, tmp_path: Path) -> None:
        """A submodule imported under the alias before anything under the real name."""
        program = """
            from schwimmbad.serial import SerialPool
            import schwimmbad_go.serial
            assert SerialPool is schwimmbad_go.serial.SerialPool
        """
        run("-c", code(program), cwd=tmp_path)

    def test_reload(self, tmp_path: Path) -> None:
        program = """
            import importlib, schwimmbad.utils
            module = schwimmbad.utils
            assert importlib.reload(module) is module
            assert module.__spec__.name == "schwimmbad_go.utils"
            assert module.__spec__.loader is module.__loader__
        """
        run("-c", code(program), cwd=tmp_path)

    def test_old_pickles(self, tmp_path: Path) -> None:
        program = r"""
            import pickle, schwimmbad_go
            assert pickle.loads(b"cschwimmbad.serial\nSerialPool\n.") is schwimmbad_go.SerialPool
            assert b"schwimmbad_go" in pickle.dumps(schwimmbad_go.SerialPool)
        """
        run("-c", code(program), cwd=tmp_path)

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        program = """
            for name in ("schwimmbad.nonsense", "schwimmbad.utils.nonsense"):
                try:
                    __import__(name)
                except ModuleNotFoundError as error:
                    assert error.name == name, error.name
                else:
                    raise AssertionError(name)
        """
        run("-c", code(program), cwd=tmp_path)

    def test_wins_over_an_installed_schwimmbad(self, tmp_path: Path) -> None:
        (tmp_path / "schwimmbad").mkdir()
        (tmp_path / "schwimmbad" / "__init__.py").write_text("raise AssertionError('the other one')")
        (tmp_path / "schwimmbad" / "serial.py").write_text("raise AssertionError('the other one')")
        run("-c", code("import schwimmbad.serial"), cwd=tmp_path)

    def test_too_late(self, tmp_path: Path) -> None:
        (tmp_path / "schwimmbad.py").write_text("")
        said = run("-c", "import schwimmbad\n" + INSTALL, cwd=tmp_path, status=1)
        assert "ImportError: another schwimmbad is already imported, from" in said

    def test_twice(self, tmp_path: Path) -> None:
        program = """
            import sys
            _alias.install()
            assert _alias.installed()
            assert sum(type(finder).__name__ == "_AliasFinder" for finder in sys.meta_path) == 1
        """
        run("-c", code(program), cwd=tmp_path)

    def test_not_unasked(self) -> None:
        assert not _alias.installed()

    def test_by_path(self, tmp_path: Path) -> None:
        program = """
            import schwimmbad.serial, schwimmbad_go
            assert schwimmbad is schwimmbad_go and schwimmbad.serial.SerialPool is schwimmbad_go.SerialPool
        """
        entry = Path(_alias.path_entry())
        run("-c", textwrap.dedent(program), cwd=tmp_path, path=[entry])
        run("-c", textwrap.dedent(program), cwd=tmp_path, path=[entry, SOURCE])

    def test_export_once(self) -> None:
        environ: dict[str, str] = {}
        _alias.export(environ)
        assert environ == {"PYTHONPATH": _alias.path_entry()}
        environ["PYTHONPATH"] += os.pathsep + "x"
        _alias.export(environ)
        assert environ["PYTHONPATH"] == os.pathsep.join([_alias.path_entry(), "x"])


class TestRun:
    def test_script_is_main(self, script: Path, tmp_path: Path) -> None:
        script.with_name("neighbour.py").write_text("here = True")
        script.write_text(
            textwrap.dedent("""
                import atexit, pickle, sys
                import schwimmbad
                import neighbour

                def task(x):
                    return x

                class Task:
                    pass

                def at_exit():
                    assert pickle.loads(pickle.dumps(task)) is task
                    print("bye")

                atexit.register(at_exit)
                assert __name__ == "__main__" and task.__module__ == "__main__"
                assert sys.modules["__main__"].task is task and __spec__ is None and __package__ is None
                assert type(pickle.loads(pickle.dumps(Task()))) is Task
                assert schwimmbad.__name__ == "schwimmbad_go"
                print(sys.argv, __file__, sys.path[0])
                if __name__ == "__main__":
                    with schwimmbad.choose_pool(mpi=False, processes=1) as pool:
                        print(list(pool.map(task, [1, 2])))
            """)
        )
        name = str(script.relative_to(tmp_path))
        said = run("-m", "schwimmbad_go", "run", name, "--mpi", "-n", "2", "run", cwd=tmp_path)
        assert said.splitlines() == [
            f"{[name, '--mpi', '-n', '2', 'run']} {script} {script.parent}",
            "[1, 2]",
            "bye",
        ]

    @pytest.mark.parametrize(("end", "status"), [("sys.exit(5)", 5), ("1 / 0", 1), ("sys.exit()", 0)])
    def test_exit_status(self, script: Path, tmp_path: Path, end: str, status: int) -> None:
        script.write_text(f"import sys\n{end}\n")
        said = run("-m", "schwimmbad_go", "run", str(script), cwd=tmp_path, status=status)
        assert ("1 / 0" in said) == (end == "1 / 0")

    def test_no_script(self, tmp_path: Path) -> None:
        said = run("-m", "schwimmbad_go", "run", "missing.py", cwd=tmp_path, status=2)
        assert said == "cannot run missing.py: No such file or directory\n"

    @pytest.mark.slow
    @pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
    def test_children_of_the_script(self, script: Path, tmp_path: Path, method: str) -> None:
        """The script's own processes import it again, and with it schwimmbad."""
        script.write_text(
            textwrap.dedent(f"""
                import multiprocessing, sys
                from schwimmbad.utils import batch_tasks

                def task(x):
                    import schwimmbad, schwimmbad_go
                    assert schwimmbad is schwimmbad_go
                    return batch_tasks(1, n_tasks=x)

                if __name__ == "__main__":
                    with multiprocessing.get_context("{method}").Pool(1) as pool:
                        print(pool.map(task, [1, 2]))
            """)
        )
        assert run("-m", "schwimmbad_go", "run", str(script), cwd=tmp_path) == "[[(0, 1)], [(0, 2)]]\n"


class TestOtherCommands:
    def test_version(self, tmp_path: Path) -> None:
        assert run("-m", "schwimmbad_go", "version", cwd=tmp_path) == f"{schwimmbad_go.__version__}\n"

    def test_commands_of_the_program(self, tmp_path: Path) -> None:
        """What the program does is handed to it, with this Python as the one to use; without it there is an error that says so."""
        from schwimmbad_go.__main__ import PROGRAM_COMMANDS

        installed = tmp_path / "installed"
        shutil.copytree(SOURCE / "schwimmbad_go", installed / "schwimmbad_go", ignore=shutil.ignore_patterns("_lib", "_bin", "__pycache__"))
        said = run("-m", "schwimmbad_go", "map", "m:f", cwd=tmp_path, status=1, path=[installed])
        assert said.startswith("schwimmbad-go map: this installation has no ")
        program = installed / "schwimmbad_go" / "_bin" / "schwimmbad-go"
        program.parent.mkdir()
        program.write_text('#!/bin/sh\necho "$@" "$SCHWIMMBAD_GO_PYTHON"\n')
        program.chmod(0o755)
        for command in (*PROGRAM_COMMANDS, "doctor"):
            said = run("-m", "schwimmbad_go", command, "--json", cwd=tmp_path, path=[installed])
            assert said == f"{command} --json {sys.executable}\n"

    def test_usage(self, tmp_path: Path) -> None:
        assert "usage: python -m schwimmbad_go" in run("-m", "schwimmbad_go", cwd=tmp_path, status=2)
