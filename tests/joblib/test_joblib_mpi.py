"""joblib over the ranks of an MPI run."""

from __future__ import annotations

import inspect

import joblib
import pytest
from helpers import mpirun

pytestmark = pytest.mark.slow

SCRIPT = """
import os, sys
import joblib
from joblib import Parallel, delayed
import numpy as np
import schwimmbad_go

OPTIONS = eval(sys.argv[1])
pool = schwimmbad_go.MPIPool(**OPTIONS)
schwimmbad_go.register_joblib_backend()
enter = getattr(joblib, "parallel_config", None) or joblib.parallel_backend
X = np.random.default_rng(0).random(500_000)

def square(x):
    return x * x

def boom(x):
    if x == 7:
        raise ValueError("boom 7")
    return x

def nested(x):
    return sum(Parallel(n_jobs=2)(delayed(square)(i) for i in range(x)))

with enter("schwimmbad", pool=pool):
    assert joblib.effective_n_jobs(-1) == pool.size
    for n in (0, 1, 5, 4000):
        assert Parallel(n_jobs=-1)(delayed(square)(i) for i in range(n)) == [i * i for i in range(n)]
    pids = set(Parallel(n_jobs=-1, batch_size=1)(delayed(os.getpid)() for _ in range(40)))
    assert os.getpid() not in pids and pids <= set(pool.broadcast(os.getpid))
    try:
        Parallel(n_jobs=-1)(delayed(boom)(i) for i in range(100))
    except ValueError as error:
        assert str(error) == "boom 7" and "in boom" in str(error.__cause__)
    else:
        raise AssertionError
    for i, found in enumerate(Parallel(n_jobs=-1, batch_size=1)(delayed(np.multiply)(X, i) for i in range(8))):
        assert np.array_equal(found, X * i)
    try:
        Parallel(n_jobs=-1)(delayed(np.ndarray.sort)(X) for i in range(4))
    except ValueError as error:
        assert "read-only" in str(error)
    else:
        raise AssertionError
    assert Parallel(n_jobs=-1)(delayed(nested)(i) for i in range(5)) == [0, 0, 1, 5, 14]
    if hasattr(joblib, "parallel_config"):
        assert list(Parallel(n_jobs=-1, return_as="generator")(delayed(square)(i) for i in range(50))) == [i * i for i in range(50)]
    assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]
pool.close()
print("done", len(pids))
"""


@pytest.mark.parametrize("options", ["{}", "{'isolate': True}"])
def test_joblib_on_ranks(family: str, options: str) -> None:
    done = mpirun.run(family, 3, SCRIPT, options, timeout=100).ok()
    assert done.stdout.startswith("done ") and done.stderr == ""


def test_without_threads(family: str) -> None:
    """MPI that serves the thread alone which has started it: what waits in order is fine, the rest says so."""
    pytest.importorskip("mpi4py")
    done = mpirun.run(
        family,
        2,
        """
        import mpi4py
        mpi4py.rc.threads = False
        from joblib import Parallel, delayed
        import joblib, schwimmbad_go
        from schwimmbad_go.error import PoolUnavailable
        from schwimmbad_go._joblib import as_backend

        with schwimmbad_go.MPIPool() as pool, as_backend(pool):
            assert Parallel()(delayed(abs)(-i) for i in range(20)) == list(range(20))
            if hasattr(joblib, "parallel_config"):
                assert list(Parallel(return_as="generator")(delayed(abs)(-i) for i in range(20))) == list(range(20))
            try:
                Parallel(return_as="generator_unordered")(delayed(abs)(-i) for i in range(20))
            except (PoolUnavailable, TypeError, ValueError) as error:  # the latter two of joblib, which has no such thing
                print(type(error).__name__)
        """,
    ).ok()
    known = "return_as" in inspect.signature(joblib.Parallel.__init__).parameters
    assert done.stdout.strip() in (["PoolUnavailable", "ValueError"] if known else ["TypeError"])


def test_an_error_ends_the_job(family: str) -> None:
    done = mpirun.run(
        family,
        3,
        """
        from joblib import Parallel, delayed
        import schwimmbad_go
        from schwimmbad_go._joblib import as_backend

        with schwimmbad_go.MPIPool() as pool, as_backend(pool):
            Parallel()(delayed(divmod)(1, i) for i in range(3))
        """,
    )
    assert done.returncode != 0 and "ZeroDivisionError" in done.stderr and not done.left
