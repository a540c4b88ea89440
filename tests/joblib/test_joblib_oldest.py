"""The oldest joblib that is supported: the same tests, with it in the place of the newest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.mpirun import CACHE

pytestmark = pytest.mark.slow

OLDEST = "1.2.0"  # 1.1 pickles no functions of __main__ on Python 3.11
HERE = Path(__file__).parent
# What goes through joblib's own code for batches, retrieval and nesting; the rest is ours and the same with all versions.
CHOSEN = "order or every_kind or errors or timeout or pre_dispatch or verbose or memory or nested or how_many or closed_early"


def test_oldest() -> None:
    folder = CACHE / f"joblib-{OLDEST}"
    if not (folder / "joblib").is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), f"joblib=={OLDEST}"]
        done = subprocess.run(command, text=True, capture_output=True, timeout=100)
        if done.returncode:
            pytest.skip(f"joblib {OLDEST} cannot be had: {done.stderr.strip()[-200:]}")
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(HERE / "test_joblib_calls.py"),
         "-W", "ignore::DeprecationWarning", "-k", CHOSEN],
        cwd=HERE.parents[1], env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, text=True, capture_output=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    found = re.search(r"(\d+) passed", done.stdout)
    assert found and int(found[1]) >= 25, done.stdout[-1000:]
    assert "generators came with joblib 1.3" in done.stdout  # it was the old one
