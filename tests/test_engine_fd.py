"""The engine in another process: Python talks to it over a socket (SCHWIMMBAD_GO_FD), and has no library.

The pools' own suite runs there once more, in part: it must not notice. Then what is different: the death of either side, whose
children the workers are, and who may have the socket.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import schwimmbad_go
from helpers import leaks, scripts
from helpers.gates import Gate

ROOT = Path(__file__).resolve().parent.parent
METHODS = pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A static program that hosts the engine for the command behind it."""
    go = shutil.which(os.environ.get("GO", "go"))
    if go is None:
        pytest.skip("there is no Go to build the engine's program with")
    path = tmp_path_factory.mktemp("host") / "host"
    subprocess.run([go, "build", "-buildvcs=false", "-o", path, "./pyshim/fdengine/testmain"], cwd=ROOT, check=True,
                   env={**os.environ, "CGO_ENABLED": "0"}, timeout=120)  # fmt: skip
    return str(path)


@pytest.fixture
def hosted(host: str) -> dict[str, str]:
    """Variables for a script that gets its engine over the socket, and from nowhere else."""
    return {scripts.HOST: host, "SCHWIMMBAD_GO_LIBRARY": "/nonexistent/libschwimmbad.so"}


def master(script: scripts.Script) -> int:
    """The script's own process: the only child of its host."""
    (pid,) = [pid for pid, (parent, _) in leaks.parents().items() if parent == script.process.pid]
    return pid


@pytest.mark.parametrize(
    "selection",
    [
        ("tests/conformance", "-k", "multi-fork-"),
        ("tests/conformance/test_map.py", "-k", "multi-forkserver and order"),
        ("tests/conformance/test_map.py", "-k", "multi-spawn and order"),
        ("tests/crash/test_moments.py", "-k", "multi-fork- and inside and (SIGKILL or _exit)"),
        ("tests/test_threads.py", "tests/crash/test_end.py", "-k", "multi-fork- or (TestFromAnotherThread and during and multi-fork])"),
    ],
    ids=["fork", "forkserver", "spawn", "deaths", "threads"],
)
def test_the_suite(hosted: dict[str, str], selection: tuple[str, ...]) -> None:
    command = [hosted[scripts.HOST], sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *selection]
    package = os.pathsep.join([str(Path(schwimmbad_go.__file__).parents[1]), str(ROOT / "tests")])
    environment = {**os.environ, **hosted, "PYTHONPATH": package}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and " failed" not in done.stdout


@METHODS
def test_nothing_is_left_in_the_script(hosted: dict[str, str], tmp_path: Path, method: str) -> None:
    """No process, no zombie, no descriptor, no mapping, after pools that lost and replaced workers."""
    scripts.succeed(tmp_path, f"""
        import os, signal
        import schwimmbad_go
        from helpers import leaks

        def use():
            with schwimmbad_go.MultiPool(2, start_method={method!r}, maxtasksperchild=20) as pool:
                assert pool.map(abs, range(-30, 0), chunksize=1) == list(range(30, 0, -1))
                for worker in pool._pool:
                    if pid := worker.pid:  # read once: a worker that has done its 20 tasks leaves at any time
                        os.kill(pid, signal.SIGKILL)
                assert pool.map_async(abs, range(-30, 0), chunksize=1).get() == list(range(30, 0, -1))

        if __name__ == "__main__":
            use()
            with leaks.nothing_left():
                use()
    """, flags=("-X", "dev"), env=hosted)


@METHODS
def test_exit_code_of_a_worker(hosted: dict[str, str], tmp_path: Path, method: str) -> None:
    """Its parent is not the engine, which sees it die all the same; how, the parent knows."""
    out = scripts.succeed(tmp_path, f"""
        import os, signal
        import schwimmbad_go

        def die(how):
            os._exit(3) if how == "exit" else os.kill(os.getpid(), signal.SIGKILL)

        if __name__ == "__main__":
            with schwimmbad_go.MultiPool(2, start_method={method!r}) as pool:
                for how in ("exit", "kill"):
                    try:
                        pool.map(die, [how])
                    except schwimmbad_go.error.WorkerLost as lost:
                        print(lost.exitcode)
                assert pool.map(abs, [-1]) == [1]
    """, env=hosted)
    assert out.split() == ["3", "-9"]


WAITING = """
import os, sys
import schwimmbad_go
from helpers import gates

def main():
    pool = schwimmbad_go.MultiPool(2, start_method={method!r})
    print("ready", *[p.pid for p in pool._pool])
    try:
        pool.map(gates.pass_gate, [sys.argv[1]] * 4, chunksize=1)
    except {error} as error:
        print(type(error).__name__, error)
    for _ in range(2):
        try:
            print(pool.map(abs, [-1]))
        except schwimmbad_go.error.EngineError as error:
            print(type(error).__name__)
    pool.terminate()
    pool.join()
    print("ended")

if __name__ == "__main__":
    main()
"""


@METHODS
def test_death_of_the_engine(hosted: dict[str, str], tmp_path: Path, gate: Gate, method: str) -> None:
    """The map raises, the workers are gone, and the pool can still be ended."""
    source = WAITING.format(method=method, error="schwimmbad_go.error.EngineError")
    with scripts.start(tmp_path, source, gate.path, env=hosted) as script:
        pids = [int(pid) for pid in script.read_line().split()[1:]]
        gate.wait_started(2)
        python = master(script)
        script.process.kill()
        said = script.read_line()
        assert said.startswith("EngineError the engine's process") and str(script.process.pid) in said, said
        assert [script.read_line() for _ in range(3)] == ["EngineError", "EngineError", "ended"]
        assert leaks.poll(lambda: not any(leaks.alive(pid) for pid in [python, *pids]), 2.0) <= 2.0
        assert script.finish()[2] == ""
        assert leaks.poll(lambda: not script.family(), 1.0) <= 1.0, script.family()


@METHODS
def test_death_of_python(hosted: dict[str, str], tmp_path: Path, gate: Gate, method: str) -> None:
    """The engine ends with it, and says how it ended."""
    with scripts.start(tmp_path, WAITING.format(method=method, error="ZeroDivisionError"), gate.path, env=hosted) as script:
        pids = [int(pid) for pid in script.read_line().split()[1:]]
        gate.wait_started(2)
        os.kill(master(script), signal.SIGKILL)
        assert script.finish()[0] == -signal.SIGKILL
        assert leaks.poll(lambda: not any(leaks.alive(pid) for pid in pids), 1.0) <= 1.0
        assert leaks.poll(lambda: not script.family(), 1.0) <= 1.0, script.family()


def test_ctrl_c(hosted: dict[str, str], tmp_path: Path, gate: Gate) -> None:
    """Both processes get it, as from a terminal; it is the script's, and the pool goes on."""
    with scripts.start(tmp_path, WAITING.format(method="fork", error="KeyboardInterrupt"), gate.path, env=hosted) as script:
        script.read_line()
        gate.wait_started(2)
        script.interrupt()
        assert script.read_line().startswith("KeyboardInterrupt")
        assert [script.read_line() for _ in range(3)] == ["[1]", "[1]", "ended"]
        assert script.finish()[0::2] == (0, "")


def test_ctrl_c_while_the_engine_is_stopped(hosted: dict[str, str], tmp_path: Path, gate: Gate) -> None:
    """It does not end the call: after a while nobody waits for it any more, and the pool can be ended."""
    source = "from schwimmbad_go import _requests\n_requests.PATIENCE = 0.3\n" + WAITING.format(method="fork", error="KeyboardInterrupt")
    with scripts.start(tmp_path, source, gate.path, env=hosted) as script:
        pids = [int(pid) for pid in script.read_line().split()[1:]]
        gate.wait_started(2)
        script.process.send_signal(signal.SIGSTOP)
        os.kill(master(script), signal.SIGINT)
        assert script.read_line().startswith("KeyboardInterrupt")
        assert [script.read_line() for _ in range(3)] == ["EngineError", "EngineError", "ended"]
        assert not any(leaks.alive(pid) for pid in pids)
        script.process.send_signal(signal.SIGCONT)
        assert script.finish()[0::2] == (0, "")


@pytest.mark.parametrize("over", ["socket", "ctypes"])
def test_cut_off_at_any_moment(hosted: dict[str, str], tmp_path: Path, over: str) -> None:
    """A signal handler that raises, wherever a map is: the next one gives its own results, and no job is left."""
    scripts.succeed(tmp_path, """
        import random, signal
        import schwimmbad_go

        class Alarm(Exception):
            pass

        armed = False

        def ring(*_):
            if armed:
                if rng.random() < 0.5:  # once more, in the middle of what the first one set off
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 2e-4))
                raise Alarm

        def square(n):
            return n * n

        def cut_off(pool, n, seconds):
            global armed
            got = None
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, seconds)
                got = pool.map(square, range(n))
                armed = False
            except Alarm:
                pass
            armed = False
            assert got is None or got == [i * i for i in range(n)]
            return got is None

        if __name__ == "__main__":
            signal.signal(signal.SIGALRM, ring)
            rng = random.Random(7)
            with schwimmbad_go.MultiPool(2) as pool:
                pool.map(square, [1])
                cut = 0
                for k in range(600):
                    cut += cut_off(pool, rng.choice([1, 16, 300]), rng.uniform(1e-6, 6e-4))
                    assert pool.map(square, [k]) == [k * k]
                assert cut > 10, cut
                assert pool._runner.engine.stats()["jobs"] == 0
                pool.close()
                pool.join()
    """, env=hosted if over == "socket" else None)


class TestWhoHasTheSocket:
    def test_no_child(self, hosted: dict[str, str], tmp_path: Path) -> None:
        """Neither variable nor descriptor is passed on, from the import on."""
        out = scripts.succeed(tmp_path, """
            import os, subprocess, sys
            import schwimmbad_go

            look = "import os; print(os.environ.get('SCHWIMMBAD_GO_FD'), os.path.lexists('/proc/self/fd/3'))"
            assert os.path.lexists("/proc/self/fd/3")
            subprocess.run([sys.executable, "-c", look], close_fds=False)
            print(schwimmbad_go.MultiPool(1).map(abs, [-2]))
        """, env=hosted)
        assert out.splitlines() == ["None False", "[2]"]

    def test_a_child_that_was_started_before(self, hosted: dict[str, str], tmp_path: Path) -> None:
        """It has the variable alone: a sentence, where it needs an engine."""
        out = scripts.succeed(tmp_path, """
            import subprocess, sys

            child = '''if True:
                import schwimmbad_go
                print(list(schwimmbad_go.SerialPool().map(abs, [-1])))
                try:
                    schwimmbad_go.MultiPool(1)
                except schwimmbad_go.error.EngineError as error:
                    print(error)
            '''
            subprocess.run([sys.executable, "-c", child], check=True)
        """, env=hosted)
        assert out.startswith("[1]\n") and "SCHWIMMBAD_GO_FD=3 was for the process that started this one" in out

    def test_a_forked_child(self, hosted: dict[str, str], tmp_path: Path) -> None:
        """It has no engine, before and after the first pool, and the parent's is not disturbed."""
        out = scripts.succeed(tmp_path, """
            import os
            import schwimmbad_go

            def fork():
                pid = os.fork()
                if pid == 0:
                    try:
                        schwimmbad_go.MultiPool(1)
                    except schwimmbad_go.error.EngineError as error:
                        print("forked" in str(error), flush=True)
                    os._exit(0)
                os.waitpid(pid, 0)

            fork()
            with schwimmbad_go.MultiPool(1) as pool:
                fork()
                print(pool.map(abs, [-3]))
        """, env=hosted)
        assert out.splitlines() == ["True", "True", "[3]"]

    def test_another_socket(self, tmp_path: Path) -> None:
        out = scripts.succeed(tmp_path, """
            import os, socket
            other = socket.socket()
            os.environ["SCHWIMMBAD_GO_FD"] = str(other.fileno())
            import schwimmbad_go
            try:
                schwimmbad_go.MultiPool(1)
            except schwimmbad_go.error.EngineError as error:
                print(error)
        """)
        assert "is not the engine's socket" in out


def test_limits_and_sizes_of_this_process_count(hosted: dict[str, str], tmp_path: Path) -> None:
    """The engine's process has limits and variables of its own."""
    out = scripts.succeed(tmp_path, """
        import os, resource
        import schwimmbad_go

        def length(pool):
            return len(pool._runner.engine.arena)

        with schwimmbad_go.MultiPool(1) as pool:
            assert length(pool) >= 1 << 36
        os.environ["SCHWIMMBAD_GO_ARENA"] = str(1 << 28)
        with schwimmbad_go.MultiPool(1) as pool:
            print(length(pool) == 1 << 28, pool.map(abs, [-1]))
        for wrong in ("much", "4096"):
            os.environ["SCHWIMMBAD_GO_ARENA"] = wrong
            try:
                schwimmbad_go.MultiPool(1)
            except (schwimmbad_go.error.EngineError, MemoryError) as error:
                print(type(error).__name__, "arena" in str(error).lower())
        del os.environ["SCHWIMMBAD_GO_ARENA"]
        resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33))
        with schwimmbad_go.MultiPool(1) as pool:
            print(length(pool) <= 1 << 31, pool.map(abs, [-1]))
    """, env=hosted)
    assert out.splitlines() == ["True [1]", "EngineError True", "MemoryError True", "True [1]"]


def test_another_version(hosted: dict[str, str], tmp_path: Path) -> None:
    """Two versions that do not fit say so, each time."""
    out = scripts.succeed(tmp_path, """
        import schwimmbad_go
        from schwimmbad_go import _layout

        right, _layout.ABI = _layout.ABI, 99
        for _ in range(2):
            try:
                schwimmbad_go.MultiPool(1)
            except schwimmbad_go.error.EngineError as error:
                print("protocol 99: two versions are mixed" in str(error))
        _layout.ABI = right
        print(schwimmbad_go.MultiPool(1).map(abs, [-1]))
    """, env=hosted)
    assert out.splitlines() == ["True", "True", "[1]"]


def test_mpi_needs_the_library(hosted: dict[str, str], tmp_path: Path) -> None:
    out = scripts.succeed(tmp_path, """
        from schwimmbad_go import _engine
        try:
            _engine.mpi_library("openmpi")
        except _engine._error.EngineError as error:
            print(error)
        lib = _engine.library()
        print(lib.swg_mpi_start(), lib.swg_last_error().decode())
    """, env=hosted)
    assert "over a socket" in out.splitlines()[0]
    assert out.splitlines()[1].startswith("-9 swg_mpi_start")
