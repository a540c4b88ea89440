"""Fixtures: the build tools importable, and one sdist and wheel for all tests of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from commands import run

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))  # for `swgbuild`, which is not installed


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory with the sdist of this tree and the wheel built from that sdist, as for a release."""
    out = tmp_path_factory.mktemp("dist")
    # Without isolation: the build requirements are in the `test` extra, and nothing is fetched.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return out


@pytest.fixture(scope="session")
def sdist(distributions: Path) -> Path:
    (path,) = distributions.glob("*.tar.gz")
    return path


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, importable from there."""
    out = tmp_path_factory.mktemp("wheel")
    with ZipFile(wheel) as archive:
        archive.extractall(out)
    return out
