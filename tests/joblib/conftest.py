"""What the tests of joblib's backend share. No __init__.py here: the folder would be imported in joblib's place."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import leaks

joblib = pytest.importorskip("joblib")


_loaded: list[bool] = []


@pytest.fixture(autouse=True)
def backend() -> Iterator[None]:
    """The backend is registered, and gone from joblib's table afterwards."""
    import schwimmbad_go

    schwimmbad_go.register_joblib_backend()
    yield
    joblib.parallel.BACKENDS.pop("schwimmbad", None)


@pytest.fixture(autouse=True)
def standing(has_failed: Callable[[], bool]) -> Iterator[None]:
    """The standing pool serves all cases, and is renewed after one that failed."""
    yield
    if has_failed():
        _end()


@pytest.fixture(scope="module", autouse=True)
def end_of_standing() -> Iterator[None]:
    yield
    _end()


@pytest.fixture
def nothing_stays() -> Iterator[None]:
    """No standing pool before the case, and nothing of one a second after the case has ended it."""
    if not _loaded:  # the engine's library opens what it keeps
        joblib.Parallel(n_jobs=2, backend="schwimmbad")(joblib.delayed(abs)(i) for i in range(2))
        _loaded.append(True)
    _end()
    gc.collect()
    with leaks.nothing_left():
        yield
        _end()


def _end() -> None:
    from schwimmbad_go import _joblib_pool

    _joblib_pool.shut_down_standing()


@pytest.fixture
def parallel() -> Callable[..., Any]:
    """`joblib.Parallel` on our backend with two workers."""

    def make(n_jobs: int = 2, **options: Any) -> Any:
        return joblib.Parallel(n_jobs=n_jobs, backend="schwimmbad", **options)

    return make
