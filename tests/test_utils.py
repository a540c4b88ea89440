"""batch_tasks, the deprecation decorator behind it, choose_pool, and what importing the package does."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import schwimmbad_go
from schwimmbad_go.decorators import deprecated_renamed_argument
from schwimmbad_go.utils import batch_tasks


class TestBatchTasks:
    def test_ranges(self) -> None:
        assert batch_tasks(3, n_tasks=8) == [(0, 3), (3, 6), (6, 8)]
        assert batch_tasks(2, 4) == [(0, 2), (2, 4)]

    def test_no_more_batches_than_tasks(self) -> None:
        assert batch_tasks(100, n_tasks=2) == [(0, 1), (1, 2)]

    def test_the_table(self) -> None:
        """The rows of the table in the docstring."""
        data = "abc"
        assert batch_tasks(2, n_tasks=3, include_idx=False) == [(0, 2), (2, 3)]
        assert batch_tasks(2, n_tasks=3, args=(9,)) == [((0, 2), 9), ((2, 3), 9)]
        assert batch_tasks(2, n_tasks=3, args=(9,), include_idx=False) == [[9], [9]]
        assert batch_tasks(2, data=data) == [((0, 2), ["a", "b"]), ((2, 3), ["c"])]
        assert batch_tasks(2, data=data, include_idx=False) == [["a", "b"], ["c"]]
        assert batch_tasks(2, data=data, args=[9]) == [((0, 2), ["a", "b"], 9), ((2, 3), ["c"], 9)]
        assert batch_tasks(2, data=data, args=[9], include_idx=False) == [[["a", "b"], 9], [["c"], 9]]

    def test_types_of_the_batches(self) -> None:
        assert type(batch_tasks(1, data=[1], args=(2,))[0]) is tuple
        assert type(batch_tasks(1, data=[1], args=(2,), include_idx=False)[0]) is list

    @pytest.mark.parametrize("n_batches", [1, 2, 5, 13, 40])
    @pytest.mark.parametrize("n_tasks", [1, 2, 13, 37])
    def test_all_tasks_once_in_order_in_batches_of_equal_size(self, n_batches: int, n_tasks: int) -> None:
        batches = batch_tasks(n_batches, data=range(n_tasks), include_idx=False)
        assert [task for batch in batches for task in batch] == list(range(n_tasks))
        sizes = [len(batch) for batch in batches]
        assert sizes == sorted(sizes, reverse=True)
        assert max(sizes) - min(sizes) <= 1
        assert len(batches) == min(n_batches, n_tasks)

    def test_start_idx_shifts_labels_only(self) -> None:
        assert batch_tasks(2, data=[1, 2, 3, 4], start_idx=2) == [((2, 4), [1, 2]), ((4, 6), [3, 4])]
        assert batch_tasks(2, n_tasks=4, start_idx=2) == [(2, 4), (4, 6)]

    def test_data_may_be_any_iterable(self) -> None:
        assert batch_tasks(2, data=(x for x in range(3))) == [((0, 2), [0, 1]), ((2, 3), [2])]
        np = pytest.importorskip("numpy")
        ((_, rows),) = batch_tasks(1, data=np.eye(2))
        assert type(rows) is list
        assert [list(row) for row in rows] == [[1, 0], [0, 1]]

    @pytest.mark.parametrize("wrong", [{}, {"n_tasks": 3, "data": [1, 2, 3]}])
    def test_one_of_n_tasks_and_data(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"^you must pass one of n_tasks or data \(not both\)$"):
            batch_tasks(2, **wrong)

    @pytest.mark.parametrize("wrong", [(0, 3), (-1, 3), (2, 0), (2, -1)])
    def test_something_to_split(self, wrong: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match="^n_batches and n_tasks must be > 0$"):
            batch_tasks(*wrong)

    def test_no_data(self) -> None:
        with pytest.raises(ValueError, match="^n_batches and n_tasks must be > 0$"):
            batch_tasks(2, data=[])

    def test_arr_warns_at_the_callers_line(self) -> None:
        text = (
            '"arr" was deprecated in version v0.4 and will be removed in a future version. '
            'Use argument "data" instead.'
        )
        with pytest.warns(DeprecationWarning, match=f"^{re.escape(text)}$") as caught:
            assert batch_tasks(1, arr=[1]) == [((0, 1), [1])]
        assert caught[0].filename == __file__

    def test_arr_and_data(self) -> None:
        with (
            pytest.warns(DeprecationWarning),
            pytest.raises(TypeError, match='^cannot specify both "arr" and "data".$'),
        ):
            batch_tasks(1, arr=[1], data=[1])
        with pytest.warns(DeprecationWarning), pytest.raises(TypeError, match="both"):
            batch_tasks(1, None, [1], arr=[1])


class TestRenamedArgument:
    def test_silent_under_the_new_name(self) -> None:
        @deprecated_renamed_argument("old", "new", "1.0")
        def f(new: int) -> int:
            """Doc."""
            return new

        assert (f(1), f(new=2), f.__doc__) == (1, 2, "Doc.")

    def test_several_names(self) -> None:
        @deprecated_renamed_argument(("a", "b"), ("alpha", "beta"), ("1", "2"))
        def f(alpha: int, beta: int) -> tuple[int, int]:
            return alpha, beta

        with pytest.warns(DeprecationWarning) as caught:
            assert f(a=1, b=2) == (1, 2)
        assert [str(one.message).split()[5] for one in caught] == ["1", "2"]

    def test_relax(self) -> None:
        @deprecated_renamed_argument("old", "new", "1.0", relax=True, warning_type=FutureWarning)
        def f(new: int) -> int:
            return new

        with pytest.warns(FutureWarning), pytest.warns(UserWarning, match='Using the value of "new"'):
            assert f(old=1, new=2) == 2

    def test_pending(self) -> None:
        @deprecated_renamed_argument("old", "new", "1.0", pending=True)
        def f(new: int) -> int:
            return new

        assert f(old=1) == 1

    def test_no_successor(self) -> None:
        @deprecated_renamed_argument("old", None, "1.0", alternative="g()")
        def f(x: int, old: int = 0) -> tuple[int, int]:
            return x, old

        assert f(1) == (1, 0)
        with pytest.warns(DeprecationWarning, match=r"Use g\(\) instead"):
            assert f(1, old=2) == (1, 2)
        with pytest.warns(DeprecationWarning):
            assert f(1, 2) == (1, 2)

    def test_in_kwargs(self) -> None:
        @deprecated_renamed_argument("old", "new", "1.0", arg_in_kwargs=True, message="say new")
        def f(**kwargs: int) -> dict[str, int]:
            return kwargs

        with pytest.warns(DeprecationWarning, match="^say new$"):
            assert f(old=1) == {"new": 1}

    def test_wrong_use(self) -> None:
        with pytest.raises(TypeError, match='"new" is no argument of'):
            deprecated_renamed_argument("old", "new", "1.0")(lambda x: x)
        with pytest.raises(TypeError, match='cannot rename "args"'):
            deprecated_renamed_argument("old", "args", "1.0")(lambda *args: args)


class TestChoosePool:
    def test_serial(self) -> None:
        assert type(schwimmbad_go.choose_pool()) is schwimmbad_go.SerialPool
        assert type(schwimmbad_go.choose_pool(False, 1)) is schwimmbad_go.SerialPool
        other = schwimmbad_go.choose_pool(processes=1, use_dill=True, comm=None)
        assert type(other) is schwimmbad_go.SerialPool

    def test_multi(self) -> None:
        with schwimmbad_go.choose_pool(processes=2, use_dill=True, comm=None) as pool:
            assert type(pool) is schwimmbad_go.MultiPool
            assert pool.size == 2

    def test_mpi_outside_of_mpi(self) -> None:
        with pytest.raises(SystemError, match="^Tried to run with MPI but MPIPool not enabled."):
            schwimmbad_go.choose_pool(mpi=True, processes=4)


class TestModules:
    def test_names(self) -> None:
        from schwimmbad_go.mpi import MPI, _dummy_callback

        assert MPI is None
        assert _dummy_callback(1) is None


class TestImport:
    def test_loads_nothing(self) -> None:
        """No pool, no ctypes, no optional dependency, no multiprocessing; and no warning."""
        program = """
import sys
import schwimmbad_go
bad = ["ctypes", "multiprocessing", "joblib", "dill", "cloudpickle", "numpy", "mpi4py", "multiprocess"]
bad += ["schwimmbad_go.multiprocessing"]
print([name for name in bad if name in sys.modules])
schwimmbad_go.SerialPool
print([name for name in bad if name in sys.modules])
"""
        done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("[]\n[]\n", "")

    def test_surface(self) -> None:
        assert set(schwimmbad_go.__all__) == {
            "JoblibPool", "MPIPool", "MultiPool", "SerialPool", "__version__", "choose_pool", "register_joblib_backend",
        }  # fmt: skip
        names: dict[str, Any] = {}
        exec("from schwimmbad_go import *", names)
        assert set(schwimmbad_go.__all__) <= set(names)
        for name in ("pool", "serial", "multiprocessing", "mpi", "jl", "utils", "error", "decorators"):
            assert getattr(schwimmbad_go, name).__name__ == f"schwimmbad_go.{name}"
            assert name in dir(schwimmbad_go)
        with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
            schwimmbad_go.nonsense  # noqa: B018

    def test_leftovers_of_old_versions(self) -> None:
        assert isinstance(schwimmbad_go.log, logging.Logger)
        assert schwimmbad_go._VERBOSE == 5
        assert schwimmbad_go.__author__

    def test_silent_log(self, capsys: pytest.CaptureFixture[str]) -> None:
        with warnings.catch_warnings():
            schwimmbad_go.log.warning("nobody asked")
        assert capsys.readouterr().err == ""

    def test_version_is_the_one_of_the_project(self) -> None:
        project = Path(__file__).parents[1] / "pyproject.toml"
        found = re.search(r'^version = "(.*?)"', project.read_text(), re.M)
        assert found is not None
        assert schwimmbad_go.__version__ == found[1]

    def test_helpers_of_upstreams_tests(self) -> None:
        from schwimmbad_go._test_helpers import _batch_function, _function, isclose

        assert _function(1) == 42.01
        assert _batch_function([1, 2]) == [42.01, 42.01]
        assert isclose(1.0, 1.0 + 1e-12)
        assert not isclose(1.0, 1.1)
