"""Choosing how workers start: names, contexts, defaults, and scripts under spawn and forkserver."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import schwimmbad_go
from helpers import leaks, scripts, tasks
from pools_under_test import FORKSERVER, SPAWN
from schwimmbad_go._engine import Engine
from schwimmbad_go.error import EngineError, WorkerLost

METHODS = ("fork", "forkserver", "spawn")


def how_started(_: Any = None) -> tuple[str, bool]:
    """Name of the worker, and whether it shares the test's imports: only a fork does."""
    return multiprocessing.current_process().name, "pytest" in sys.modules


def check(pool: Any, method: str) -> None:
    with pool:
        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]
        names = {"fork": "ForkPoolWorker-", "forkserver": "ForkServerPoolWorker-", "spawn": "SpawnPoolWorker-"}
        for name, _ in pool.broadcast(how_started):
            assert name.startswith(names[method])
    pool.join()


def test_fork_is_the_default_on_linux() -> None:
    check(schwimmbad_go.MultiPool(2), "fork")


def test_the_standard_library_default_does_not_matter(tmp_path: Path) -> None:
    out = scripts.succeed(tmp_path, """
        import multiprocessing
        import schwimmbad_go

        LATE = None

        def get(_):
            return LATE

        if __name__ == "__main__":
            multiprocessing.set_start_method("spawn")
            LATE = "seen"
            with schwimmbad_go.MultiPool(2) as pool:
                print(pool.map(get, [1]))
    """)
    assert out == "['seen']\n"


@pytest.mark.parametrize("method", METHODS)
def test_by_name(method: str) -> None:
    check(schwimmbad_go.MultiPool(2, start_method=method), method)
    check(schwimmbad_go.MultiPool(2, context=method), method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("package", ["multiprocessing", "multiprocess"])
def test_by_context(package: str, method: str) -> None:
    library = pytest.importorskip(package)
    check(schwimmbad_go.MultiPool(2, context=library.get_context(method)), method)


@pytest.mark.parametrize("options", [{"start_method": "thread"}, {"context": "thread"}, {"start_method": ""}])
def test_unknown_name(options: dict[str, str]) -> None:
    with leaks.nothing_left(), pytest.raises(ValueError, match="start method|fork"):
        schwimmbad_go.MultiPool(2, **options)


@pytest.mark.parametrize("options", [{"start_method": 3}, {"context": 3}, {"context": object()}])
def test_something_else(options: dict[str, Any]) -> None:
    with leaks.nothing_left(), pytest.raises((TypeError, ValueError)):
        schwimmbad_go.MultiPool(2, **options)


def test_contradiction() -> None:
    with leaks.nothing_left(), pytest.raises((TypeError, ValueError)):
        schwimmbad_go.MultiPool(2, context="fork", start_method="spawn")


def test_positions_of_the_constructor() -> None:
    with schwimmbad_go.MultiPool(2, tasks.remember, ("position", 3)) as pool:
        assert set(pool.map(tasks.recall, ["position"] * 8)) == {3}
    with schwimmbad_go.MultiPool() as pool:
        assert 1 <= pool.size <= (os.cpu_count() or 1)
        assert pool.size == len(os.sched_getaffinity(0)) or pool.size < (os.cpu_count() or 1)


def test_affinity_is_respected(tmp_path: Path) -> None:
    out = scripts.succeed(tmp_path, """
        import os
        import schwimmbad_go

        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        with schwimmbad_go.MultiPool() as pool:
            print(pool.size, pool._processes)
    """)
    assert out == "1 1\n"


@pytest.mark.parametrize("kind", [FORKSERVER, SPAWN], ids=lambda k: k.name)
class TestFreshInterpreters:
    """Workers that did not inherit the caller's memory."""

    def test_a_script_with_a_guard(self, kind: Any, tmp_path: Path) -> None:
        out = scripts.succeed(tmp_path, f"""
            import sys
            import schwimmbad_go

            CONSTANT = 5

            class Sample:
                def __init__(self, x): self.x = x

            def f(x):
                return Sample(x + CONSTANT)

            def is_sample(s):
                return isinstance(s, Sample)

            if __name__ == "__main__":
                with {kind.expression()} as pool:
                    made = pool.map(f, range(3))
                    print([type(m) is Sample for m in made], [m.x for m in made], pool.map(is_sample, made))
        """)
        assert out == "[True, True, True] [5, 6, 7] [True, True, True]\n"

    def test_an_unguarded_script_does_not_multiply(self, kind: Any, tmp_path: Path) -> None:
        """It works, or it ends with an error; it starts no pools without end."""
        code, out, err = scripts.run(tmp_path, f"""
            import schwimmbad_go
            from helpers import tasks

            print("started")
            pool = {kind.expression()}
            print(list(pool.map(tasks.square, range(3))))
            pool.close()
            pool.join()
        """, timeout=40)
        assert out.count("started") <= 3, (out, err)
        assert (code == 0 and "[0, 1, 4]" in out) or (code != 0 and err)

    def test_lambdas_closures_and_globals(self, kind: Any, tmp_path: Path) -> None:
        pytest.importorskip("cloudpickle")
        out = scripts.succeed(tmp_path, f"""
            import math
            import schwimmbad_go

            if __name__ == "__main__":
                offset = 10
                def late(x):
                    return math.floor(x) + offset
                with {kind.expression()} as pool:
                    print(pool.map(lambda x: x + offset, range(3)), pool.map(late, [1.5]))
                    offset = 20
                    print(pool.map(lambda x: x + offset, range(3)), pool.map(late, [1.5]))
        """)
        assert out.splitlines() == ["[10, 11, 12] [11]", "[20, 21, 22] [21]"]

    def test_from_stdin(self, kind: Any, tmp_path: Path) -> None:
        """No file to import: a heredoc, a notebook."""
        pytest.importorskip("cloudpickle")
        out = scripts.succeed(tmp_path, f"""
            import schwimmbad_go
            def f(x):
                return x + 1
            if __name__ == "__main__":
                with {kind.expression()} as pool:
                    print(pool.map(f, range(3)))
        """, stdin=True)
        assert out == "[1, 2, 3]\n"

    def test_path_environment_and_directory(self, kind: Any, tmp_path: Path) -> None:
        out = scripts.succeed(tmp_path, f"""
            import os, sys
            import schwimmbad_go

            if __name__ == "__main__":
                os.mkdir("elsewhere")
                with open("elsewhere/only_here.py", "w") as f:
                    f.write("def f(x): return x + 1")
                os.chdir("elsewhere")
                os.environ["FROM_PARENT"] = "yes"
                sys.path.insert(0, os.getcwd())
                import only_here
                with {kind.expression()} as pool:
                    print(pool.map(only_here.f, [1]), pool.apply(os.getcwd) == os.getcwd(), pool.apply(os.getenv, ("FROM_PARENT",)))
        """)
        assert out == "[2] True yes\n"

    def test_without_optional_packages(self, kind: Any, tmp_path: Path) -> None:
        """Functions of modules need nothing but the standard library; a lambda works, or the error says what to install."""
        out = scripts.succeed(tmp_path, f"""
            import sys
            for name in ("cloudpickle", "dill", "multiprocess", "numpy"):
                sys.modules[name] = None
            import schwimmbad_go
            from helpers import tasks

            if __name__ == "__main__":
                with {kind.expression()} as pool:
                    print(pool.map(tasks.square, range(3)))
                    try:
                        print(pool.map(lambda x: x, range(3)))
                    except schwimmbad_go.error.PicklingError as error:
                        assert "cloudpickle" in str(error), error
                        print("refused")
        """)
        assert out.splitlines() in (["[0, 1, 4]", "refused"], ["[0, 1, 4]", "[0, 1, 2]"])


def _end(_: Any) -> None:
    os._exit(1)


def test_forked_workers_are_numbered_through() -> None:
    with schwimmbad_go.MultiPool(3) as pool:
        assert sorted(name for name, _ in pool.broadcast(how_started)) == [f"ForkPoolWorker-{n}" for n in (1, 2, 3)]
        with pytest.raises(WorkerLost):
            pool.map(_end, [0])
        names = {name for name, _ in pool.broadcast(how_started)}
        assert len(names) == 3
        assert "ForkPoolWorker-4" in names
    pool.join()


def test_forked_workers_that_cannot_be_watched_do_not_stay() -> None:
    """There are descriptors for some of them: the pool is refused, and no worker, or its zombie, is left."""
    before = set(map(int, os.listdir("/proc/self/fd")))
    with schwimmbad_go.MultiPool(1) as pool:
        needed = len(set(map(int, os.listdir("/proc/self/fd"))) - before)
    pool.join()
    free = (n for n in itertools.count() if n not in before)
    limit = next(itertools.islice(free, needed + 3, None))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with leaks.nothing_left():
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            with pytest.raises(EngineError, match="pidfd_open"):
                schwimmbad_go.MultiPool(8)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_forked_workers_that_somebody_else_has_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """They had ended before the engine was told of them: they count as the workers that died which they are."""
    attach = Engine.attach

    def late(self: Engine, index: int, pid: int, child: bool) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        attach(self, index, pid, child)

    monkeypatch.setattr(Engine, "attach", late)
    with leaks.nothing_left():
        pool = schwimmbad_go.MultiPool(2, initializer=_end, initargs=(0,))
        with pytest.raises(WorkerLost, match="die before they are ready"):
            pool.map(tasks.square, range(3))
        pool.terminate()
        pool.join()


def test_handler_of_a_signal_raises_in_a_child_just_forked(tmp_path: Path) -> None:
    """The child is still in the middle of the master's code there, and must not go on with it."""
    code, out, err = scripts.run(tmp_path, """
        import os
        import schwimmbad_go
        from schwimmbad_go import _start

        master = os.getpid()
        quiet_fork = _start.quiet_fork

        def interrupted(lib):
            fork = quiet_fork(lib)

            def call():
                pid = fork()
                if pid == 0:
                    raise TimeoutError("in a child")
                return pid

            return call

        _start.quiet_fork = interrupted
        try:
            pool = schwimmbad_go.MultiPool(3)
        finally:
            print("made by", os.getpid() - master, flush=True)
        try:
            pool.map(abs, range(3))
        except schwimmbad_go.error.WorkerLost as error:
            print(error)
        pool.terminate()
        pool.join()
    """)
    assert code == 0
    assert out.count("made by") == 1
    assert "made by 0" in out
    assert "die before they are ready" in out
    assert "TimeoutError: in a child" in err
