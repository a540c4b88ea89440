"""What JoblibPool does as joblib.Parallel documents it, over each kind of worker."""

from __future__ import annotations

import functools
import gc
import inspect
import itertools
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import leaks, scripts, tasks
from helpers.gates import Gate, pass_gate, pass_gate_if
from schwimmbad_go import JoblibPool
from schwimmbad_go.error import PoolUnavailable, TaskTimeout

BACKENDS = {
    "loky": {"n_jobs": 2}, "multiprocessing": {"n_jobs": 2, "backend": "multiprocessing"},
    "threading": {"n_jobs": 2, "backend": "threading"}, "sequential": {"n_jobs": 1},
}  # fmt: skip
PARALLEL = ["loky", "threading"]
QUICK = ["multiprocessing", "threading"]  # forked: no interpreter has to start


@pytest.fixture
def make() -> Iterator[Callable[..., JoblibPool]]:
    """Pools that are ended after the case."""
    made: list[JoblibPool] = []

    def one(backend: str, **options: Any) -> JoblibPool:
        made.append(JoblibPool(**{**BACKENDS[backend], **options}))
        return made[-1]

    yield one
    for pool in made:
        pool.terminate()
        pool.join()


Make = Callable[..., JoblibPool]


class Counted:
    """A source without a length, and how many tasks were drawn from it."""

    def __init__(self, n: int | None = None) -> None:
        self.n = n
        self.drawn = 0

    def __iter__(self) -> Iterator[int]:
        for i in itertools.count() if self.n is None else range(self.n):
            self.drawn += 1
            yield i


class TestReturnAs:
    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("how", ["generator", "generator_unordered"])
    def test_a_generator(self, make: Make, backend: str, how: str) -> None:
        pool = make(backend, return_as=how)
        results = pool.map(tasks.square, iter(range(200)))
        assert inspect.isgenerator(results)
        found = list(results)
        assert sorted(found) == [n * n for n in range(200)]
        if how == "generator":
            assert found == sorted(found)
        assert pool.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]  # a list, on every pool

    @pytest.mark.parametrize("backend", PARALLEL)
    def test_work_begins_with_the_call_and_results_come_before_its_end(self, make: Make, backend: str, gate: Gate) -> None:
        pool = make(backend, return_as="generator", batch_size=1)
        results = pool.map(functools.partial(pass_gate_if, gate.path, [5]), range(6))
        gate.wait_started()
        assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
        gate.open()
        assert list(results) == [5]

    @pytest.mark.parametrize("backend", QUICK)
    def test_as_completed(self, make: Make, backend: str, gate: Gate) -> None:
        pool = make(backend, return_as="generator_unordered", batch_size=1)
        results = pool.map(functools.partial(pass_gate_if, gate.path, [0]), range(4))
        assert sorted(next(results) for _ in range(3)) == [1, 2, 3]
        gate.open()
        assert list(results) == [0]

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_closed_early_it_draws_no_more(self, make: Make, backend: str) -> None:
        pool = make(backend, return_as="generator")
        source = Counted()
        results = pool.map(tasks.square, source)
        assert [next(results) for _ in range(3)] == [0, 1, 4]
        results.close()
        drawn = source.drawn
        assert list(itertools.islice(pool.map(abs, range(-3, 0)), 3)) == [3, 2, 1]
        assert source.drawn == drawn

    @pytest.mark.parametrize("backend", QUICK)
    def test_closed_before_its_first_result(self, make: Make, backend: str, gate: Gate) -> None:
        pool = make(backend, return_as="generator")
        pool.map(pass_gate, [gate.path] * 100).close()
        gate.open(4)  # those that run already
        assert list(pool.map(abs, [-1])) == [1]
        if backend == "multiprocessing":
            assert pool.statistics().lost_workers == 0

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_an_error_ends_it(self, make: Make, backend: str) -> None:
        pool = make(backend, return_as="generator")
        results = pool.map(functools.partial(tasks.boom_on, 3), range(6))
        with pytest.raises(ValueError, match="boom 3"):
            for _ in results:
                pass
        assert list(results) == []
        assert list(pool.map(abs, [-1])) == [1]

    @pytest.mark.parametrize("backend", ["threading", "sequential"])
    @pytest.mark.parametrize("how", ["generator", "generator_unordered"])
    def test_with_a_callback_the_calls_are_made_first(self, make: Make, backend: str, how: str) -> None:
        seen: list[int] = []
        results = make(backend, return_as=how).map(tasks.square, range(20), seen.append)
        assert sorted(seen) == [n * n for n in range(20)]
        assert list(results) == seen
        assert make(backend, return_as=how).map(tasks.square, range(3), seen.append, return_results=False) is None


class TestIntake:
    @pytest.mark.parametrize("backend", QUICK)
    @pytest.mark.parametrize("bound", [1, 2, 3, "2 * n_jobs"])
    def test_pre_dispatch_bounds_what_is_drawn(self, make: Make, backend: str, bound: Any) -> None:
        pool = make(backend, pre_dispatch=bound, batch_size=1)
        source, done, ahead = Counted(100), 0, []

        def callback(_: int) -> None:
            nonlocal done
            ahead.append(source.drawn - done)
            done += 1

        assert pool.map(tasks.square, source, callback, callback_order="completion") == [n * n for n in range(100)]
        limit = 4 if isinstance(bound, str) else bound
        # Results that came together are handed out one by one, and a new task may have been drawn for each.
        assert max(ahead) <= 2 * limit

    @pytest.mark.parametrize("backend", QUICK)
    def test_nothing_is_drawn_behind_busy_workers(self, make: Make, backend: str, gate: Gate) -> None:
        pool = make(backend, pre_dispatch=3, batch_size=1, return_as="generator_unordered")
        source = Counted(50)
        results = pool.map(functools.partial(pass_gate_if, gate.path, range(50)), source)
        gate.wait_started(2)
        gate.open(1)
        first = next(results)  # the gate lets through whoever comes
        gate.wait_started(1)
        assert source.drawn <= 4
        gate.open(49)
        assert sorted([first, *results]) == list(range(50))

    @pytest.mark.parametrize("backend", QUICK)
    def test_all_is_drawn_before_anything_runs(self, make: Make, backend: str) -> None:
        pool = make(backend, pre_dispatch="all")
        source, drawn = Counted(50), []
        pool.map(tasks.square, source, lambda _: drawn.append(source.drawn))
        assert drawn == [50] * 50
        endless = pool.imap(tasks.square, Counted())
        assert next(endless) == 0  # imap stays lazy
        endless.close()

    @pytest.mark.parametrize("backend", QUICK)
    def test_an_error_of_the_source(self, make: Make, backend: str) -> None:
        def source() -> Iterator[int]:
            yield from range(5)
            raise KeyError("no more")

        pool = make(backend)
        with pytest.raises(KeyError, match="no more"):
            pool.map(tasks.square, source())
        assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]

    @pytest.mark.parametrize("backend", QUICK)
    def test_batch_size_is_tasks_per_message(self, make: Make, backend: str) -> None:
        pool = make(backend, batch_size=25)
        pool.map(tasks.square, range(100))
        assert pool.statistics().chunks == 4
        pool.map(tasks.square, range(100), chunksize=50)  # the call's own counts
        assert pool.statistics().chunks == 6


class TestVerbose:
    @pytest.mark.parametrize("backend", ["threading", "sequential"])
    def test_reports(self, make: Make, backend: str, capfd: pytest.CaptureFixture[str]) -> None:
        pool = make(backend, verbose=11)
        pool.map(tasks.square, range(4), chunksize=1)
        out, err = capfd.readouterr()
        lines = err.splitlines()
        assert out == ""
        assert all(line.startswith(f"[JoblibPool(n_jobs={pool._processes})] ") for line in lines)
        assert ("threads" if backend == "threading" else "one by one") in lines[0]
        assert "all 4 tasks done" in lines[-1]
        assert list(pool.imap(tasks.square, iter(range(3)))) == [0, 1, 4]
        assert "all 3 tasks done" in capfd.readouterr().err

    def test_to_stdout_from_50_on(self, make: Make, capfd: pytest.CaptureFixture[str]) -> None:
        assert make("threading", verbose=50).map(tasks.square, range(100)) == [n * n for n in range(100)]
        out, err = capfd.readouterr()
        assert err == "" and "all 100 tasks done" in out

    @pytest.mark.parametrize(("verbose", "least", "most"), [(1, 3, 10), (5, 6, 15), (10, 40, 60), (11, 1000, 1100)])
    def test_the_more_the_higher(self, make: Make, capfd: pytest.CaptureFixture[str], verbose: int, least: int, most: int) -> None:
        make("sequential", verbose=verbose).map(tasks.square, range(1000))
        assert least <= len(capfd.readouterr().err.splitlines()) <= most

    def test_silent_by_default(self, make: Make, capfd: pytest.CaptureFixture[str]) -> None:
        make("threading").map(tasks.square, range(100))
        assert capfd.readouterr() == ("", "")

    def test_spans(self) -> None:
        from schwimmbad_go._jl_progress import _span

        assert [_span(s) for s in (0.04, 59.94, 61, 3600, 7260)] == ["0.0 s", "59.9 s", "1 min 01 s", "1 h 00 min", "2 h 01 min"]


class TestTimeout:
    @pytest.mark.parametrize("backend", PARALLEL)
    def test_a_task_above_it(self, make: Make, backend: str, gate: Gate) -> None:
        pool = make(backend, timeout=0.2)
        assert pool.map(abs, range(-3, 0)) == [3, 2, 1]
        with pytest.raises(TaskTimeout) as caught:
            pool.map(functools.partial(pass_gate_if, gate.path, [1]), range(3))
        assert isinstance(caught.value, TimeoutError)
        assert (caught.value.index, caught.value.timeout) == (1, 0.2)
        assert pool.map(abs, range(-3, 0)) == [3, 2, 1]
        gate.open(2)

    def test_not_of_sequential_ones(self, make: Make) -> None:
        assert make("sequential", timeout=0.001).map(time.sleep, [0.01]) == [None]

    def test_in_a_generator_over_threads(self, make: Make, gate: Gate) -> None:
        pool = make("threading", timeout=0.1, return_as="generator")
        results = pool.map(functools.partial(pass_gate_if, gate.path, [1]), range(2), chunksize=1)
        assert next(results) == 0
        with pytest.raises(TaskTimeout):
            next(results)
        gate.open()

    def test_what_threads_cannot_do_is_refused(self, make: Make) -> None:
        pool = make("threading")
        for call in (
            lambda: pool.map(abs, [1], timeout=1, return_exceptions=True), lambda: pool.map(abs, [1], timeout=1, retries=1),
            lambda: pool.imap(abs, [1], timeout=1), lambda: pool.map_async(abs, [1], timeout=1),
            lambda: pool.apply_async(abs, [1], timeout=1),
        ):  # fmt: skip
            with pytest.raises(PoolUnavailable, match="needs worker processes"):
                call()
        assert pool.map(abs, [-1], timeout=1) == [1]


class TestLife:
    @pytest.mark.parametrize("backend", QUICK)
    def test_close_ends_the_workers_and_the_next_call_starts_new_ones(self, make: Make, backend: str) -> None:
        first = make(backend)
        first.map(abs, [1])
        first.terminate()  # the engine is loaded
        with leaks.nothing_left():
            pool = make(backend)
            before = set(pool.broadcast(tasks.place))
            pool.close()
            pool.close()
            pool.join()
            if backend == "multiprocessing":
                assert not before & set(pool.broadcast(tasks.place))
            assert pool.map(abs, [-1]) == [1]
            pool.terminate()
            pool.terminate()
            assert pool.map(abs, [-1]) == [1]
            pool.close()

    @pytest.mark.parametrize("backend", QUICK)
    def test_close_does_not_cut_off_what_is_under_way(self, make: Make, backend: str, gate: Gate) -> None:
        pool = make(backend)
        job = pool.apply_async(pass_gate, (gate.path, 7))
        half = pool.imap(tasks.square, range(1000))
        assert next(half) == 0
        gate.wait_started()
        pool.close()
        assert not job.ready()
        gate.open()
        assert list(half) == [n * n for n in range(1, 1000)]
        pool.join()
        assert job.get(0) == 7

    def test_close_within_a_callback(self, make: Make) -> None:
        pool = make("threading")
        seen: list[int] = []

        def callback(value: int) -> None:
            seen.append(value)
            pool.close()

        assert pool.map(tasks.square, range(20), callback) == seen == [n * n for n in range(20)]
        pool.join()

    def test_nothing_starts_before_the_first_call(self, make: Make) -> None:
        with leaks.nothing_left():
            before = threading.active_count()
            pools = [make(backend) for backend in BACKENDS]
            assert [pool._processes for pool in pools] == [2, 2, 2, 1]
            assert threading.active_count() == before
            assert all(not pool._runners for pool in pools)

    def test_it_travels(self, make: Make) -> None:
        pool = make("loky", initializer=tasks.remember, initargs=("key", 5))
        back = pickle.loads(pickle.dumps(pool))
        assert (back.args, back.kwargs) == (pool.args, pool.kwargs)
        assert back.map(tasks.recall, ["key"]) == [5]
        back.terminate()

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_attributes_can_be_assigned(self, make: Make, backend: str) -> None:
        pool: Any = make(backend)
        pool.imap = pool.map
        assert list(pool.imap(abs, [-1])) == [1]
        assert (pool.size, pool.rank, pool.is_master(), pool.is_worker(), pool.wait()) == (0, 0, True, False, None)


class TestNesting:
    def test_a_pool_made_in_a_worker(self, make: Make) -> None:
        """Threads in the first level, nothing parallel below it, unless somebody asks."""
        assert make("loky").map(nested, [2, 2]) == [("threads", 2, [1, 2]), ("threads", 2, [1, 2])]
        assert make("threading").map(nested, [2]) == [("threads", 2, [1, 2])]
        assert make("loky").map(nested_twice, [2]) == [("sequential", 1, [1, 2])]
        assert make("multiprocessing").map(nested, [2]) == [("sequential", 1, [1, 2])]  # a fork cannot have an engine

    def test_its_own_pool_in_a_thread(self, make: Make) -> None:
        """Every thread of the pool may be in such a task: nobody would be left to run what they ask for."""
        pool = make("threading")
        assert pool.map(lambda n: pool.map(abs, range(-n, 0)), range(8)) == [list(range(n, 0, -1)) for n in range(8)]
        assert pool.map(lambda n: (pool._processes, pool.apply(abs, (-n,))), range(4), chunksize=1) == [(1, n) for n in range(4)]

    @pytest.mark.parametrize("backend", ["loky", "multiprocessing", "threading"])
    def test_joblib_in_a_task(self, make: Make, backend: str) -> None:
        pytest.importorskip("joblib")
        kinds = make(backend).map(joblib_backend, range(4))
        assert set(kinds) == {("ThreadingBackend", 1)}

    def test_libraries_get_their_share_of_the_cpus(self, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
        pool = make("loky")
        assert (set(pool.map(os.getenv, ["OMP_NUM_THREADS"] * 4)), pool._plan().kind) == ({"1"}, "processes")
        assert "OMP_NUM_THREADS" not in os.environ
        assert set(make("loky", inner_max_num_threads=3).map(os.getenv, ["OMP_NUM_THREADS"] * 4)) == {"3"}


def nested(n: int) -> tuple[str, int, list[int]]:
    with JoblibPool(n) as pool:
        return pool._plan().kind, pool._processes, pool.map(abs, [-1, -2])


def nested_twice(n: int) -> Any:
    with JoblibPool(n) as pool:
        return pool.map(nested, [n])[0]


def joblib_backend(_: int) -> tuple[str, int | None]:
    from joblib.parallel import get_active_backend

    backend = get_active_backend()[0]
    return type(backend).__name__, backend.nesting_level


class TestFiles:
    @pytest.mark.parametrize("backend", PARALLEL)
    def test_what_tasks_write_into_a_mapped_file_is_there(self, make: Make, backend: str, tmp_path: Path) -> None:
        np = pytest.importorskip("numpy")
        out = np.memmap(tmp_path / "out", dtype="f8", shape=(6,), mode="w+")
        pool = make(backend)
        assert pool.map(write_at, [(out, i) for i in range(6)]) == [None] * 6
        assert list(out) == [0.0, 1.0, 4.0, 9.0, 16.0, 25.0]
        assert pool.map(functools.partial(write_into, out[3:]), range(3)) == [None] * 3
        assert list(out) == [0.0, 1.0, 4.0, 0.0, 2.0, 4.0]

    def test_arrays_arrive_as_private_copies(self, make: Make) -> None:
        np = pytest.importorskip("numpy")
        data = np.zeros(300_000)
        assert make("loky").map(write_at, [(data, i) for i in range(4)]) == [None] * 4
        assert not data.any()


def write_at(task: tuple[Any, int]) -> None:
    array, i = task
    array[i] = i * i


def write_into(array: Any, i: int) -> None:
    array[i] = 2 * i


class TestForeign:
    """Backends that joblib knows and this package does not."""

    @pytest.fixture
    def name(self) -> Iterator[str]:
        parallel = pytest.importorskip("joblib.parallel")

        class Mine(parallel.ThreadingBackend):  # type: ignore[misc, name-defined]
            pass

        parallel.register_parallel_backend("mine", Mine)
        yield "mine"
        parallel.BACKENDS.pop("mine")

    def test_maps(self, name: str) -> None:
        for backend in (name, __import__("joblib").parallel.BACKENDS[name]()):
            with JoblibPool(2, backend=backend) as pool:
                seen: list[int] = []
                assert pool._processes == 2
                assert pool.map(tasks.square, range(10)) == [n * n for n in range(10)]
                assert pool.map(tasks.square, iter(range(10)), seen.append) == seen == [n * n for n in range(10)]
                assert pool.starmap(pow, [(2, 3), (3, 2)]) == [8, 9]
                assert pool.apply(pow, (2, 3)) == 8
                assert list(itertools.islice(pool.imap(tasks.square, itertools.count()), 5)) == [0, 1, 4, 9, 16]
                assert sorted(pool.imap_unordered(tasks.square, range(5))) == [0, 1, 4, 9, 16]
                assert pool.map_async(tasks.square, range(3)).get() == [0, 1, 4]
                assert pool.batched_map(tasks.batch_sum, [1, 2, 3]) == [((0, 2), 3), ((2, 3), 3)]

    def test_errors(self, name: str) -> None:
        with JoblibPool(2, backend=name) as pool:
            fail = functools.partial(tasks.boom_on, 1)
            with pytest.raises(ValueError, match="boom 1"):
                pool.map(fail, range(3))
            results = pool.map(fail, range(3), return_exceptions=True)
            assert results[0::2] == [0, 2] and isinstance(results[1], ValueError)
            each = pool.imap(fail, range(3))
            assert next(each) == 0
            with pytest.raises(ValueError, match="boom 1"):
                next(each)
            assert next(each) == 2
            assert pool.map(functools.partial(fail_once, set()), range(3), retries=1) == [0, 1, 2]

    def test_what_it_cannot_do_names_the_backend(self, name: str) -> None:
        with JoblibPool(2, backend=name) as pool:
            for call in (lambda: pool.broadcast(abs, 1), lambda: pool.map(abs, [1], timeout=1), pool.statistics):
                with pytest.raises(NotImplementedError, match=r"Mine|through joblib"):
                    call()

    def test_by_a_context(self, name: str) -> None:
        joblib = pytest.importorskip("joblib")
        enter = getattr(joblib, "parallel_config", None) or joblib.parallel_backend
        pool = JoblibPool()
        with enter(name, n_jobs=3):
            assert (pool._plan().kind, pool._processes) == ("joblib", 3)
            assert set(pool.map(tasks.pid, range(10))) == {os.getpid()}
            results = pool.imap(tasks.square, range(5))
        assert list(results) == [0, 1, 4, 9, 16]
        assert pool._plan().kind == "sequential"

    def test_generators(self, name: str) -> None:
        for how in ("generator", "generator_unordered"):
            with JoblibPool(2, backend=name, return_as=how) as pool:
                assert sorted(pool.map(tasks.square, iter(range(5)))) == [0, 1, 4, 9, 16]

    def test_unknown_ones_fail_in_the_constructor(self) -> None:
        pytest.importorskip("joblib")
        with pytest.raises(ValueError, match="Invalid backend: nonsense"):
            JoblibPool(2, backend="nonsense")


def fail_once(seen: set[int], n: int) -> int:
    if n not in seen:
        seen.add(n)
        raise ValueError(n)
    return n


class TestAsBackend:
    def test_joblib_runs_on_the_pools_workers(self, make: Make) -> None:
        joblib = pytest.importorskip("joblib")
        pool = make("multiprocessing")
        own = set(pool.broadcast(tasks.pid))
        with pool.as_backend() as lent:
            assert lent is pool
            assert set(joblib.Parallel(n_jobs=2)(joblib.delayed(tasks.pid)(i) for i in range(8))) <= own
            assert joblib.effective_n_jobs(-1) == 2
            assert set(pool.map(tasks.pid, range(8))) <= own
        assert pool.map(tasks.square, [3]) == [9]

    def test_pools_without_processes_say_so(self, make: Make) -> None:
        pytest.importorskip("joblib")
        for backend, text in (("threading", "threads"), ("sequential", "one by one")):
            with pytest.raises(NotImplementedError, match=text), make(backend).as_backend():
                pass


def test_an_unguarded_script(tmp_path: Path) -> None:
    """Workers do not run it again: joblib's users leave the guard out."""
    source = """
        from schwimmbad_go import JoblibPool
        factor = 3
        class Number:
            def __init__(self, n):
                self.n = n
        def work(n):
            return Number(factor * n)
        with JoblibPool(2) as pool:
            print([type(x) is Number and x.n for x in pool.map(work, range(3))])
            factor = 4
            print([x.n for x in pool.map(work, range(3))])
    """
    assert scripts.succeed(tmp_path, source) == "[0, 3, 6]\n[0, 4, 8]\n"


def test_dropped_pools_leave_nothing(make: Make) -> None:
    make("threading").map(abs, [1])
    with leaks.nothing_left():
        for backend in QUICK:
            JoblibPool(**BACKENDS[backend]).map(abs, [1])  # type: ignore[arg-type]
        gc.collect()
