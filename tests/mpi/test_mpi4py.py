"""MPIPool beside mpi4py: whoever starts MPI, scripts and tasks that use it themselves, several pools, and how ranks end.

The scripts check themselves; what is left to compare here is who printed and how the run ended. Nothing may stand in stderr.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

import pytest
from helpers import mpirun

LEVELS = ("single", "funneled", "serialized")

needs_mpi4py = pytest.mark.skipif(importlib.util.find_spec("mpi4py") is None, reason="mpi4py is not installed")
pytestmark = pytest.mark.slow


def silent(family: str, n: int, script: str, *args: str, code: int = 0, env: Mapping[str, str] | None = None) -> list[str]:
    """Lines of stdout of a run that ends as it should and says nothing else."""
    done = mpirun.run(family, n, script, *args, env=env)
    assert done.returncode == code, f"exit code {done.returncode}\n{done}"
    assert not done.left, done
    if code == 0:  # else the launcher has its say
        assert done.stderr == "", done
    return done.lines()


# For scripts, which have no pytest.
REFUSED = """
import contextlib, re
@contextlib.contextmanager
def refused(kind, pattern):
    try:
        yield
    except kind as error:
        assert re.search(pattern, str(error)), error
    else:
        raise AssertionError(f"no {kind.__name__}")
"""


@needs_mpi4py
@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("order", ["before", "after", "never", "late"])
def test_whenever_mpi4py_is_imported(family: str, n: int, order: str) -> None:
    """"late": it becomes importable only when the pool has started MPI without it."""
    script = """
import atexit, sys
order = sys.argv[1]
if order == "before":
    from mpi4py import MPI
elif order in ("never", "late"):
    sys.modules["mpi4py"] = None
import schwimmbad_go
from schwimmbad_go import mpi
assert mpi.MPI is None and schwimmbad_go.MPIPool.enabled()
atexit.register(print, "end", flush=True)  # runs on every rank

def square(x):
    return x * x

with schwimmbad_go.MPIPool() as pool:
    n = int(sys.argv[2])
    assert (pool.rank, pool.master, pool.size, pool.workers) == (0, 0, n - 1, set(range(1, n)))
    assert pool.is_master() and not pool.is_worker() and schwimmbad_go.MPIPool.enabled()
    assert pool.comm.rank == pool.comm.Get_rank() == 0 and pool.comm.size == pool.comm.Get_size() == n
    assert pool.map(square, range(50)) == [x * x for x in range(50)]
    if order == "late":
        del sys.modules["mpi4py"]
    if order == "never":
        assert mpi.MPI is None and "mpi4py.MPI" not in sys.modules
    else:
        from mpi4py import MPI
        assert MPI.COMM_WORLD.size == n and MPI.Query_thread() == MPI.THREAD_MULTIPLE
        assert MPI.Is_initialized() and not MPI.Is_finalized()
        assert order == "late" or mpi.MPI is MPI and pool.comm == MPI.COMM_WORLD
    assert pool.map(square, [4]) == [16]
"""
    assert silent(family, n, script, order, str(n)) == ["end"] * n


@needs_mpi4py
@pytest.mark.parametrize("setting", ["initialize = False", "threads = False", *map("thread_level = {!r}".format, LEVELS)])
def test_thread_settings_of_mpi4py(family: str, setting: str) -> None:
    """Where MPI is for one thread only, a map from another is refused, and work in the background is done at once."""
    script = f"""
import mpi4py
mpi4py.rc.recv_mprobe = False
mpi4py.rc.{setting}
{REFUSED}
import threading
import schwimmbad_go
from schwimmbad_go.error import EngineError
pool = schwimmbad_go.MPIPool()
from mpi4py import MPI
shared = MPI.Query_thread() >= MPI.THREAD_SERIALIZED
assert shared == (mpi4py.rc.threads and mpi4py.rc.thread_level in ("serialized", "multiple"))
assert pool.map(abs, range(-100, 0)) == list(range(100, 0, -1))
background = pool.map_async(abs, [-1, -2])
assert background.ready() or shared
assert background.get(10) == [1, 2]
found = []
def other():
    if shared:
        found.append(pool.map(abs, [-3]))
        return
    with refused(EngineError, "main thread"):
        pool.map(abs, [-3])
    found.append([3])
thread = threading.Thread(target=other)
thread.start()
thread.join()
assert found == [[3]]
assert list(pool.imap(abs, [-5])) == [5]
pool.close()
"""
    assert silent(family, 3, script) == []


@needs_mpi4py
def test_communicators(family: str) -> None:
    """Two pools on the halves of the world work at the same time, in each other's way nowhere, on ranks in reverse order."""
    script = f"""
{REFUSED}
from mpi4py import MPI
import schwimmbad_go
world = MPI.COMM_WORLD
half = world.Split(world.rank % 2, key=-world.rank)
between = half.Create_intercomm(0, world, (world.rank + 1) % 2 + 2, 7)
with refused(ValueError, "(?i)inter-?communicator"):
    schwimmbad_go.MPIPool(comm=between)
between.Free()
for wrong in (3, "world", MPI):
    with refused(TypeError, "comm must be a communicator"):
        schwimmbad_go.MPIPool(comm=wrong)
with refused(ValueError, "COMM_NULL"):
    schwimmbad_go.MPIPool(comm=MPI.COMM_NULL)
with refused(ValueError, "^Tried to create an MPI pool, but .*comm has this rank only"):
    schwimmbad_go.MPIPool(comm=MPI.COMM_SELF)
start = half.bcast({{"offset": 100 * half.rank}} if half.rank == 0 else None)

def where(x):
    return world.rank, x + start["offset"]

pool = schwimmbad_go.MPIPool(comm=half)
assert pool.comm is half and pool.size == 1 and pool.workers == {{1}}
partner = 2 if world.rank == 3 else 3
for k in range(5):
    results = pool.map(where, range(50), chunksize=3)
    assert results == [(world.rank - 2, x) for x in range(50)]
    assert world.sendrecv(k, partner, source=partner) == k  # masters may talk between maps
with refused(ValueError, "is open"):
    schwimmbad_go.MPIPool(comm=half)
pool.close()
pool = schwimmbad_go.MPIPool(comm=half)
with refused(ValueError, "serve an earlier MPIPool of another communicator"):
    schwimmbad_go.MPIPool()
assert pool.map(where, [1]) == [(world.rank - 2, 1)]
print("master", world.rank)
"""
    assert silent(family, 4, script) == ["master 2", "master 3"]


@needs_mpi4py
@pytest.mark.parametrize("comm", ["world", "world.Dup()", "world.Create_group(world.group)", "MPI.Intracomm(world)"])
def test_communicators_of_all_ranks(family: str, comm: str) -> None:
    script = f"""
{REFUSED}
from mpi4py import MPI
import schwimmbad_go
world = MPI.COMM_WORLD
comm = {comm}
with schwimmbad_go.MPIPool(comm) as pool:
    assert pool.comm is comm and pool.size == 2
    assert pool.map(abs, range(-9, 0)) == list(range(9, 0, -1))
with schwimmbad_go.MPIPool(comm=comm) as pool:
    assert sorted(pool.broadcast(world.Get_rank)) == [1, 2]
pool = schwimmbad_go.MPIPool(comm=comm)
with refused(ValueError, "is open"):
    schwimmbad_go.MPIPool(comm=comm)
pool.close()
for same in (None, world, comm):
    with schwimmbad_go.MPIPool(comm=same) as pool:
        assert pool.comm == (same or world)
        assert pool.map(abs, [-7]) == [7]
"""
    assert silent(family, 3, script) == []


@needs_mpi4py
def test_a_rank_that_does_not_come(family: str) -> None:
    """Those who wait for it say so, and still work when it comes."""
    script = """
import sys
from mpi4py import MPI
import schwimmbad_go
from schwimmbad_go import _ranks
world = MPI.COMM_WORLD
_ranks._PATIENCE = 0.01

class Telling:
    def write(self, text):
        if text.strip():
            world.send(text, dest=1)
    def flush(self):
        pass

if world.rank == 1:
    assert "for the other 1 ranks" in world.recv(source=0)  # only then does it come
    _ranks._PATIENCE = 10
else:
    sys.stderr, true = Telling(), sys.stderr
with schwimmbad_go.MPIPool() as pool:
    sys.stderr = true
    assert pool.map(abs, [-1]) == [1]
"""
    assert silent(family, 2, script) == []


@needs_mpi4py
@pytest.mark.parametrize("fails", ["works", "fails"])
def test_under_the_runner_of_mpi4py(family: str, fails: str) -> None:
    """``python -m mpi4py script.py`` aborts all ranks at an uncaught exception; the workers' exit is none."""
    script = """
import sys
import schwimmbad_go

def inverse(x):
    return 1 / x

pool = schwimmbad_go.MPIPool()
assert pool.map(inverse, [1, 2, 4]) == [1, 0.5, 0.25]
print(pool.apply(lambda: inverse(8)), flush=True)
if sys.argv[1] == "fails":
    pool.map(inverse, [1, 0])
"""
    done = mpirun.run(family, 3, script, fails, flags=["-m", "mpi4py"])
    assert done.stdout.startswith("0.125\n") and not done.left
    assert done.returncode == 0 if fails == "works" else done.returncode != 0 and "ZeroDivisionError" in done.stderr


@needs_mpi4py
@pytest.mark.parametrize("sharing", ["shared", "messages", "mixed"])
def test_tasks_that_use_mpi(family: str, sharing: str) -> None:
    script = """
from mpi4py import MPI
import schwimmbad_go
world = MPI.COMM_WORLD
table = world.bcast([1, 2, 3] if world.rank == 0 else None)  # the script's own, before the pool
world.Barrier()

def rank(_):
    return world.rank

def exchange(tag):
    other = 3 - world.rank
    return world.sendrecv((world.rank, tag), dest=other, sendtag=tag, source=other, recvtag=tag)

def listen(tag):
    return world.recv(source=0, tag=tag), sum(table)

def pair():
    group = world.group.Incl([1, 2])
    comm = world.Create_group(group, tag=5)
    total = comm.allreduce(world.rank)
    comm.Free()
    return total

with schwimmbad_go.MPIPool() as pool:
    assert set(pool.map(rank, range(40))) <= {1, 2}
    assert pool.broadcast(rank, None) == [1, 2]
    for tag in range(20):
        assert pool.broadcast(exchange, tag) == [(2, tag), (1, tag)]
    assert pool.broadcast(pair) == [3, 3]
    # The script sends to tasks that run: in the background, and from a callback.
    background = pool.map_async(listen, [7])
    requests = [world.isend("hello", dest=k, tag=7) for k in (1, 2)]
    assert background.get(20) == [("hello", 6)]
    world.send("again", dest=1, tag=8)
    seen = []
    pool.map(rank, range(20), callback=lambda r: (world.sendrecv(r, 0, source=0), seen.append(r)))
    assert len(seen) == 20
    # Whoever did not listen still has his message. A look may be needed to fetch what the next one finds.
    assert sorted(pool.broadcast(lambda: any(world.iprobe(source=0, tag=7) for _ in range(1000)))) == [False, True]
    assert pool.broadcast(lambda: world.rank == 1 and world.recv(source=0, tag=8)) == ["again", False]
    pool.broadcast(lambda: any(world.iprobe(source=0, tag=7) for _ in range(1000)) and world.recv(source=0, tag=7))
    MPI.Request.waitall(requests)
"""
    assert silent(family, 3, script, env=mpirun.SHARING.get(sharing)) == []


@needs_mpi4py
@pytest.mark.parametrize("sharing", ["shared", "messages"])
def test_messages_that_take_long(family: str, sharing: str) -> None:
    """Large ones of the script's own go on while the master waits for tasks, and those of a task after its end: MPI moves them in calls
    of the sender's only, where processes may not read each other's memory."""
    script = """
from mpi4py import MPI
import numpy as np
import schwimmbad_go

world = MPI.COMM_WORLD
kept = []

def take(source):
    a = np.zeros(200_000)
    if world.rank == 1:
        world.Recv(a, source=source, tag=7)
    return float(a.sum())

def give():
    if world.rank == 2:
        a = np.full(200_000, 2.0)
        kept.append((a, world.Isend(a, dest=1, tag=7)))

with schwimmbad_go.MPIPool() as pool:
    a = np.ones(200_000)
    request = world.Isend(a, dest=1, tag=7)
    assert pool.broadcast(take, 0) == [200_000.0, 0.0]
    request.Wait()
    pool.broadcast(give)
    assert pool.broadcast(take, 2) == [400_000.0, 0.0]
    assert pool.broadcast(lambda: [r.Wait() for _, r in kept]) == [[], [True]]
"""
    assert silent(family, 3, script, env=mpirun.SHARING.get(sharing)) == []


@pytest.mark.parametrize("mpi4py, sharing", [("mpi4py", "shared"), ("without", "shared"), ("mpi4py", "messages"), ("mpi4py", "mixed")])
def test_pools_one_after_the_other(family: str, mpi4py: str, sharing: str) -> None:
    if mpi4py == "mpi4py":
        pytest.importorskip("mpi4py")
    script = f"""
import sys
if sys.argv[1] == "without":
    sys.modules["mpi4py"] = None
{REFUSED}
import os
import schwimmbad_go
from schwimmbad_go.error import PoolClosed, WorkerLost

state = []

def remember(*what):
    state.append(what)

def recall(_):
    return list(state)

def version(x):
    return "first", x

with schwimmbad_go.MPIPool(initializer=remember, initargs=(1, "a")) as pool:
    pids = pool.broadcast(os.getpid)
    assert pool.map(recall, range(6)) == [[(1, "a")]] * 6
    assert pool.map(version, [0]) == [("first", 0)]
with refused(PoolClosed, "not running"):
    pool.map(recall, [1])
pool.join()

def version(x):
    return "second", x

def remember(*what):
    state.append(("again", *what))

with schwimmbad_go.MPIPool(initializer=remember, initargs=(2,)) as pool:
    assert pool.broadcast(os.getpid) == pids
    assert pool.map(recall, [0])[0] == [(1, "a"), ("again", 2)]
    assert pool.map(version, [0]) == [("second", 0)]

with schwimmbad_go.MPIPool() as pool:
    assert pool.map(recall, [0])[0] == [(1, "a"), ("again", 2)]

pool = schwimmbad_go.MPIPool(initializer=lambda: 1 / 0)
for _ in range(2):
    with refused(ZeroDivisionError, "division"):
        pool.map(recall, [0])
pool.close()

class Large:
    def __init__(self, n):
        self.data = bytes(n)
        self.list = list(range(1000))
    def __call__(self, x):
        return len(self.data) + x

for k in range(1, 5):
    with schwimmbad_go.MPIPool() as pool:
        large = Large(k * 1_000_000)
        for _ in range(2):
            assert pool.map(large, range(10)) == [k * 1_000_000 + x for x in range(10)]
        try:
            import numpy as np
        except ImportError:
            continue
        rows = np.ones((10, 20_000 * k))
        assert [float(x) for x in pool.map(np.sum, rows)] == [20_000.0 * k] * 10

pool = schwimmbad_go.MPIPool()
with refused(ValueError, "is open: close it"):
    schwimmbad_go.MPIPool()
with refused(ValueError, "worker processes are forked before MPI starts"):
    pool.close()
    schwimmbad_go.MPIPool(isolate=True)
for _ in range(20):
    pool = schwimmbad_go.MPIPool()
    background = pool.map_async(recall, range(100))
    pool.terminate()  # ends it, whatever was under way
    pool.join()
pool = schwimmbad_go.MPIPool()
assert pool.broadcast(os.getpid) == pids
del pool  # nobody closes it
pool = schwimmbad_go.MPIPool()
assert pool.map(version, [3]) == [("second", 3)]
"""
    assert silent(family, 3, script, mpi4py, env=mpirun.SHARING.get(sharing)) == []


@needs_mpi4py
@pytest.mark.parametrize("closed", ["closed", "open"])
def test_a_script_that_ends_mpi_itself(family: str, closed: str) -> None:
    """MPI_Finalize waits for all ranks, and the pool has them: it must let them go first."""
    script = f"""
import sys
{REFUSED}
from mpi4py import MPI
import schwimmbad_go
from schwimmbad_go.error import EngineError, PoolClosed
pool = schwimmbad_go.MPIPool()
assert pool.map(abs, [-1, -2]) == [1, 2]
if sys.argv[1] == "closed":
    pool.close()
MPI.Finalize()
assert MPI.Is_finalized()
with refused(PoolClosed, "not running|terminated"):
    pool.map(abs, [1])
with refused(EngineError, "MPI has been finalized"):
    schwimmbad_go.MPIPool()
print("end")
"""
    assert silent(family, 3, script, closed) == ["end"]


@needs_mpi4py
@pytest.mark.parametrize("idiom", ["is_master", "wait", "with", "forgotten", "exit", "error"])
def test_idioms_and_ends(family: str, idiom: str) -> None:
    """Code after the constructor is the master's; `finally` and atexit handlers run on all ranks; the program's code is the run's."""
    script = """
import atexit, sys
idiom = sys.argv[1]
import schwimmbad_go

def square(x):
    return x * x

def main():
    if idiom == "with":
        with schwimmbad_go.MPIPool() as pool:
            return pool.map(square, range(4))
    pool = schwimmbad_go.MPIPool()
    if idiom == "is_master":
        if not pool.is_master():
            pool.wait()
            sys.exit(0)
    elif idiom == "wait":
        assert pool.wait(lambda: sys.exit(0)) is None and pool.wait(callback=lambda: sys.exit(9)) is None
    results = pool.map(square, range(4))
    if idiom == "exit":
        sys.exit(5)
    if idiom == "error":
        raise LookupError("the script's own")
    if idiom != "forgotten":
        pool.close()
    return results

atexit.register(print, "atexit", flush=True)
try:
    print(main(), flush=True)
finally:
    print("finally", flush=True)
"""
    code = {"exit": 5, "error": 1}.get(idiom, 0)
    lines = silent(family, 3, script, idiom, code=code)
    results = [] if code else ["[0, 1, 4, 9]"]
    assert lines[: len(results)] == results
    ends = lines[len(results) :]
    if family == "mpich" and code:  # hydra may end the others when one has left with a code
        assert ends.count("atexit") >= 1 and ends.count("finally") >= 1
    else:
        assert ends == ["atexit"] * 3 + ["finally"] * 3


@pytest.mark.parametrize("call", ["pool.map(os._exit, [0])", "pool.map(lambda code: os._exit(code), [0])"])
def test_a_rank_that_leaves_with_0_is_no_success(family: str, call: str) -> None:
    """Pickle knows os._exit as posix._exit. hydra's job ended with 0 in some of such runs."""
    script = f"""
import os
import schwimmbad_go
with schwimmbad_go.MPIPool() as pool:
    try:
        {call}
    except schwimmbad_go.error.RankLost:
        pass
"""
    assert mpirun.run(family, 3, script).returncode != 0


@needs_mpi4py
@pytest.mark.parametrize("isolate", ["refused", "works", "never"])
def test_worker_processes_and_mpi4py(family: str, isolate: str) -> None:
    """They are forked before MPI starts, so mpi4py must not have started it; in them mpi4py is a run of one process."""
    script = f"""
{REFUSED}
import sys
how = sys.argv[1]
import mpi4py
if how == "works":
    mpi4py.rc.initialize = False
if how != "never":
    from mpi4py import MPI
import schwimmbad_go
if how == "refused":
    for options in (dict(isolate=True), dict(workers_per_rank=2), dict(master_works=True)):
        with refused(ValueError, "before MPI starts.*mpi4py.rc.initialize = False"):
            schwimmbad_go.MPIPool(**options)
    with schwimmbad_go.MPIPool() as pool:
        assert pool.map(abs, [-1]) == [1]
    sys.exit()

def alone():
    import subprocess
    code = "from mpi4py import MPI; print(MPI.COMM_WORLD.size)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=20).stdout.strip()

comm = MPI.COMM_WORLD if how == "works" else None
with schwimmbad_go.MPIPool(comm, workers_per_rank=2, master_works=True) as pool:
    assert pool.size == 6 and pool.comm.size == 3 and pool.workers == {{1, 2}}
    assert pool.map(abs, range(-50, 0)) == list(range(50, 0, -1))
    assert how == "works" or pool.apply(alone) == "1"
"""
    assert silent(family, 3, script, isolate) == []


# --- programs and libraries ---------------------------------------------------------------------------------------------


@needs_mpi4py
@pytest.mark.parametrize("n", [2, 4])
def test_emcee(family: str, n: int) -> None:
    pytest.importorskip("emcee")
    script = """
import emcee
import numpy as np
import schwimmbad_go

centre = np.arange(3.0)

def log_prob(x, width):
    return -0.5 * np.sum(((x - centre) / width) ** 2)

def chain(pool):
    np.random.seed(1)
    start = np.random.normal(size=(16, 3))
    sampler = emcee.EnsembleSampler(16, 3, log_prob, args=[2.0], pool=pool)
    sampler.run_mcmc(start, 30)
    return sampler.get_chain()

with schwimmbad_go.MPIPool() as pool:
    assert np.array_equal(chain(pool), chain(None))
"""
    assert silent(family, n, script) == []


@needs_mpi4py
def test_patterns_of_samplers(family: str) -> None:
    """Chains: groups of ranks with a pool each, whose masters gather results. State: an object that drops its pool when pickled."""
    script = """
from mpi4py import MPI
import pickle
import schwimmbad_go
world = MPI.COMM_WORLD
chains = 2
colour = world.rank * chains // world.size
group = world.Split(colour, world.rank)
heads = world.Create_group(world.group.Incl([0, 2]), tag=1) if group.rank == 0 else None

class Sampler:
    def __init__(self, pool):
        self.pool = pool
        self.scale = 3
    def __getstate__(self):
        return {**self.__dict__, "pool": None}
    def likelihood(self, x):
        assert self.pool is None
        return self.scale * x
    def run(self):
        return list(self.pool.map(self.likelihood, range(10)))

with schwimmbad_go.MPIPool(comm=group, use_dill=True) as pool:
    sampler = Sampler(pool)
    results = sampler.run()
    assert pool.map(lambda x: x + colour, [1]) == [1 + colour]
    assert pickle.loads(pickle.dumps(sampler)).pool is None
    gathered = heads.gather((colour, results))
    if heads.rank == 0:
        assert gathered == [(c, [3 * x for x in range(10)]) for c in range(2)]
        print("gathered")
    heads.Barrier()
"""
    assert silent(family, 4, script) == ["gathered"]
