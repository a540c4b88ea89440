"""Fixtures: the build tool as a module, and one sdist and wheel for all tests of a run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest
from commands import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def gobuild() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gobuild_under_test", ROOT / "tools" / "gobuild.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # NamedTuple looks its module up
    spec.loader.exec_module(module)
    return module


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
