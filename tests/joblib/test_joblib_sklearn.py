"""scikit-learn gives the same numbers on one core, with loky, and on our workers, ranks included."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import joblib
import pytest
import schwimmbad_go
from helpers import mpirun
from schwimmbad_go._joblib import as_backend

pytest.importorskip("sklearn")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(joblib, "parallel_config"), reason="scikit-learn itself needs a newer joblib"),
    # of scikit-learn's own making with one version of its dependencies or another
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
EXAMPLE = Path(__file__).parents[2] / "examples" / "gridsearch.py"


@pytest.fixture(scope="module")
def serial() -> Iterator[str]:
    """What the example prints without any backend."""
    yield subprocess.run([sys.executable, EXAMPLE], text=True, capture_output=True, check=True, timeout=100).stdout


def test_example_on_every_backend(serial: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE.parent))
    import gridsearch

    assert serial.count("\n") == 4
    for backend in ("loky", "schwimmbad"):
        with joblib.parallel_config(backend, n_jobs=2):
            gridsearch.study()
        assert capsys.readouterr().out == serial, backend
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)
    with schwimmbad_go.MultiPool(2) as pool:
        with as_backend(pool):
            gridsearch.study()
        # It was the pool that ran its 12 * 4 + 6 + 40 + 13 calls, several to a batch where they are short.
        assert pool.statistics().tasks > 30
    assert capsys.readouterr().out == serial


def test_example_on_ranks(family: str, serial: str) -> None:
    done = mpirun.run(family, 3, EXAMPLE, "--mpi", timeout=100).ok()
    assert (done.stdout, done.stderr) == (serial, "")
