"""The arguments of JoblibPool: what they may be, and what joblib resolves them to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import scripts
from schwimmbad_go import JoblibPool, _jl_options, _jl_worker
from schwimmbad_go._jl_options import Options

BAD = [
    ({"n_jobs": 0}, ValueError, "n_jobs == 0 in Parallel has no meaning"),
    ({"processes": 0}, ValueError, "n_jobs == 0"),
    ({"n_jobs": "many"}, ValueError, "n_jobs could not be converted to int"),
    ({"n_jobs": [2]}, TypeError, "n_jobs could not be converted to int"),
    ({"return_as": "tuple"}, ValueError, "Expected `return_as` parameter"),
    ({"batch_size": 0}, ValueError, "batch_size must be 'auto' or a positive integer"),
    ({"batch_size": 2.5}, ValueError, "batch_size must be"),
    ({"pre_dispatch": 0}, ValueError, "at least 1, not 0: nothing would run"),
    ({"pre_dispatch": "n_jobs - 2"}, ValueError, "at least 1"),
    ({"pre_dispatch": "2 * n_job"}, ValueError, "arithmetic expression of n_jobs"),
    ({"pre_dispatch": "__import__('os')"}, ValueError, "arithmetic expression"),
    ({"pre_dispatch": [1]}, TypeError, "pre_dispatch must be"),
    ({"timeout": 0}, ValueError, "timeout must be a number of seconds > 0"),
    ({"timeout": "1"}, TypeError, "timeout must be a number"),
    ({"verbose": "yes"}, TypeError, "verbose must be a number"),
    ({"max_nbytes": "1X"}, ValueError, "max_nbytes must be"),
    ({"mmap_mode": "x"}, ValueError, "mmap_mode must be"),
    ({"temp_folder": 3}, TypeError, "PathLike"),
    ({"prefer": "speed"}, ValueError, "prefer='speed' is not a valid backend hint"),
    ({"require": "speed"}, ValueError, "require='speed' is not a valid backend constraint"),
    ({"prefer": "processes", "require": "sharedmem"}, ValueError, "inconsistent settings"),
    ({"backend": "loky", "require": "sharedmem"}, ValueError, "does not support shared memory"),
    ({"initializer": 3}, TypeError, "initializer must be a callable"),
    ({"maxtasksperchild": 0}, ValueError, "maxtasksperchild"),
    ({"start_method": "teleport"}, ValueError, "start methods are"),
    ({"inner_max_num_threads": 0}, ValueError, "inner_max_num_threads"),
    ({"n_job": 2}, TypeError, "unexpected keyword argument 'n_job'"),
    ({"backend": "threading", "njobs": 2}, TypeError, "unexpected keyword argument 'njobs'"),
]


@pytest.mark.parametrize(("arguments", "kind", "text"), BAD, ids=[str(b[0]) for b in BAD])
def test_wrong_ones_fail_in_the_constructor(arguments: dict[str, Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text.replace("(", "\\(").replace("*", "\\*")):
        JoblibPool(**arguments)


def test_positions_are_joblibs_old_and_new() -> None:
    new = Options((2, "threading", "generator", 5, 1.5, "all", 3, None, "1M", "r", None, None), {})
    assert (new.n_jobs, new.backend, new.return_as, new.timeout, new.pre_dispatch, new.batch_size) == (
        2, "threading", "generator", 1.5, "all", 3,
    )  # fmt: skip
    old = Options((2, "threading", 5, 1.5, "all", 3, None, "1M", "r", None, None), {})
    assert (old.return_as, old.given["verbose"], old.timeout, old.pre_dispatch, old.batch_size) == ("list", 5, 1.5, "all", 3)
    with pytest.raises(TypeError, match="at most 12"):
        JoblibPool(*new.given.values(), 1)
    with pytest.raises(TypeError, match="multiple values for argument 'n_jobs'"):
        JoblibPool(2, n_jobs=2)


def test_processes_means_n_jobs_unless_that_is_given() -> None:
    assert Options((), {"processes": 3}).n_jobs == 3
    assert Options((2,), {"processes": 3}).n_jobs == 2
    assert Options((), {"n_jobs": None, "processes": 3}).n_jobs == 3


def test_a_context_of_multiprocessing_is_a_backend() -> None:
    import multiprocessing

    plan = JoblibPool(2, backend=multiprocessing.get_context("spawn"))._plan()
    assert (plan.kind, plan.method) == ("processes", "spawn")


def test_pre_dispatch_is_an_expression_of_n_jobs() -> None:
    values = {"2 * n_jobs": 8, "n_jobs": 4, "3*n_jobs//2 + 1": 7, "1.5 * n_jobs": 6, "-(-n_jobs)": 4, 5: 5, "7": 7}
    assert {text: Options((), {"pre_dispatch": text}).ahead(4) for text in values} == values
    assert Options((), {"pre_dispatch": "all"}).ahead(4) is None
    assert Options((), {"pre_dispatch": "n_jobs - 1"}).ahead(1) == 1  # joblib does not look at it with one job


def test_what_it_says_of_itself() -> None:
    pool = JoblibPool(2, backend="threading")
    assert repr(pool) == "<schwimmbad_go.jl.JoblibPool(2, backend='threading')>"
    assert (pool.args, pool.kwargs) == ((2,), {"backend": "threading"})


@pytest.mark.parametrize("arguments", [{}, {"backend": "sequential", "n_jobs": 4}, {"n_jobs": 1, "backend": "threading"}])
def test_one_job_runs_in_the_caller(arguments: dict[str, Any]) -> None:
    import os

    pool = JoblibPool(**arguments)
    assert pool.map(lambda _: os.getpid(), [1]) == [os.getpid()]
    assert pool._processes == 1
    with pytest.raises(NotImplementedError, match="in this process, one by one"):
        pool.statistics()


def test_limits_for_the_threads_of_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert _jl_worker.limits(2, 8, None)["OMP_NUM_THREADS"] == "4"
    assert _jl_worker.limits(16, 8, None)["OMP_NUM_THREADS"] == "1"
    assert "MKL_NUM_THREADS" not in _jl_worker.limits(2, 8, None)  # the user's own counts
    assert _jl_worker.limits(2, 8, 3)["MKL_NUM_THREADS"] == "3"  # but for what he says of the workers


class TestAsJoblibResolves:
    """The rules that stand here, for when joblib is not loaded, are joblib's."""

    CALLS = [  # noqa: RUF012
        {}, {"n_jobs": None}, {"n_jobs": 1}, {"n_jobs": 3}, {"n_jobs": -1}, {"n_jobs": -2}, {"n_jobs": -1000}, {"n_jobs": 2.0},
        {"n_jobs": 3, "backend": "threading"}, {"n_jobs": -1, "backend": "multiprocessing"}, {"n_jobs": 3, "backend": "loky"},
        {"n_jobs": 3, "backend": "sequential"}, {"n_jobs": 3, "prefer": "threads"}, {"n_jobs": 3, "prefer": "processes"},
        {"n_jobs": 3, "require": "sharedmem"}, {"n_jobs": 3, "backend": "threading", "require": "sharedmem"}, {"verbose": 3},
    ]  # fmt: skip

    @pytest.mark.parametrize("most", [None, "5"])
    @pytest.mark.parametrize("arguments", CALLS, ids=str)
    def test_the_same_plan(self, arguments: dict[str, Any], most: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("joblib")
        if most is None:
            monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
        else:
            monkeypatch.setenv("LOKY_MAX_CPU_COUNT", most)
        options = Options((), arguments)
        assert options._own_plan() == options._joblib_plan()

    def test_contexts(self) -> None:
        joblib = pytest.importorskip("joblib")
        enter = getattr(joblib, "parallel_config", None) or joblib.parallel_backend
        pool = JoblibPool()
        asked = JoblibPool(2, backend="threading")
        assert pool._processes == 1
        with enter("threading", n_jobs=3):
            assert (pool._plan().kind, pool._processes) == ("threads", 3)
            assert asked._processes == 2
            with enter("multiprocessing", n_jobs=2):
                assert (pool._plan().kind, pool._plan().method, pool._processes) == ("processes", "fork", 2)
                assert JoblibPool(3, require="sharedmem")._plan().kind == "threads"
            assert pool._processes == 3
        assert pool._processes == 1
        assert (asked._plan().kind, asked._processes) == ("threads", 2)

    def test_one_pool_in_several_contexts(self, clean_threads: None) -> None:
        """Each call runs as its own context says; what the earlier one used goes."""
        joblib = pytest.importorskip("joblib")
        enter = getattr(joblib, "parallel_config", None) or joblib.parallel_backend
        with JoblibPool() as pool:
            for n in (2, 3, 1, 2):
                with enter("threading", n_jobs=n):
                    assert len(pool.broadcast(abs, 1)) == n
                    results = pool.imap(abs, range(-50, 0))
                assert list(results) == list(range(50, 0, -1))  # begun in the context, read outside of it


@pytest.fixture
def clean_threads() -> Any:
    from helpers import leaks

    with JoblibPool(2, backend="threading") as first:
        first.map(abs, [1])
    with leaks.nothing_left():
        yield


NO_JOBLIB = """
import sys
sys.modules["joblib"] = None  # as if it were not installed
import schwimmbad_go
from schwimmbad_go import JoblibPool, jl

if __name__ == "__main__":
    assert (jl.Parallel, jl.delayed) == (None, None)
    assert JoblibPool.enabled()
    for arguments in ({}, {"backend": "multiprocessing"}, {"backend": "threading"}, {"backend": "sequential"}):
        with JoblibPool(2, **arguments) as pool:
            print(pool.map(abs, [-1, -2]), pool._processes)
    try:
        JoblibPool(2, backend="dask")
    except ImportError as error:
        print(error)
"""


def test_without_joblib(tmp_path: Path) -> None:
    out = scripts.succeed(tmp_path, NO_JOBLIB).splitlines()
    assert out[:4] == ["[1, 2] 2", "[1, 2] 2", "[1, 2] 2", "[1, 2] 1"]
    assert out[4].startswith("joblib is required to use the JoblibPool with backend 'dask'")
    assert len(out) == 5


def test_joblib_is_not_loaded_unasked(tmp_path: Path) -> None:
    """It takes longer than starting the workers."""
    source = """
        import sys
        from schwimmbad_go import JoblibPool
        if __name__ == "__main__":
            with JoblibPool(2) as pool:
                print(pool.broadcast(eval, '"joblib" in __import__("sys").modules'), "joblib" in sys.modules)
    """
    assert scripts.succeed(tmp_path, source) == "[False, False] False\n"


def test_surroundings_of_an_unknown_joblib() -> None:
    """A joblib that keeps its contexts elsewhere is asked at each call."""
    assert _jl_options._surroundings(object()) is None
