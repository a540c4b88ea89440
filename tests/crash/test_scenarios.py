"""Whole programs that end badly: Ctrl-C, a killed master, a forgotten close, an uncaught error."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from helpers import leaks, scripts
from pools_under_test import KINDS, PoolKind

PROMPT = 5.0  # seconds for an interpreter to start, work a moment and end; the machine may be busy
WITH_WORKERS = pytest.mark.parametrize("kind", [k for k in KINDS if k.has("workers")], ids=lambda k: k.name)

IN_PARALLEL = pytest.mark.parametrize("kind", [k for k in KINDS if k.has("parallel")], ids=lambda k: k.name)

BUSY = """
import os
import sys
import schwimmbad_go
from helpers import gates

def main():
    pool = {pool}
    list(pool.map(abs, range(10)))
    print("ready", *pool.broadcast(os.getpid))
    try:
        {call}
    except KeyboardInterrupt as error:
        print("interrupted", type(error).__name__)
        {after}

if __name__ == "__main__":
    main()
"""


def busy(kind: PoolKind, call: str, after: str = "pass") -> str:
    return BUSY.format(pool=kind.expression(), call=call, after=after)


# Each blocks in a read for as long as the test likes: longer than any of the limits here.
CALLS = {
    "map": "pool.map(gates.pass_gate, [sys.argv[1]] * 4, chunksize=1)",
    "imap": "list(pool.imap(gates.pass_gate, [sys.argv[1]] * 4))",
    "map_async": "pool.map_async(gates.pass_gate, [sys.argv[1]] * 4, chunksize=1).get()",
    "apply": "pool.apply(gates.pass_gate, (sys.argv[1],))",
}


@IN_PARALLEL
class TestCtrlC:
    @pytest.mark.parametrize("call", CALLS)
    def test_in_the_middle(self, kind: PoolKind, tmp_path: Path, gate, call: str) -> None:  # type: ignore[no-untyped-def]
        """KeyboardInterrupt in the caller at once; not a word from the workers; nobody left."""
        source = busy(kind, CALLS[call], after="pool.terminate(); pool.join(); sys.exit(7)")
        with scripts.start(tmp_path, source, gate.path) as script:
            assert script.read_line().startswith("ready")
            gate.wait_started(1 if call == "apply" else 2)
            began = time.monotonic()
            script.interrupt()
            assert script.read_line() == "interrupted KeyboardInterrupt"
            assert time.monotonic() - began < 1.0
            code, _, err = script.finish()
            assert (code, err) == (7, "")
            assert leaks.poll(lambda: not script.family(), 1.0) <= 1.0

    def test_uncaught(self, kind: PoolKind, tmp_path: Path, gate) -> None:  # type: ignore[no-untyped-def]
        """The one traceback on stderr is the caller's."""
        source = busy(kind, CALLS["map"]).replace("except KeyboardInterrupt", "except ZeroDivisionError")
        with scripts.start(tmp_path, source, gate.path) as script:
            script.read_line()
            gate.wait_started(2)
            script.interrupt()
            code, _, err = script.finish()
            assert code in (130, -signal.SIGINT)
            assert err.count("Traceback (most recent call last)") == 1, err
            assert err.rstrip().endswith("KeyboardInterrupt"), err
            assert leaks.poll(lambda: not script.family(), 1.0) <= 1.0

    def test_twice_in_a_row(self, kind: PoolKind, tmp_path: Path, gate) -> None:  # type: ignore[no-untyped-def]
        """After a caught Ctrl-C a second map is served, or refused with a sentence; it never hangs or lies."""
        after = "\n        ".join([
            "try:", "    print('second', list(pool.map(abs, [-1, -2])))",
            "except ValueError as closed:", "    print('refused', closed)", "pool.terminate(); pool.join()",
        ])
        with scripts.start(tmp_path, busy(kind, CALLS["map"], after), gate.path) as script:
            script.read_line()
            gate.wait_started(2)
            script.interrupt()
            assert script.read_line().startswith("interrupted")
            answer = script.read_line()
            assert answer == "second [1, 2]" or answer.startswith("refused Pool not running")
            assert script.finish()[0::2] == (0, "")

    def test_while_nothing_runs(self, kind: PoolKind, tmp_path: Path, gate) -> None:  # type: ignore[no-untyped-def]
        """In the caller's own code: the workers do not notice, the pool is used after it."""
        call = "gates.pass_gate(sys.argv[1])"
        with scripts.start(tmp_path, busy(kind, call, "print(pool.map(abs, [-3])); pool.close(); pool.join()"), gate.path) as script:
            pids = [int(p) for p in script.read_line().split()[1:]]
            gate.wait_started()
            script.interrupt()
            assert script.read_line().startswith("interrupted")
            assert script.read_line() == "[3]"
            assert script.finish()[0::2] == (0, "")
            assert not any(leaks.alive(pid) for pid in set(pids) - {script.process.pid})


@WITH_WORKERS
class TestMasterDies:
    @pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
    @pytest.mark.parametrize("call", ["busy", "idle"])
    def test_workers_go_within_a_second(self, kind: PoolKind, tmp_path: Path, gate, how: str, call: str) -> None:  # type: ignore[no-untyped-def]
        what = "pool.map(time.sleep, [60, 60, 60, 60])" if call == "busy" else "gates.pass_gate(sys.argv[1])"
        source = "import time\n" + busy(kind, what)
        with scripts.start(tmp_path, source, gate.path) as script:
            pids = [int(p) for p in script.read_line().split()[1:]]
            if call == "idle":
                gate.wait_started()
            else:
                assert leaks.poll(lambda: all(asleep(pid) for pid in pids), 20) < 20
            assert all(leaks.alive(pid) for pid in pids)
            script.process.send_signal(getattr(signal, how))
            script.process.wait(10)
            seconds = leaks.poll(lambda: not any(leaks.alive(pid) for pid in pids), 1.0)
            assert seconds <= 1.0, "a worker outlived its master"
            assert leaks.poll(lambda: not script.family(), 1.0) <= 1.0, script.family()

    def test_in_a_task_that_ignores_everything(self, kind: PoolKind, tmp_path: Path, gate) -> None:  # type: ignore[no-untyped-def]
        """A task that blocks signals and computes without a system call still ends."""
        source = """
            import signal, sys
            import schwimmbad_go
            from helpers import gates

            def deaf(path):
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
                    signal.signal(number, signal.SIG_IGN)
                gates.pass_gate(path)
                while True:
                    pass

            if __name__ == "__main__":
                pool = POOL
                pool.map(deaf, [sys.argv[1]] * 2, chunksize=1)
        """.replace("POOL", kind.expression())
        with scripts.start(tmp_path, source, gate.path) as script:
            gate.wait_started(2)
            gate.open(2)
            script.process.kill()
            script.process.wait(10)
            assert leaks.poll(lambda: not script.family(), 1.0) <= 1.0, "a worker outlived its master"


def asleep(pid: int) -> bool:
    """In time.sleep: the only clock_nanosleep (or select) a worker of these scripts can be in."""
    try:
        return Path("/proc", str(pid), "wchan").read_text().find("nanosleep") >= 0
    except OSError:
        return False


class TestForgottenClose:
    SOURCE = """
        import schwimmbad_go
        from helpers import gates, tasks

        def main():
            global pool
            pool = {pool}
            {body}
            print("end")

        if __name__ == "__main__":
            main()
    """

    @pytest.mark.parametrize("body", [
        "pass", "print(list(pool.map(abs, [-1])))", "results = list(pool.map(tasks.square, range(1000)))",
        "pool.map_async(tasks.square, range(10)).get()", "keep = pool.imap(tasks.square, range(100)); next(keep); globals()['keep'] = keep",
        "pool.me = pool", "globals()['second'] = {again}", "import atexit; atexit.register(lambda: list(pool.map(abs, [-2])))",
        "pool.map_async(tasks.square, range(100))", "import gc; gc.disable(); list(pool.map(tasks.boom, [1], return_exceptions=True))",
    ])
    def test_exits_promptly_and_quietly(self, kind: PoolKind, tmp_path: Path, body: str) -> None:
        source = self.SOURCE.format(pool=kind.expression(), body=body.format(again=kind.expression()))
        out = scripts.succeed(tmp_path, source, timeout=10)
        assert out.splitlines()[-1] == "end"

    @pytest.mark.parametrize("flags", [("-W", "error"), ("-X", "dev", "-W", "error")])
    def test_with_warnings_as_errors(self, kind: PoolKind, tmp_path: Path, flags: tuple[str, ...]) -> None:
        body = "assert list(pool.map(abs, [-1])) == [1]; pool.close(); pool.join()"
        scripts.succeed(tmp_path, self.SOURCE.format(pool=kind.expression(), body=body), flags=flags)

    def test_with_a_task_still_running(self, kind: PoolKind, tmp_path: Path, gate) -> None:  # type: ignore[no-untyped-def]
        """Like multiprocessing: what runs at exit is ended, not waited for."""
        kind.needs("parallel")
        source = self.SOURCE.format(pool=kind.expression(), body="import sys; pool.apply_async(gates.pass_gate, (sys.argv[1],))")
        with scripts.start(tmp_path, source, gate.path) as script:
            assert script.read_line() == "end"
            assert script.finish(10)[0::2] == (0, "")
            assert leaks.poll(lambda: not script.family(), 1.0) <= 1.0

    def test_sys_exit_code_is_kept(self, kind: PoolKind, tmp_path: Path) -> None:
        source = self.SOURCE.format(pool=kind.expression(), body="import sys; list(pool.map(abs, [1])); sys.exit(5)")
        assert scripts.run(tmp_path, source)[0::2] == (5, "")


class TestUncaughtTaskError:
    @pytest.mark.parametrize("body", [
        "raise ValueError('user error')", "sys.exit(0)", "sys.exit()", "sys.exit(3)", "raise KeyboardInterrupt",
    ])
    def test_is_no_success(self, kind: PoolKind, tmp_path: Path, body: str) -> None:
        """Batch systems look at the exit status alone. On Serial a task's sys.exit(0) is the script's own."""
        if "sys.exit" in body:
            kind.needs("workers")
        code, out, err = scripts.run(tmp_path, f"""
            import sys
            import schwimmbad_go

            def task(x):
                {body}

            if __name__ == "__main__":
                with {kind.expression()} as pool:
                    list(pool.map(task, range(4)))
                print("survived")
        """)
        assert code != 0
        assert out == ""
        assert "Traceback" in err or "sys.exit" in err or "SystemExit" in err, err

    @WITH_WORKERS
    def test_worker_that_dies(self, kind: PoolKind, tmp_path: Path) -> None:
        code, out, err = scripts.run(tmp_path, f"""
            import os
            import schwimmbad_go

            if __name__ == "__main__":
                with {kind.expression()} as pool:
                    pool.map(os._exit, [0])
        """)
        assert code == 1
        assert "WorkerLost" in err
        assert "task 0" in err


def test_output_of_tasks_is_not_lost_or_doubled(kind: PoolKind, tmp_path: Path) -> None:
    """Buffered text of the caller is not written again by its forked workers; text of tasks arrives."""
    code, out, err = scripts.run(tmp_path, f"""
        import schwimmbad_go
        from helpers import tasks

        if __name__ == "__main__":
            print("before", end=" ")
            pool = {kind.expression()}
            list(pool.map(tasks.printed, range(4)))
            pool.close()
            pool.join()
            print("after")
    """, env={"PYTHONUNBUFFERED": ""})
    assert code == 0
    assert out.count("before") == 1
    assert out.count("after") == 1
    assert sorted(line for line in out.replace("before ", "").split("\n") if line.startswith("out")) == [f"out {n}" for n in range(4)]
    assert sorted(err.split("\n"))[1:] == [f"err {n}" for n in range(4)]


def test_importing_starts_nothing(tmp_path: Path) -> None:
    out = scripts.succeed(tmp_path, """
        import os, sys, threading
        before = set(sys.modules)
        import schwimmbad_go
        heavy = {"mpi4py", "numpy", "joblib", "cloudpickle", "dill", "multiprocess", "ctypes"} & set(sys.modules) - before
        print(len(os.listdir("/proc/self/task")), threading.active_count(), sorted(heavy))
    """)
    assert out.split(None, 2) == ["1", "1", "[]\n"]


assert os.name == "posix"
