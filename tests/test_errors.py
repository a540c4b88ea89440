"""The tree of errors: what each one is an instance of, and that all of them travel."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import subprocess
import sys
from typing import Any

import pytest
from schwimmbad_go import error
from schwimmbad_go.error import add_note, pool_timeout

EXAMPLES: list[tuple[BaseException, tuple[type[BaseException], ...]]] = [
    (error.PoolError("m"), (Exception,)),
    (error.EngineError("m"), (error.PoolError, RuntimeError)),
    (error.PoolUnavailable("m"), (error.PoolError, NotImplementedError)),
    (error.PoolClosed(), (error.PoolError, ValueError)),
    (error.PoolClosed("it was terminated"), (error.PoolError, ValueError)),
    (
        error.WorkerLost("m", index=7, pid=12, host="node4", exitcode=-9, worker=2),
        (error.PoolError, RuntimeError),
    ),
    (error.RankLost("m", index=7, pid=12, host="node4", exitcode=-9), (error.WorkerLost, RuntimeError)),
    (error.TaskTimeout("m", index=7, pid=12, host="node4", timeout=1.5), (error.PoolError, TimeoutError)),
    (error.PicklingError("m", index=7), (error.PoolError, pickle.PicklingError)),
    (error.UnpicklingError("m", index=7), (error.PoolError, pickle.UnpicklingError)),
    (error.TaskExit("m", exit_code=[3], index=7), (error.PoolError, SystemExit)),
    (error.TaskInterrupt("m", index=7), (error.PoolError, KeyboardInterrupt)),
    (error.RemoteError("m", type_name="a.B", text="t", index=7), (error.PoolError,)),
    (pool_timeout("m"), (error.PoolError, error.PoolTimeout, TimeoutError, multiprocessing.TimeoutError)),
    (error.RemoteTraceback("Traceback ..."), (Exception,)),
]


@pytest.fixture(params=EXAMPLES, ids=lambda example: type(example[0]).__name__)
def example(request: pytest.FixtureRequest) -> tuple[BaseException, tuple[type[BaseException], ...]]:
    found: tuple[BaseException, tuple[type[BaseException], ...]] = request.param
    return found


def test_every_class_has_an_example() -> None:
    assert {type(one).__name__ for one, _ in EXAMPLES} == set(error.__all__)


def test_is_caught_as(example: tuple[BaseException, tuple[type[BaseException], ...]]) -> None:
    one, bases = example
    for base in bases:
        assert isinstance(one, base)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(example: tuple[BaseException, Any], protocol: int) -> None:
    one, _ = example
    add_note(one, "task 7")
    for twin in (pickle.loads(pickle.dumps(one, protocol)), copy.copy(one)):
        # The class of a timeout is made anew when multiprocess has been imported since.
        assert type(twin).__name__ == type(one).__name__
        assert type(twin) is type(one) or isinstance(one, error.PoolTimeout)
        assert str(twin) == str(one)
        assert twin.args == one.args
        assert vars(twin) == vars(one)


def test_closed_says_so_first() -> None:
    assert str(error.PoolClosed()) == "Pool not running"
    assert str(error.PoolClosed("it was terminated")) == "Pool not running: it was terminated"


def test_exit_keeps_the_code_but_never_looks_like_success() -> None:
    program = (
        "from schwimmbad_go import error; raise error.TaskExit('task 3 called sys.exit(0)', exit_code=0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "task 3 called sys.exit(0)\n"
    assert pickle.loads(pickle.dumps(error.TaskExit("m", exit_code=0))).code == "m"


def test_timeout_is_multiprocess_timeout_once_that_is_loaded() -> None:
    multiprocess = pytest.importorskip("multiprocess")
    late = pool_timeout("m")
    assert isinstance(late, multiprocess.TimeoutError)
    assert type(pickle.loads(pickle.dumps(late))) is type(late)


def test_remote_traceback_prints_its_text() -> None:
    one = error.RemoteTraceback("Traceback (most recent call last): ...")
    assert str(one) == one.tb == "Traceback (most recent call last): ..."


def test_notes_add_up() -> None:
    one = ValueError("m")
    add_note(one, "a")
    add_note(one, "b")
    assert one.__notes__ == ["a", "b"]  # type: ignore[attr-defined]
