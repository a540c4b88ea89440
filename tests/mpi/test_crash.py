"""Whole MPI jobs that meet with an accident: how they end, what they say, what they leave."""

from __future__ import annotations

import os
import signal
import socket
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import leaks, mpirun
from helpers.gates import Gate

PROMPT = 5.0  # seconds from an accident to the end of the job
IN_RANK = "schwimmbad_go.MPIPool()"
BESIDE = "schwimmbad_go.MPIPool(isolate=True)"
HOST = socket.gethostname()

HEAD = """
import ctypes, faulthandler, functools, os, resource, signal, sys, time
import schwimmbad_go
from schwimmbad_go import error
from helpers import gates, tasks, traps

def die(how, bad, path, n):
    if n != bad:
        return n
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    tasks.append_line(path, os.getpid())
    if how == "segfault":
        ctypes.string_at(0)
    if how == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(int(how))

pool = POOL
squares = lambda n=60: pool.map(tasks.square, range(n)) == [i * i for i in range(n)]
"""


def script(body: str, pool: str = IN_RANK) -> str:
    return HEAD.replace("POOL", pool) + textwrap.dedent(body)


def kill(pid: int, number: int) -> None:
    """Returns when the process is dead."""
    os.kill(pid, number)
    assert leaks.poll(lambda: not leaks.alive(pid), 5) < 5


def promptly(run: mpirun.Run, since: float, limit: float = PROMPT) -> mpirun.Result:
    """The end of a job after an accident at `since`: soon, with a failure, without a survivor."""
    done = run.finish(30)
    assert time.monotonic() - since < limit + 1.0, done  # `finish` itself looks for survivors for up to a second
    assert done.returncode != 0, done
    assert not done.left, f"left behind: {done.left}\n{done}"
    return done


def obituaries(done: mpirun.Result, pid: int) -> list[str]:
    """What the job said of a rank that died. The engine says it at once, and again in the exception; but the launcher ends the master
    at that moment, and if it comes first, it is the one to tell. hydra then names the process that it waited for first, which may be one
    that it killed itself, and in its last words the signal that began it."""
    lines = (done.stdout + done.stderr).splitlines()
    ours = [line for line in lines if f"(pid {pid} on {HOST}) has died" in line]
    named = [line for line in lines if f"PID {pid} RUNNING AT {HOST}" in line]
    return ours or named or [line for line in lines if "TERMINATED WITH THE EXIT STRING: " in line]


# ---- tasks that raise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("body, told", [
    ("raise LookupError('the user has erred')", "LookupError: the user has erred"),
    ("sys.exit(0)", "the task called sys.exit(0)"),
    ("raise KeyboardInterrupt", "TaskInterrupt"),
], ids=["exception", "exit", "interrupt"])
def test_uncaught_error_of_a_task(family: str, body: str, told: str) -> None:
    """The job has failed, and the traceback on stderr leads to the line in the task and to the rank it ran on."""
    source = script(f"""
        def fail(n):
            if n == 3:
                {body}
            return n

        pool.map(fail, range(6))
        print("survived")
    """)
    done = mpirun.run(family, 3, source, timeout=30)
    assert done.returncode != 0, done
    assert not done.left, done
    assert done.stdout == ""
    assert told in done.stderr
    assert "in fail" in done.stderr or "sys.exit" in body  # of an uncaught SystemExit Python shows the text alone
    assert f"on {HOST}" in done.stderr
    assert "rank 1" in done.stderr or "rank 2" in done.stderr


def test_errors_that_are_caught(family: str) -> None:
    """The job goes on to a good end."""
    done = mpirun.run(family, 3, script("""
        home = os.getpid()
        for what in (*traps.EXCEPTIONS, *traps.ODD_EXCEPTIONS):
            try:
                pool.map(functools.partial(traps.fail_inside, what, home, 5), range(12))
            except BaseException as caught:
                print(what, type(caught).__name__)
                assert any("rank" in note for note in getattr(caught, "__notes__", [])) or "rank" in str(caught), caught
            assert squares()
        print("end")
    """), timeout=30).ok()
    assert done.lines() == [
        "base Odd", "end", "exception Boom", "exit TaskExit", "interrupt TaskInterrupt", "two arguments RemoteError",
        "unpicklable RemoteError",
    ]
    assert done.stderr == ""


# ---- processes that die --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how, sharing", [("sigkill", ""), ("segfault", ""), ("0", ""), ("3", ""), ("sigkill", "messages")],
                         ids=["sigkill", "segfault", "0", "3", "messages"])
def test_rank_dies_in_a_task(family: str, how: str, sharing: str, tmp_path: Path) -> None:
    """MPI cannot go on: the master says what was lost, and the job fails; also when that is caught, and for os._exit(0)."""
    source = script("""
        for func in (functools.partial(die, sys.argv[1], 5, sys.argv[2]), abs):
            try:
                pool.map(func, range(12), chunksize=1)
                print("a pool without a rank worked", flush=True)
            except error.RankLost as lost:
                print(lost, flush=True)
    """)
    with mpirun.start(family, 3, source, how, str(tmp_path / "dead"), env=mpirun.SHARING.get(sharing)) as run:
        run.wait_for(lambda _: (tmp_path / "dead").exists())
        done = promptly(run, time.monotonic())
    pid = int((tmp_path / "dead").read_text())
    # What the rank says itself in os._exit, and the launcher of a rank that was killed, names no tasks.
    said = ("task 5", "os._exit", "PID", "EXIT STRING")
    assert any(word in line for line in obituaries(done, pid) for word in said), done
    assert "worked" not in done.stdout, done


@pytest.mark.parametrize("number, used", [(signal.SIGKILL, True), (signal.SIGSEGV, False)], ids=["sigkill-used", "segfault-unused"])
def test_rank_dies_while_idle(family: str, number: int, used: bool, gate: Gate) -> None:
    source = script("""
        if sys.argv[2] == "True":
            assert squares()
        print("ready", flush=True)
        gates.pass_gate(sys.argv[1])
        end = time.monotonic() + 10
        while time.monotonic() < end:  # those that need no dead rank may be right before it is noticed
            assert squares()
        print("not noticed")
    """)
    with mpirun.start(family, 3, source, gate.path, str(used)) as run:
        run.wait_for("ready")
        gate.wait_started()
        pid = run.ranks()[2]
        began = time.monotonic()
        kill(pid, number)
        gate.open()
        done = promptly(run, began)
    assert "not noticed" not in done.stdout
    assert obituaries(done, pid), done


def test_worker_process_dies(family: str, tmp_path: Path) -> None:
    """With processes beside the ranks a death costs one task, and the master knows everything about it."""
    done = mpirun.run(family, 3, script("""
        import socket
        ranks = {}
        for how, code in (("sigkill", -9), ("segfault", -11), ("0", 0), ("3", 3)):
            path = sys.argv[1] + how
            results = pool.map(functools.partial(die, how, 5, path), range(12), chunksize=1, return_exceptions=True)
            lost = results[5]
            assert type(lost) is error.WorkerLost, lost
            assert [r for r in results if r is not lost] == [n for n in range(12) if n != 5]
            assert str(lost.pid) == tasks.lines(path)[0]
            assert (lost.index, lost.exitcode, lost.host) == (5, code, socket.gethostname()), (lost, lost.exitcode)
            assert "rank 1" in str(lost) or "rank 2" in str(lost), lost
            assert len(tasks.lines(path)) == 1
            try:
                pool.map(functools.partial(die, how, 5, path), range(12), chunksize=1)
            except error.WorkerLost:
                assert squares()

            def die_once(n):
                return n if tasks.lines(path)[2:] else die(how, 5, path, n)

            assert pool.map(die_once, range(12), chunksize=1, retries=1) == list(range(12))
            assert len(tasks.lines(path)) == 3, tasks.lines(path)
        print("end")
    """, BESIDE), str(tmp_path / "dead-"), timeout=30).ok()
    assert (done.stdout, done.stderr) == ("end\n", "")


@pytest.mark.parametrize("pool, call, sharing", [
    (IN_RANK, "time.sleep", ""), (IN_RANK, "idle", ""), (IN_RANK, "idle", "messages"), (BESIDE, "gates.pass_gate", ""),
], ids=["asleep", "idle", "idle-messages", "isolate"])
def test_master_dies(family: str, pool: str, call: str, sharing: str, gate: Gate) -> None:
    """Whatever the ranks are doing: they do not outlive it."""
    what = "gates.pass_gate(sys.argv[1])" if call == "idle" else "pool.map(work, [sys.argv[1]] * 2, chunksize=1)"
    source = script(f"""
        def work(path):
            if {call!r} == "time.sleep":
                with open(os.path.join(path, "started"), "wb", buffering=0) as f:
                    f.write(b".")
                time.sleep(60)
            gates.pass_gate(path)

        {what}
    """, pool)
    with mpirun.start(family, 3, source, gate.path, env=mpirun.SHARING.get(sharing)) as run:
        gate.wait_started(1 if call == "idle" else 2)
        began = time.monotonic()
        kill(run.ranks()[0], signal.SIGKILL)
        promptly(run, began)


# ---- Ctrl-C --------------------------------------------------------------------------------------------------

INTERRUPTED = """
    assert squares()
    print("ready", flush=True)
    try:
        pool.map(gates.pass_gate, [sys.argv[1]] * 4, chunksize=1)
    except KeyboardInterrupt as caught:
        print("interrupted", type(caught).__name__, flush=True)
    gates.pass_gate(sys.argv[1])
    assert all(squares() for _ in range(3))
    print("end", flush=True)
"""


@pytest.mark.parametrize("pool, sharing", [(IN_RANK, ""), (IN_RANK, "messages"), (IN_RANK, "mixed"), (BESIDE, "")],
                         ids=["default", "messages", "mixed", "isolate"])
def test_interrupt_of_the_master_alone(family: str, pool: str, sharing: str, gate: Gate) -> None:
    """KeyboardInterrupt there, at once, although tasks go on on the ranks; the next map is right."""
    with mpirun.start(family, 3, script(INTERRUPTED, pool), gate.path, env=mpirun.SHARING.get(sharing)) as run:
        gate.wait_started(2)
        began = time.monotonic()
        os.kill(run.ranks()[0], signal.SIGINT)
        run.wait_for("interrupted KeyboardInterrupt")
        assert time.monotonic() - began < 2.0
        gate.wait_started()  # the master itself
        gate.open(5)
        done = run.finish(20).ok()
    assert done.stdout.splitlines()[-1] == "end"
    assert done.stderr == ""


@pytest.mark.parametrize("pool", [IN_RANK, BESIDE], ids=["default", "isolate"])
def test_interrupt_of_the_job(family: str, pool: str, gate: Gate) -> None:
    """hydra passes it on to all ranks, of which only the master heeds it; Open MPI's mpirun ends the job."""
    with mpirun.start(family, 3, script(INTERRUPTED, pool), gate.path) as run:
        gate.wait_started(2)
        began = time.monotonic()
        run.signal(signal.SIGINT)
        if family == "mpich":
            run.wait_for("interrupted KeyboardInterrupt")
            gate.wait_started()
            gate.open(5)
            run.wait_for("end")
            done = run.finish(20)
            assert not done.left, done
        else:
            promptly(run, began)


# ---- the end of the script -----------------------------------------------------------------------------------


ENDS = {
    "forgotten": ("assert squares()", 0),
    "unused": ("", 0),
    "exit": ("sys.exit(5)", 5),
    "closed-exit": ("pool.close(); sys.exit(5)", 5),
    "raises": ("assert squares(); raise LookupError('own')", 1),
    "half-used": ("keep = pool.imap(tasks.square, range(1000)); next(keep)", 0),
    "raises-busy": ("pool.map_async(time.sleep, [60, 60]); raise LookupError('own')", 1),
    "exit-in-callback": ("results = pool.map(bytes, [4_000_000] * 20, callback=lambda _: sys.exit(5))", 5),
}


@pytest.mark.parametrize("pool, end", [
    *((IN_RANK, end) for end in ENDS), *((BESIDE, end) for end in ("forgotten", "exit", "raises-busy", "exit-in-callback")),
], ids=lambda x: {IN_RANK: "default", BESIDE: "isolate"}.get(x, x))
def test_end_of_the_script(family: str, pool: str, end: str) -> None:
    """The exit code is the script's; nobody stays."""
    body, code = ENDS[end]
    done = mpirun.run(family, 3, script(body, pool), timeout=30)
    assert done.seconds < 10, done
    assert not done.left, done
    if "time.sleep" in body:  # the ranks cannot be let go: the job is aborted
        assert done.returncode != 0, done
    else:
        assert done.returncode == code, done
    assert ("LookupError: own" in done.stderr) == (code == 1), done
    if code == 0:
        assert done.stderr == ""


# ---- whatever can share a job --------------------------------------------------------------------------------

STEADY = """
def stuck(n):  # in compiled code, with the interpreter's lock
    if n == 3:
        ctypes.PyDLL(None).sleep(60)
    return n

def endless(n):
    while n == 3:
        pass
    return n

def nap(n):
    if n == 3:
        time.sleep(60)
    return n

def big(n):
    if n == 7:
        raise traps.Boom("in the middle")
    return bytes([n]) * 4_000_000

def late(job, n):
    time.sleep(0.002)
    return job, n

# Time limits.
for func in (endless, nap) + ((stuck,) if "isolate" in sys.argv[1] else ()):
    began = time.monotonic()
    results = pool.map(func, range(6), timeout=0.3, return_exceptions=True)
    assert time.monotonic() - began < 10
    assert type(results[3]) is error.TaskTimeout and results[3].index == 3, results
    assert results[:3] + results[4:] == [0, 1, 2, 4, 5], results
    assert squares()

# An error while large results are in flight.
for chunksize in (None, 1, 5):
    try:
        pool.map(big, range(40), chunksize=chunksize)
        raise AssertionError("no error")
    except traps.Boom:
        assert squares()
    results = pool.map(big, range(12), chunksize=chunksize, return_exceptions=True)
    assert [r if n == 7 else (r[0], len(r)) for n, r in enumerate(results)] == [
        results[7] if n == 7 else (n, 4_000_000) for n in range(12)
    ]

# Jobs that are given up half way: what is still under way belongs to no later one.
class Enough(Exception):
    pass

for job in range(25):
    seen = []

    def callback(value):
        seen.append(value)
        if len(seen) == job:
            raise Enough

    try:
        pool.map(functools.partial(late, job), range(40), chunksize=1 + job % 3, callback=callback)
    except Enough:
        pass
    assert {value[0] for value in seen} <= {job}, seen
    assert pool.map(functools.partial(late, -job), range(6)) == [(-job, n) for n in range(6)]

# One pool after the other, each with an initializer of its own.
for turn in range(3):
    pool.close()
    try:
        pool.map(abs, [1])
        raise AssertionError("a closed pool worked")
    except ValueError as closed:
        assert str(closed).startswith("Pool not running")
    pool = POOL
    assert squares()
pool.close()
pool = AGAIN
assert set(pool.map(tasks.recall, ["turn"] * 40, chunksize=1)) == {9}
print("end")
"""


@pytest.mark.parametrize("ranks, options, sharing", [
    (4, "", ""), (4, "", "messages"), (3, "", "mixed"), (3, "master_works=True", "mixed"), (3, "isolate=True", ""),
    (2, "workers_per_rank=2, isolate=True", ""), (1, "master_works=True, isolate=True", ""),
], ids=lambda x: str(x).replace(", ", "-").replace("=True", "") or "default")
def test_a_pool_stays_right(family: str, ranks: int, options: str, sharing: str) -> None:
    again = f"schwimmbad_go.MPIPool({options}{', ' if options else ''}initializer=tasks.remember, initargs=('turn', 9))"
    pool = f"schwimmbad_go.MPIPool({options})"
    source = script(STEADY.replace("POOL", pool).replace("AGAIN", again), pool)
    done = mpirun.run(family, ranks, source, options or "default", env=mpirun.SHARING.get(sharing), timeout=60).ok()
    assert (done.stdout, done.stderr) == ("end\n", "")


# ---- large messages ------------------------------------------------------------------------------------------


def free_bytes() -> int:
    table: dict[str, Any] = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(table["MemAvailable"].split()[0]) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("megabytes, free", [(300, 3), (2300, 12)])
def test_large_messages(family: str, megabytes: int, free: int) -> None:
    """More than a segment, and more than an int can count, both ways, among small ones."""
    # Open MPI copies in pieces of 32 KiB where processes may not read each other's memory, and each piece waits for a look of the
    # receiver. The first case keeps that; in the second, where the length is what counts, it would take a minute.
    pieces = {"OMPI_MCA_btl_vader_max_send_size": str(1 << 20)} if megabytes > 2048 else {}
    if free_bytes() < free << 30:
        pytest.skip(f"less than {free} GB of memory are free")
    done = mpirun.run(family, 2, script("""
        import numpy as np
        size = int(sys.argv[1]) << 20

        def turn(task):
            n, array = task
            array += n
            return n, array

        big = np.zeros(size, np.uint8)
        big[:: 1 << 20] = np.arange(size >> 20) % 200
        tasks_ = [(1, np.ones(3)), (2, big), (3, np.ones(100_000))]
        for n, back in pool.imap(turn, tasks_):
            want = tasks_[n - 1][1]
            assert back.shape == want.shape and back.dtype == want.dtype
            step = max(len(want) >> 12, 1)
            assert (back[::step] == want[::step] + n).all() and back[-1] == want[-1] + n
        assert squares()
        print("end")
    """), str(megabytes), env={**pieces, **mpirun.MESSAGES}, timeout=100).ok()
    assert done.stdout == "end\n"
