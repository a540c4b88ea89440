"""The helper that starts MPI runs for other tests: a hang ends with stacks, and what a run leaves is seen and killed."""

from __future__ import annotations

import signal

import pytest
from helpers import leaks, mpirun


def test_run_that_hangs_is_killed_and_shows_where(family: str) -> None:
    script = """
        import time
        def deep():
            print("deep", flush=True)
            time.sleep(100)
        deep()
    """
    with mpirun.start(family, 2, script) as one:
        one.wait_for(lambda out: out.count("deep") == 2)
        with pytest.raises(AssertionError, match="still ran after 1 s") as caught:
            one.finish(1)
    assert "in deep" in str(caught.value)


def test_interrupt_reaches_the_ranks(family: str) -> None:
    script = """
        import os, time
        print("up", os.getpid(), flush=True)
        time.sleep(100)
    """
    with mpirun.start(family, 2, script) as one:
        one.wait_for(lambda out: out.count("up") == 2)
        ranks = one.ranks()
        assert sorted(ranks) == [0, 1]
        assert all(f"up {pid}" in one.stdout() for pid in ranks.values())
        one.signal(signal.SIGINT)
        done = one.finish(20)
        assert not done.left
        assert not any(leaks.alive(pid) for pid in ranks.values())


def test_process_that_outlives_the_run_is_seen_and_killed(family: str) -> None:
    script = """
        import subprocess
        null = subprocess.DEVNULL
        print(subprocess.Popen(["setsid", "sleep", "50"], stdin=null, stdout=null, stderr=null).pid)
    """
    done = mpirun.run(family, 1, script)
    assert done.returncode == 0
    assert [line.split() for line in done.left] == [["sleep", "50"]]
    assert leaks.poll(lambda: not leaks.alive(int(done.stdout)), 1.0) <= 1.0
