"""Ten seconds of tools/soak.py; run it longer by hand: python tools/soak.py --minutes N."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import schwimmbad_go

SOAK = Path(__file__).resolve().parents[1] / "tools/soak.py"


@pytest.mark.slow
def test_ten_seconds_of_everything() -> None:
    package = str(Path(schwimmbad_go.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, SOAK, "--minutes", str(10 / 60)],
        env={**os.environ, "PYTHONPATH": package}, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
