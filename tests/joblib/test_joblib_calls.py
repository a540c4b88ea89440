"""`joblib.Parallel` on our backend: what it gives, how many workers, which of them, what stays."""

from __future__ import annotations

import inspect
import os
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing import TimeoutError as ProcessTimeout
from pathlib import Path
from typing import Any

import joblib
import pytest
import schwimmbad_go
from helpers import leaks, scripts, tasks
from helpers.gates import Gate, pass_gate, pass_gate_if
from joblib import Parallel, delayed
from schwimmbad_go import MultiPool, _joblib_pool
from schwimmbad_go._joblib import SchwimmbadBackend, as_backend
from schwimmbad_go.error import PoolClosed, PoolUnavailable, WorkerLost

Make = Callable[..., Any]


def version() -> tuple[int, ...]:
    return tuple(int(part) for part in joblib.__version__.split(".")[:2])


generators = pytest.mark.skipif(version() < (1, 3), reason="generators came with joblib 1.3")
options = pytest.mark.skipif(
    "backend_kwargs" not in inspect.signature(Parallel.__init__).parameters, reason="this joblib.Parallel takes no options for its backend"
)
unordered = pytest.mark.skipif(version() < (1, 4), reason="generator_unordered came with joblib 1.4")


enter = getattr(joblib, "parallel_config", joblib.parallel_backend)


def pause(seconds: float, value: Any = None) -> Any:
    time.sleep(seconds)
    return value


def pid_and(value: Any) -> tuple[int, Any]:
    return os.getpid(), value


class Counter:
    """Changes itself."""

    def __init__(self) -> None:
        self.n = 0

    def up(self, _: Any = None) -> int:
        self.n += 1
        return self.n


@pytest.mark.parametrize("n", [0, 1, 3, 50, 3000])
@pytest.mark.parametrize(("batch_size", "pre_dispatch"), [("auto", "2*n_jobs"), ("auto", "all"), (1, 1), (7, "all")])
def test_results_in_order(parallel: Make, n: int, batch_size: Any, pre_dispatch: Any) -> None:
    if n == 3000 and batch_size == 1:
        n = 300
    work = parallel(batch_size=batch_size, pre_dispatch=pre_dispatch)
    assert work(delayed(tasks.square)(i) for i in range(n)) == [i * i for i in range(n)]
    assert work([delayed(tasks.show)(i, key=i) for i in range(n)]) == [((i,), {"key": i}) for i in range(n)]  # and once more


def test_functions_of_every_kind(parallel: Make) -> None:
    seven = 7
    kinds = [
        (lambda x: x + 1, [1, 2, 3]),
        (lambda x: x + seven, [7, 8, 9]),
        (partial(tasks.add, 10), [10, 11, 12]),
        (abs, [0, 1, 2]),
        (str, ["0", "1", "2"]),
        (Counter().up, None),
    ]
    for func, expected in kinds:
        found = parallel(batch_size=1)(delayed(func)(i) for i in range(3))
        assert found == (expected or [1, 1, 1])  # each batch has its own copy of what changes
    mixed = [delayed(tasks.square)(3), delayed(tasks.add)(1, b=2), delayed(lambda: "x")()]
    assert parallel(batch_size=3)(mixed) == [9, 3, "x"]


def test_many_functions(parallel: Make) -> None:
    assert parallel(batch_size=1)(delayed(eval(f"lambda x: x + {i}"))(1) for i in range(30)) == [i + 1 for i in range(30)]


def test_a_script_of_its_own(tmp_path: Path) -> None:
    """Functions and classes of __main__, unguarded, with the workers' output and a clean end."""
    assert scripts.succeed(
        tmp_path,
        """
        import os
        from joblib import Parallel, delayed
        import schwimmbad_go
        schwimmbad_go.register_joblib_backend(make_default=True)

        offset = 10

        class Point:
            def __init__(self, x):
                self.x = x

        def shifted(p):
            return Point(p.x + offset)

        out = Parallel(n_jobs=2)(delayed(shifted)(Point(i)) for i in range(5))
        assert all(type(p) is Point for p in out)
        print([p.x for p in out])
        offset = 20
        print([p.x for p in Parallel(n_jobs=2)(delayed(shifted)(Point(i)) for i in range(2))])
        assert os.getpid() not in Parallel(n_jobs=2)(delayed(os.getpid)() for i in range(5))
        """,
    ) == "[10, 11, 12, 13, 14]\n[20, 21]\n"  # fmt: skip


def test_how_many_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 4)
    own = SchwimmbadBackend(nesting_level=0)
    assert [own.effective_n_jobs(n) for n in (None, 1, 2, 9, -1, -2, -9)] == [1, 1, 2, 9, 4, 3, 1]
    with pytest.raises(ValueError, match="n_jobs == 0"):
        own.effective_n_jobs(0)
    with MultiPool(3) as pool:
        theirs = SchwimmbadBackend(nesting_level=0, pool=pool)
        assert [theirs.effective_n_jobs(n) for n in (None, 1, 2, 9, -1, -2, -9)] == [3, 1, 2, 3, 3, 2, 1]
        with as_backend(pool):
            assert joblib.effective_n_jobs(None) == joblib.effective_n_jobs(-1) == 3
    assert Parallel(n_jobs=1, backend="schwimmbad")(delayed(os.getpid)() for _ in range(2)) == [os.getpid()] * 2


def test_batches_stay_whole(parallel: Make) -> None:
    """A batch size that the user gave is obeyed: those calls run one after the other in one worker."""
    found = parallel(batch_size=5, pre_dispatch="all")(delayed(pid_and)(i) for i in range(50))
    assert [v for _, v in found] == list(range(50))
    assert all(len({pid for pid, _ in found[at : at + 5]}) == 1 for at in range(0, 50, 5))


def test_batches_taken_apart(parallel: Make) -> None:
    """One slow call behind many fast ones must not hold up the others of its batch, and all results are in their places."""
    slow = {700, 701, 702, 1500}

    def work(i: int) -> int:
        if i in slow:
            time.sleep(0.15)
        return i * i

    assert parallel()(delayed(work)(i) for i in range(2000)) == [i * i for i in range(2000)]


def test_workers_stay_warm(nothing_stays: None, parallel: Make) -> None:
    def pids(n_jobs: int) -> set[int]:
        return set(parallel(n_jobs, batch_size=1)(delayed(tasks.pid)() for _ in range(30)))

    first = pids(2)
    assert pids(2) <= first | pids(2) and len(first | pids(2)) <= 2
    with parallel() as managed:
        assert set(managed(delayed(tasks.pid)() for _ in range(30))) <= first | pids(2)
        assert set(managed(delayed(tasks.pid)() for _ in range(30))) <= first | pids(2)
    other = pids(3)
    assert not other & first
    assert leaks.poll(lambda: not any(leaks.alive(p) for p in first), 2.0) < 2.0  # the old ones have ended


def test_idle_workers_end(nothing_stays: None, parallel: Make) -> None:
    with enter("schwimmbad", n_jobs=2, idle_worker_timeout=0.05):
        pids = Parallel()(delayed(tasks.pid)() for _ in range(4))
    assert leaks.poll(lambda: _joblib_pool._standing is None and not any(map(leaks.alive, pids)), 5.0) < 5.0
    assert parallel()(delayed(tasks.square)(i) for i in range(3)) == [0, 1, 4]


def test_state_of_the_caller_is_not_seen(parallel: Make) -> None:
    parallel()(delayed(tasks.square)(i) for i in range(3))
    tasks.STATE["late"] = 1
    assert parallel()(delayed(tasks.recall)("late") for _ in range(3)) == [None] * 3


def test_on_a_pool(clean: None, fresh: Any, kind: Any) -> None:
    pool = fresh(2)
    if kind.name in ("serial", "joblib-threading", "joblib-sequential"):
        with pytest.raises((TypeError, PoolUnavailable), match="pool must be a MultiPool|no worker processes to lend"):
            SchwimmbadBackend(pool=pool)
        return
    workers = set(pool.broadcast(os.getpid))
    with as_backend(pool) as same:
        assert same is pool
        assert set(Parallel(batch_size=1)(delayed(tasks.pid)() for _ in range(20))) <= workers
        assert Parallel()(delayed(tasks.square)(i) for i in range(20)) == [i * i for i in range(20)]
        assert pool.map(tasks.square, range(4)) == [0, 1, 4, 9]
    with enter("schwimmbad", n_jobs=-1, pool=pool):
        assert Parallel()(delayed(tasks.square)(i) for i in range(5)) == [0, 1, 4, 9, 16]
    pool.close()
    if kind.cls != "JoblibPool":  # which starts again when it is used again
        with as_backend(pool), pytest.raises(PoolClosed):
            Parallel()(delayed(tasks.square)(i) for i in range(5))


def test_not_more_than_asked_for(gate: Gate) -> None:
    """Of a pool of three, n_jobs=2 runs two tasks at once, whatever joblib dispatches."""
    with MultiPool(3) as pool:
        done: list[Any] = []
        thread = threading.Thread(
            target=lambda: done.append(
                Parallel(n_jobs=2, backend=SchwimmbadBackend(pool=pool))(delayed(pass_gate)(gate.path, i) for i in range(6))
            )
        )
        thread.start()
        for _ in range(3):
            gate.wait_started(2)
            assert pool.map(tasks.square, range(3)) == [0, 1, 4]  # the third worker is free
            assert not gate.waiting()
            gate.open(2)
        thread.join(20)
        assert done == [list(range(6))]


def test_errors(parallel: Make, gate: Gate) -> None:
    with pytest.raises(ValueError, match="boom 3") as caught:
        parallel()(delayed(tasks.boom_on)(3, i) for i in range(10))
    assert "in boom_on" in str(caught.value.__cause__)
    start = time.monotonic()
    with pytest.raises(ZeroDivisionError):  # at once, though the first task goes on for ever, and its worker is ended
        parallel(batch_size=1)(delayed(f)(*a) for f, a in [(pass_gate, (gate.path,)), (divmod, (1, 0)), (abs, (1,))])
    assert time.monotonic() - start < 20
    assert parallel()(delayed(tasks.square)(i) for i in range(10)) == [i * i for i in range(10)]


def test_errors_in_the_tasks_themselves(parallel: Make) -> None:
    def broken(good: int) -> Any:
        for i in range(good):
            yield delayed(tasks.square)(i)
        raise KeyError("in the generator")

    for good in (0, 1, 40):
        with pytest.raises(KeyError, match="in the generator"):
            parallel(batch_size=1)(broken(good))
    with pytest.raises(Exception, match="pickle"):
        parallel()(delayed(tasks.identity)(threading.Lock()) for _ in range(3))
    assert parallel()(delayed(tasks.square)(i) for i in range(3)) == [0, 1, 4]


def test_a_worker_dies(nothing_stays: None, parallel: Make) -> None:
    with pytest.raises(WorkerLost, match=r"task 5 was lost.*SIGKILL") as caught:
        parallel(batch_size=1)(delayed(die)() if i == 5 else delayed(tasks.square)(i) for i in range(10))
    assert caught.value.index == 5
    assert parallel()(delayed(tasks.square)(i) for i in range(10)) == [i * i for i in range(10)]


def test_calls_of_one_object(parallel: Make) -> None:
    """As a context manager: what the first call was like means nothing for the second."""
    with parallel() as managed:
        assert managed(delayed(tasks.square)(i) for i in range(3000)) == [i * i for i in range(3000)]
        assert managed(delayed(pause)(0.05, i) for i in range(4)) == list(range(4))
        assert managed._backend._session.size == 1
        for bad in range(4):
            with pytest.raises(ValueError, match=f"boom {bad}"):
                managed(delayed(tasks.boom_on)(bad, i) for i in range(10))
            assert managed(delayed(tasks.square)(i) for i in range(3)) == [0, 1, 4]  # nothing of the failed one
        with pytest.raises(WorkerLost, match="task 2 was lost"):
            managed(delayed(die)() if i == 2 else delayed(pause)(0.2) for i in range(4))
        assert managed(delayed(tasks.square)(i) for i in range(10)) == [i * i for i in range(10)]


def die() -> None:
    os.kill(os.getpid(), 9)


def test_timeout(parallel: Make, gate: Gate) -> None:
    with pytest.raises(ProcessTimeout):
        parallel(timeout=0.1)(delayed(pass_gate)(gate.path, i) for i in range(3))
    assert parallel(timeout=20)(delayed(pause)(0.01, i) for i in range(6)) == list(range(6))


def test_pre_dispatch_bounds_what_is_drawn(parallel: Make, gate: Gate) -> None:
    drawn = []

    def source() -> Any:
        for i in range(20):
            drawn.append(i)
            yield delayed(pass_gate)(gate.path, i)

    out: list[Any] = []
    thread = threading.Thread(target=lambda: out.append(parallel(pre_dispatch=4, batch_size=1)(source())))
    thread.start()
    for k in range(20):
        gate.wait_started(1)
        assert len(drawn) <= 4 + k + 2, (k, drawn)  # joblib looks n_jobs calls ahead
        gate.open(1)
    thread.join(20)
    assert out == [list(range(20))]


def test_verbose(parallel: Make, capsys: pytest.CaptureFixture[str]) -> None:
    parallel(verbose=11)(delayed(tasks.square)(i) for i in range(12))
    err = capsys.readouterr().err
    assert "Using backend SchwimmbadBackend with 2 concurrent workers." in err
    assert "Done  12 out of  12" in err and "finished" in err


def counted(path: str, x: int) -> int:
    with open(path, "a") as file:
        file.write(f"{x}\n")
    return x * x


def test_memory_in_workers(parallel: Make, tmp_path: Path) -> None:
    memory = joblib.Memory(str(tmp_path / "cache"), verbose=0)
    log = str(tmp_path / "log")
    cached = memory.cache(counted, ignore=["path"])
    cached(log, 0)  # writes the function's source down: joblib 1.2 clears the cache if two do so at once and one reads half of it
    for _ in range(2):
        assert parallel()(delayed(cached)(log, i) for i in range(8)) == [i * i for i in range(8)]
    assert sorted(map(int, Path(log).read_text().split())) == list(range(8))


def nested(level: int) -> Any:
    backend, _ = joblib.parallel.get_active_backend()
    here = type(backend).__name__, threading.current_thread() is threading.main_thread(), backend.nesting_level
    if level == 0:
        return [here]
    return [here, *Parallel(n_jobs=2)(delayed(nested)(level - 1) for _ in range(2))[0]]


def test_nested_calls(parallel: Make) -> None:
    for found in parallel()(delayed(nested)(2) for _ in range(2)):
        assert [name for name, _, _ in found] == ["ThreadingBackend", "SequentialBackend", "SequentialBackend"]
        assert found[0][1] and not found[1][1]  # a task runs on the main thread of its worker, what it starts on others
    deep = parallel()(delayed(explicit)() for _ in range(2))
    assert deep == [[0, 1, 4]] * 2


def explicit() -> Any:
    import schwimmbad_go

    schwimmbad_go.register_joblib_backend()
    return Parallel(n_jobs=2, backend="schwimmbad")(delayed(tasks.square)(i) for i in range(3))


def limits(_: Any = None) -> dict[str, Any]:
    return {v: os.environ.get(v) for v in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def test_inner_threads(nothing_stays: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in limits():
        monkeypatch.delenv(name, raising=False)
    with enter("schwimmbad", n_jobs=2, inner_max_num_threads=3):
        assert Parallel()(delayed(limits)() for _ in range(2)) == [dict.fromkeys(limits(), "3")] * 2
    default = str(max(joblib.cpu_count() // 2, 1))
    with enter("schwimmbad", n_jobs=2):
        assert Parallel()(delayed(limits)() for _ in range(2)) == [dict.fromkeys(limits(), default)] * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # what the user has set stays
    with enter("schwimmbad", n_jobs=2):
        assert [found["OMP_NUM_THREADS"] for found in Parallel()(delayed(limits)() for _ in range(2))] == ["5", "5"]


def blas_threads(_: Any = None) -> set[int]:
    import numpy  # noqa: F401
    import threadpoolctl

    return {lib["num_threads"] for lib in threadpoolctl.threadpool_info()}


def test_inner_threads_on_a_pool() -> None:
    pytest.importorskip("threadpoolctl")
    pytest.importorskip("numpy")
    with MultiPool(2) as pool:
        before = pool.map(blas_threads, range(2))
        with as_backend(pool, inner_max_num_threads=1):
            Parallel()(delayed(blas_threads)() for _ in range(2))  # loads the libraries, where nobody has
            assert Parallel()(delayed(blas_threads)() for _ in range(2)) == [{1}, {1}]
        assert pool.map(blas_threads, range(2)) == before  # the pool's other tasks keep theirs


@options
def test_options_of_a_call(parallel: Make) -> None:
    with pytest.raises(TypeError, match="poool"):
        parallel(poool=3)([delayed(abs)(1)])
    with pytest.raises(TypeError, match="pool must be"):
        parallel(pool=3)([delayed(abs)(1)])
    with MultiPool(2) as pool:
        work = parallel(-1, pool=pool, batch_size=1)
        for _ in range(2):
            assert set(work(delayed(tasks.pid)() for _ in range(10))) <= set(pool.broadcast(os.getpid))
        with parallel(-1, pool=pool, idle_worker_timeout=3) as managed:
            assert managed(delayed(tasks.square)(i) for i in range(3)) == [0, 1, 4]


def test_wrong_options(parallel: Make) -> None:
    with pytest.raises(TypeError, match="pool must be"):
        enter("schwimmbad", pool=3)
    with pytest.raises(ValueError, match="n_jobs == 0"):
        parallel(0)([delayed(abs)(1)])
    with pytest.raises(ValueError, match="shared"):
        parallel(require="sharedmem")
    with pytest.raises(TypeError, match="workerz"):
        enter("schwimmbad", workerz=3)


def test_two_at_once(parallel: Make) -> None:
    """From several threads, on one standing pool, an error of one not being the other's."""
    out: dict[int, Any] = {}

    def body(k: int) -> None:
        for _ in range(5):
            try:
                out[k] = parallel()(delayed(tasks.boom_on if k == 2 else tasks.add)(5, i) for i in range(20))
            except ValueError as error:
                out[k] = str(error)

    threads = [threading.Thread(target=body, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(45)
    assert out == {0: [5 + i for i in range(20)], 1: [5 + i for i in range(20)], 2: "boom 5"}


def test_ctrl_c(tmp_path: Path) -> None:
    source = """
        import signal, sys, time
        from joblib import Parallel, delayed
        import schwimmbad_go
        schwimmbad_go.register_joblib_backend()

        def task(i):
            if i == 0:
                print("running", flush=True)
                time.sleep(60)
            return i

        for return_as in sys.argv[1:]:
            try:
                work = Parallel(n_jobs=2, backend="schwimmbad", **({"return_as": return_as} if return_as != "list" else {}))
                list(work(delayed(task)(i) for i in range(3)))
            except KeyboardInterrupt:
                print("caught", flush=True)
        print(Parallel(n_jobs=2, backend="schwimmbad")(delayed(abs)(-i) for i in range(3)))
        """
    modes = ["list", *(["generator"] if version() >= (1, 3) else []), *(["generator_unordered"] if version() >= (1, 4) else [])]
    with scripts.start(tmp_path, source, *modes) as script:
        for _ in modes:
            assert script.read_line() == "running"
            script.interrupt()
            line = script.read_line()
            assert line == "caught", (line, script.finish())
        code, out, err = script.finish()
        assert (code, out, err) == (0, "[0, 1, 2]\n", "")
        assert leaks.poll(lambda: not script.family(), 1.0) <= 1.0


@generators
@pytest.mark.parametrize("return_as", ["generator", pytest.param("generator_unordered", marks=unordered)])
def test_generators(parallel: Make, return_as: str) -> None:
    for batch_size in (1, "auto"):
        found = list(parallel(return_as=return_as, batch_size=batch_size)(delayed(tasks.square)(i) for i in range(200)))
        assert sorted(found) == [i * i for i in range(200)] and (return_as != "generator" or found == sorted(found))
    with pytest.raises(ValueError, match="boom 7"):
        list(parallel(return_as=return_as)(delayed(tasks.boom_on)(7, i) for i in range(20)))


@unordered
def test_unordered_as_they_come(parallel: Make, gate: Gate) -> None:
    found = parallel(return_as="generator_unordered", batch_size=1)(
        delayed(pass_gate_if)(gate.path, [0], i) for i in range(10)
    )
    assert [next(found) for _ in range(9)] == list(range(1, 10))
    gate.open()
    assert list(found) == [0]


@generators
def test_work_goes_on_while_nobody_waits(parallel: Make, gate: Gate) -> None:
    found = parallel(return_as="generator", batch_size=1)(delayed(pass_gate)(gate.path, i) for i in range(12))
    for _ in range(6):
        gate.wait_started(2)
        gate.open(2)
    assert list(found) == list(range(12))


@generators
@pytest.mark.parametrize("return_as", ["generator", pytest.param("generator_unordered", marks=unordered)])
def test_generators_closed_early(nothing_stays: None, parallel: Make, gate: Gate, return_as: str) -> None:
    found = parallel(return_as=return_as, batch_size=1, pre_dispatch=2)(
        delayed(pass_gate_if)(gate.path, range(1, 50), i) for i in range(50)
    )
    assert next(found) == 0
    gate.wait_started(1)  # a task runs, for ever
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joblib's: tasks were cancelled
        found.close()
    assert parallel()(delayed(tasks.square)(i) for i in range(3)) == [0, 1, 4]


@generators
@pytest.mark.parametrize("return_as", ["generator", pytest.param("generator_unordered", marks=unordered)])
def test_a_program_that_ends_in_the_middle(tmp_path: Path, return_as: str) -> None:
    source = """
        import sys, time
        from joblib import Parallel, delayed
        import schwimmbad_go
        schwimmbad_go.register_joblib_backend()
        work = Parallel(n_jobs=2, backend="schwimmbad", return_as=sys.argv[1], batch_size=1)
        found = work(delayed(time.sleep)(60 * (i > 0)) for i in range(10))
        print(next(found))
        """
    code, out, _ = scripts.run(tmp_path, source, return_as, flags=("-W", "ignore"))  # joblib's: tasks were cancelled
    assert (code, out) == (0, "None\n")


@generators
def test_generators_at_once(parallel: Make) -> None:
    """Also under parallel_config, where joblib has one backend object for all of them."""
    with joblib.parallel_config("schwimmbad", n_jobs=2):
        one = Parallel(return_as="generator")(delayed(tasks.add)(1, i) for i in range(30))
        two = Parallel(return_as="generator")(delayed(tasks.add)(2, i) for i in range(30))
        three = Parallel()(delayed(tasks.add)(3, i) for i in range(30))
        assert [next(one) + next(two) for _ in range(20)] == [3 + 2 * i for i in range(20)]
        assert list(one) + list(two) == [*range(21, 31), *range(22, 32)]
        assert three == [3 + i for i in range(30)]


@generators
def test_generator_with_timeout(parallel: Make, gate: Gate) -> None:
    parallel()(delayed(tasks.square)(i) for i in range(4))  # the workers have started
    found = parallel(return_as="generator", timeout=1.0)(delayed(pass_gate_if)(gate.path, [1], i) for i in range(3))
    assert next(found) == 0
    with pytest.raises(ProcessTimeout):
        next(found)


def test_nothing_is_left(nothing_stays: None, parallel: Make) -> None:
    for _ in range(3):
        parallel()(delayed(tasks.square)(i) for i in range(30))
    with pytest.raises(ValueError, match="boom"):
        parallel()(delayed(tasks.boom)(i) for i in range(30))


def test_in_a_forked_child(parallel: Make) -> None:
    parallel()(delayed(tasks.square)(i) for i in range(3))
    with MultiPool(1) as pool:  # its worker is a fork of this process
        assert pool.map(in_fork, [2]) == [([0, 1, 4], True)]


def in_fork(n: int) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = Parallel(n_jobs=n, backend="schwimmbad")(delayed(tasks.square)(i) for i in range(3))
    return found, any("forked" in str(w.message) for w in caught)


def test_without_joblib_nothing_is_imported() -> None:
    assert callable(schwimmbad_go.register_joblib_backend)
    assert "register_joblib_backend" in dir(schwimmbad_go)
