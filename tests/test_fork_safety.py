"""The user's own forks while a pool is open, and pools inside workers: an answer, never a hang, no harm to the parent."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import schwimmbad_go
from helpers import scripts, tasks
from pools_under_test import KINDS, PoolKind

pytestmark = pytest.mark.parametrize("kind", [k for k in KINDS if k.has("workers")], ids=lambda k: k.name)

PARENT = """
import os, sys, gc
import schwimmbad_go
from helpers import tasks

def child(pool):
{child}

def main():
    pool = {pool}
    assert list(pool.map(tasks.square, range(10))) == [n * n for n in range(10)]
    results = pool.imap(tasks.square, range(100))
    first = next(results)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            child(pool)
        finally:
            {leave}
    _, status = os.waitpid(pid, 0)
    print("child", os.waitstatus_to_exitcode(status))
    assert [first, *results] == [n * n for n in range(100)]
    for _ in range(3):
        assert list(pool.map(tasks.square, range(50))) == [n * n for n in range(50)]
    assert len(set(pool.broadcast(os.getpid))) == 2
    pool.close()
    pool.join()
    print("parent ok")

if __name__ == "__main__":
    main()
"""

USES = [
    "pool.map(abs, [1])", "pool.starmap(pow, [(1, 2)])", "list(pool.imap(abs, [1]))", "list(pool.imap_unordered(abs, [1]))",
    "pool.apply(abs, (1,))", "pool.map_async(abs, [1]).get(5)", "pool.apply_async(abs, (1,)).get(5)", "pool.broadcast(os.getpid)",
    "pool.map(abs, [1], callback=print)", "pool.batched_map(len, [1])",
]


def run(kind: PoolKind, tmp_path: Path, child: list[str], leave: str = "os._exit(0)") -> str:
    body = "\n".join("    " + line for line in child)
    # Python 3.12 warns about os.fork() in a process with threads: that is the user's own fork, and his own warning.
    source = PARENT.format(pool=kind.expression(), child=body, leave=leave)
    return scripts.succeed(tmp_path, source, timeout=20, flags=("-W", "ignore::DeprecationWarning"))


@pytest.mark.parametrize("use", USES)
def test_using_the_pool_in_a_child_is_a_clear_error(kind: PoolKind, tmp_path: Path, use: str) -> None:
    out = run(kind, tmp_path, [
        "try:", f"    {use}", "except schwimmbad_go.error.PoolError as error:",
        "    assert isinstance(error, RuntimeError), error",
        "    print('refused:', error, flush=True)",
    ])
    lines = out.splitlines()
    if not kind.has("ends with a fork"):
        assert "refused" not in out
        assert lines[-2:] == ["child 0", "parent ok"]
        return
    assert lines[0].startswith("refused: ")
    assert "fork" in lines[0]
    assert lines[1:] == ["child 0", "parent ok"]


@pytest.mark.parametrize("end", [
    "pool.close()", "pool.terminate()", "pool.terminate(); pool.join()", "pool.close(); pool.join()", "del pool; gc.collect()",
    "pool.__exit__(None, None, None)", "print(pool, pool.size, pool.is_master()); pool.statistics()",
])
@pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit(0)"])
def test_ending_the_pool_in_a_child_is_harmless(kind: PoolKind, tmp_path: Path, end: str, leave: str) -> None:
    """With sys.exit the child runs every finaliser and exit hook that it inherited."""
    out = run(kind, tmp_path, [end], leave)
    assert out.splitlines()[-2:] == ["child 0", "parent ok"]


def test_child_process_of_multiprocessing(kind: PoolKind, tmp_path: Path) -> None:
    out = scripts.succeed(tmp_path, f"""
        import multiprocessing, os
        import schwimmbad_go
        from helpers import tasks

        def child():
            print("child here", flush=True)

        if __name__ == "__main__":
            pool = {kind.expression()}
            list(pool.map(tasks.square, range(10)))
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join()
            print(process.exitcode, list(pool.map(tasks.square, range(3))))
            pool.close()
            pool.join()
    """, flags=("-W", "ignore::DeprecationWarning"))
    assert out.splitlines() == ["child here", "0 [0, 1, 4]"]


def test_a_child_may_open_a_pool_of_its_own_or_is_told_why_not(kind: PoolKind, tmp_path: Path) -> None:
    out = run(kind, tmp_path, [
        "try:", f"    with {kind.expression()} as own:", "        print('own', list(own.map(tasks.square, [3])), flush=True)",
        "except schwimmbad_go.error.PoolError as error:", "    print('refused:', error, flush=True)",
    ])
    lines = out.splitlines()
    assert lines[0] == "own [9]" or lines[0].startswith("refused: ")
    assert lines[1:] == ["child 0", "parent ok"]


def test_a_fork_before_the_first_pool_leaves_the_child_free(kind: PoolKind, tmp_path: Path) -> None:
    """No engine was loaded at the fork: the child is a master like any other (MPI launchers, web servers, pytest-forked)."""
    out = scripts.succeed(tmp_path, f"""
        import os
        import schwimmbad_go
        from helpers import tasks

        if __name__ == "__main__":
            pid = os.fork()
            if pid == 0:
                with {kind.expression()} as pool:
                    print(list(pool.map(tasks.square, range(3))), flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
            with {kind.expression()} as pool:
                print(list(pool.map(tasks.square, range(4))), flush=True)
    """)
    assert out.splitlines() == ["[0, 1, 4]", "[0, 1, 4, 9]"]


def test_subprocess_and_system_in_tasks(kind: PoolKind, tmp_path: Path) -> None:
    out = scripts.succeed(tmp_path, f"""
        import os, subprocess, sys
        import schwimmbad_go

        if __name__ == "__main__":
            with {kind.expression()} as pool:
                print(list(pool.map(os.system, ["exit 0"] * 3)))
                print(list(pool.map(subprocess.check_output, [["echo", "hi"]] * 3)))
    """)
    assert out.splitlines() == ["[0, 0, 0]", str([b"hi\n"] * 3)]


class TestNestedPools:
    SOURCE = """
        import os
        import schwimmbad_go
        from helpers import tasks

        def task(n):
            try:
                with {inner} as pool:
                    return list(pool.map(tasks.square, range(n)))
            except (schwimmbad_go.error.PoolError, AssertionError) as error:
                return "refused: " + str(error)

        if __name__ == "__main__":
            with {outer} as pool:
                for result in pool.map(task, range(4)):
                    print(result)
    """

    @pytest.mark.parametrize("inner", [k for k in KINDS if k.cls != "JoblibPool"], ids=lambda k: k.name)
    def test_pool_in_a_task(self, kind: PoolKind, inner: PoolKind, tmp_path: Path) -> None:
        out = scripts.succeed(tmp_path, self.SOURCE.format(inner=inner.expression(), outer=kind.expression()), timeout=30)
        for n, line in enumerate(out.splitlines()):
            assert line == str([i * i for i in range(n)]) or (line.startswith("refused: ") and inner.has("workers"))
        assert len(out.splitlines()) == 4

    def test_using_the_masters_pool_in_a_task(self, kind: PoolKind, tmp_path: Path) -> None:
        """A global pool, seen by a forked worker."""
        kind.needs("inherits")
        out = scripts.succeed(tmp_path, f"""
            import schwimmbad_go

            def task(n):
                try:
                    return list(pool.map(abs, [n]))
                except schwimmbad_go.error.PoolError as error:
                    return "refused: " + str(error)

            pool = None
            if __name__ == "__main__":
                pool = {kind.expression()}
                list(pool.map(abs, [1]))
                with {kind.expression()} as second:
                    print(second.map(task, [1, 2]))
                pool.close()
        """)
        if kind.has("ends with a fork"):
            assert "refused" in out
        else:
            assert out == "[[1], [2]]\n"


def test_ending_a_forkserver_pool_while_other_processes_inherited_its_socket(clean: None) -> None:
    """The fork server must end although a forked worker of another pool, and a child of the user's, have been copied from a
    process that had the server's socket open."""
    server = schwimmbad_go.MultiPool(2, start_method="forkserver")
    other = schwimmbad_go.MultiPool(1)
    assert other.map(tasks.square, [2]) == [4]
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    try:
        server.terminate()
        server.join()
        assert other.map(tasks.square, [3]) == [9]
    finally:
        other.terminate()
        os.close(write)
        os.waitpid(child, 0)


def test_descriptors_of_a_closed_pool_are_not_closed_again_in_a_child(clean: None) -> None:
    """Their numbers may belong to somebody else by then; without a garbage collection the closed pool is still known."""
    gc.disable()
    try:
        for _ in range(3):
            pool = schwimmbad_go.MultiPool(2)
            pool.terminate()
            pool.join()
        keep = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
        child = os.fork()
        if child == 0:
            for fd in keep:
                os.fstat(fd)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        for fd in keep:
            os.close(fd)
    finally:
        gc.enable()


def test_workers_forked_while_other_threads_want_the_interpreter(kind: PoolKind, tmp_path: Path) -> None:
    """A fork in the moment in which the forking thread is asked to let another one run: from Python 3.12 on a worker hung."""
    source = f"""
    import sys, threading
    import schwimmbad_go
    from helpers import tasks

    def main():
        over = False
        sys.setswitchinterval(1e-5)  # so that they ask at nearly every line
        def want():
            while not over:
                pass
        threads = [threading.Thread(target=want, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            with {kind.expression()} as pool:
                assert list(pool.map(tasks.square, range(10))) == [n * n for n in range(10)]
            pool.join()
        over = True
        print("all left")

    if __name__ == "__main__":
        main()
    """
    assert scripts.succeed(tmp_path, source, timeout=60) == "all left\n"
