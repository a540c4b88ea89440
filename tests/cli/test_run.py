"""`schwimmbad-go run`: an unchanged script sees what `python script.py` shows it, but for what schwimmbad is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import schwimmbad_go
from helpers import mpirun
from helpers.program import Program, Result

PACKAGE = Path(schwimmbad_go.__file__).parents[1]
# Where the package is installed for the Python that is named, the library in it is the engine.
INSTALLED = {"PYTHONPATH": str(PACKAGE)}


def write(folder: Path, text: str, name: str = "script.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


@pytest.fixture(params=["library", "program"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(program: Program, script: Path, *args: str, engine: str = "program") -> Result:
    variables = INSTALLED if engine == "library" else {}
    return program("run", "--python", sys.executable, "--engine", engine, script, *args, cwd=script.parent, variables=variables)


class TestTheScript:
    def test_sees_what_python_shows(self, program: Program, tmp_path: Path, engine: str) -> None:
        """Everything a script can ask for that might differ, side by side."""
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "json.py").write_text("")  # in the working directory: not on the path of a script elsewhere
        script = write(
            tmp_path / "elsewhere",
            """
            import os, signal, sys, threading
            print(sys.argv, __name__, __file__, __spec__, __package__, __builtins__ is not None)
            print(sys.path[0], os.getcwd() in sys.path, "PYTHONHOME" in os.environ)
            print(os.getcwd(), sys.stdin.read(), sys.flags.utf8_mode, threading.active_count())
            print([signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)])
            print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), os.getpgid(0) == os.getpid())
            import json; print(json.__file__)
            print("to stderr", file=sys.stderr)
            """,
        )
        arguments = ["--python", "x", "-n", "4", "", "a b"]
        plain = subprocess.run(
            [sys.executable, script, *arguments], cwd=tmp_path, env=program.environment("x"), text=True, input="in", capture_output=True,
            start_new_session=True,
        )  # fmt: skip
        assert plain.returncode == 0, plain.stderr
        variables = INSTALLED if engine == "library" else {}
        done = program(
            "run", "--python", sys.executable, "--engine", engine, script, *arguments, cwd=tmp_path, input="in", variables=variables
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, plain.stdout, plain.stderr)

    def test_imports(self, program: Program, tmp_path: Path, engine: str) -> None:
        script = write(
            tmp_path,
            """
            import schwimmbad
            from schwimmbad import MultiPool, SerialPool, choose_pool
            from schwimmbad.mpi import MPIPool
            import schwimmbad.utils
            import schwimmbad_go, sys
            assert schwimmbad is schwimmbad_go and schwimmbad.mpi.MPIPool is MPIPool
            with choose_pool(processes=1) as pool:
                print(list(pool.map(abs, [-1, 2])), schwimmbad.__file__)
            """,
        )
        out = run(program, script, engine=engine).ok()
        assert out.startswith("[1, 2] ")
        assert (str(PACKAGE) in out) == (engine == "library") and (str(program.cache) in out) == (engine == "program")

    def test_pools(self, program: Program, tmp_path: Path, engine: str) -> None:
        script = write(
            tmp_path,
            """
            import gc, os
            from schwimmbad import MultiPool

            def square(x):
                gc.collect()  # what only the master uses goes; the arena must not
                return x * x, os.getpid()

            if __name__ == "__main__":
                with MultiPool(2) as pool:
                    found = pool.map(square, range(100))
                    assert [a for a, _ in found] == [x * x for x in range(100)]
                    assert os.getpid() not in {pid for _, pid in found}
                    try:
                        pool.map(int, ["1", "x"])
                    except ValueError as error:
                        print(error)
            """,
        )
        assert run(program, script, engine=engine).ok() == "invalid literal for int() with base 10: 'x'\n"

    def test_start_methods(self, program: Program, tmp_path: Path) -> None:
        """Interpreters that the script starts find the alias, too."""
        script = write(
            tmp_path,
            """
            import multiprocessing
            from schwimmbad.utils import batch_tasks

            def task(x):
                import schwimmbad, schwimmbad_go
                assert schwimmbad is schwimmbad_go
                return batch_tasks(1, n_tasks=x)

            if __name__ == "__main__":
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    print(pool.map(task, [1, 2]))
            """,
        )
        assert run(program, script).ok() == "[[(0, 1)], [(0, 2)]]\n"

    def test_has_no_unknown_child(self, program: Program, tmp_path: Path, engine: str) -> None:
        script = write(
            tmp_path,
            """
            import os
            try:
                os.wait()
            except ChildProcessError:
                print("none")
            """,
        )
        assert run(program, script, engine=engine).ok() == "none\n"

    def test_a_missing_one(self, program: Program, tmp_path: Path) -> None:
        done = program("run", "--python", sys.executable, "nowhere.py", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", "cannot run nowhere.py: No such file or directory\n")


class TestTheEnd:
    @pytest.mark.parametrize("ending,code", [("sys.exit(7)", 7), ("pass", 0), ("1 / 0", 1), ("os._exit(9)", 9), ("sys.exit('why')", 1)])
    def test_exit_code(self, program: Program, tmp_path: Path, engine: str, ending: str, code: int) -> None:
        done = run(program, write(tmp_path, f"import os, sys\n{ending}\n"), engine=engine)
        assert done.returncode == code
        if code == 1:
            assert "ZeroDivisionError: division by zero" in done.stderr or done.stderr == "why\n"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
    def test_signals_reach_the_script(self, program: Program, tmp_path: Path, engine: str, number: signal.Signals) -> None:
        """It is the process that was started: a signal to that process is the script's, and how it ends is how that process ends."""
        script = write(tmp_path, "import signal\nprint('ready', flush=True)\nsignal.pause()\n")
        variables = INSTALLED if engine == "library" else {}
        with program.start("run", "--python", sys.executable, "--engine", engine, script, cwd=tmp_path, variables=variables) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            process.send_signal(number)
            assert process.wait(30) == -number

    def test_ctrl_c(self, program: Program, tmp_path: Path, engine: str) -> None:
        """SIGINT to the whole group, as from a terminal, in the middle of a map: one KeyboardInterrupt, and nothing left."""
        script = write(
            tmp_path,
            """
            import time
            from schwimmbad import MultiPool

            def task(x):
                print("running", flush=True)
                time.sleep(1000)

            if __name__ == "__main__":
                with MultiPool(2) as pool:
                    try:
                        pool.map(task, range(2))
                    except KeyboardInterrupt:
                        print("interrupted", flush=True)
                    print(pool.map(abs, [-1]))
            """,
        )
        variables = INSTALLED if engine == "library" else {}
        with program.start("run", "--python", sys.executable, "--engine", engine, script, cwd=tmp_path, variables=variables) as process:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == ["running\n"] * 2
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=30)
            assert (process.returncode, out, err) == (0, "interrupted\n[1]\n", "")


class TestWhichEngine:
    def test_the_library_where_it_is_installed(self, program: Program, tmp_path: Path) -> None:
        script = write(tmp_path, "from schwimmbad_go import _inherited; print(_inherited.fd is not None)\n")
        for python, variables, said in (
            (sys.executable, INSTALLED, "False\n"),
            (sys.executable, {**INSTALLED, "SCHWIMMBAD_GO_LIBRARY": "/nowhere"}, "True\n"),
            ("embedded", {}, "True\n"),
            ("embedded", INSTALLED, "False\n"),
        ):
            assert program("run", "--python", python, script, cwd=tmp_path, variables=variables).ok() == said

    def test_another_version_is_not_used(self, program: Program, tmp_path: Path) -> None:
        package = tmp_path / "other" / "schwimmbad_go"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("__version__ = '9.9'\n")
        (package / "_engine.py").write_text("def library(): pass\ndef library_path(): return 'x'\n")
        script = write(tmp_path, "import schwimmbad; print(schwimmbad.__version__)\n")
        variables = {"PYTHONPATH": str(package.parent)}
        assert (
            program("run", "--python", sys.executable, script, cwd=tmp_path, variables=variables).ok() == f"{schwimmbad_go.__version__}\n"
        )
        done = program("run", "--python", sys.executable, "--engine", "library", script, cwd=tmp_path, variables=variables)
        assert done.returncode == 1 and "has schwimmbad_go 9.9, this program is" in done.stderr

    def test_library_wanted_but_missing(self, program: Program, tmp_path: Path) -> None:
        done = program("run", "--python", "embedded", "--engine", "library", "x.py", cwd=tmp_path)
        assert done.returncode == 1 and "has no schwimmbad_go: ModuleNotFoundError" in done.stderr


@pytest.mark.slow
class TestMPI:
    def test_under_a_launcher(self, program: Program, tmp_path: Path, family: str) -> None:
        """`mpirun -n 3 schwimmbad-go run script.py`: the ranks are those of the launcher, the library is the engine."""
        script = write(
            tmp_path,
            """
            from schwimmbad import MPIPool

            def square(x):
                return x * x

            if __name__ == "__main__":
                with MPIPool() as pool:
                    print(pool.size, pool.map(square, range(5)))
            """,
        )
        launcher = mpirun.launcher(family)
        assert launcher is not None
        done = program(
            "run", "--python", sys.executable, script, cwd=tmp_path, before=(launcher, "-n", "3"),
            variables={**INSTALLED, **mpirun.environment(family)},
        )  # fmt: skip
        assert done.ok() == "2 [0, 1, 4, 9, 16]\n"


class TestWithoutAnyPython:
    """A machine whose PATH has no python: the embedded one runs the script."""

    @pytest.fixture
    def bare(self, tmp_path: Path) -> dict[str, str]:
        folder = tmp_path / "bin"
        folder.mkdir()
        return {"PATH": str(folder)}

    def test_embedded(self, program: Program, tmp_path: Path, bare: dict[str, str]) -> None:
        script = write(
            tmp_path,
            """
            import json, os, sys
            from schwimmbad import MultiPool

            def task(x):
                return x + 1

            if __name__ == "__main__":
                with MultiPool(2) as pool:
                    print(json.dumps([sys.version_info[:2], pool.map(task, range(5)), os.environ.get("PYTHONHOME"), sys.executable]))
            """,
        )
        version, results, home, executable = json.loads(program("run", script, cwd=tmp_path, variables=bare).ok())
        assert version == [3, 14] and results == [1, 2, 3, 4, 5] and home is None
        assert executable.startswith(str(program.cache))

    @pytest.mark.slow
    def test_the_examples(self, program: Program, tmp_path: Path, bare: dict[str, str]) -> None:
        examples = Path(__file__).resolve().parents[2] / "examples"
        done = program("run", examples / "canonical.py", "--ncores", "2", cwd=tmp_path, variables=bare)
        assert done.returncode == 0 and done.stdout, done.stderr

    def test_python(self, program: Program, tmp_path: Path, bare: dict[str, str]) -> None:
        done = program(
            "python", "-c", "import sys; print(sys.argv[1:], sys.version_info[:2]); sys.exit(5)", "--help", cwd=tmp_path, variables=bare
        )
        assert (done.returncode, done.stdout, done.stderr) == (5, "['--help'] (3, 14)\n", "")

    def test_nothing_at_all(self, program: Program, tmp_path: Path, bare: dict[str, str]) -> None:
        """Where even the cache cannot be: the error names the place and the way out."""
        done = program("run", "x.py", cwd=tmp_path, variables={**bare, "SCHWIMMBAD_GO_CACHE": "/proc/nowhere"})
        assert done.returncode == 1
        assert "the embedded Python: no place to keep" in done.stderr and "SCHWIMMBAD_GO_CACHE" in done.stderr
