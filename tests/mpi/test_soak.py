"""Some seconds of tools/mpi_soak.py; run it longer by hand: mpirun -n 4 python tools/mpi_soak.py --minutes N."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import mpirun

SOAK = Path(__file__).resolve().parents[2] / "tools/mpi_soak.py"


@pytest.mark.slow
@pytest.mark.parametrize("sharing", ["shared", "messages", "mixed"])
def test_seconds_of_everything(family: str, sharing: str) -> None:
    done = mpirun.run(family, 3, SOAK, "--minutes", "0.06", env=mpirun.SHARING.get(sharing), timeout=60).ok()
    assert done.stdout.endswith("calls, all as they should be\n") and done.stderr == "", done
