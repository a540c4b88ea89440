"""The source distribution has all that a build needs, and nothing that was built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest
from commands import SECONDS, run
from swgbuild import mpi, project

pytestmark = pytest.mark.slow
CORE = {"SWG_MPI": "none"}  # where the libraries for MPI play no part


def test_sources_in_and_built_files_out(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {
        "go.mod", "go.sum", "pyproject.toml", "README.md", "LICENSE", "licenses/gompi.txt", "dev.sh", "tools/gobuild.py",
        "tools/hatch_hook.py", "pyshim/capi/schwimmbad.h", "python/schwimmbad_go/__init__.py", "python/schwimmbad_go/py.typed",
        "examples/stdlib_complexity.py",
    }  # fmt: skip
    assert needed <= names
    assert any(name.startswith("pools/internal/") and name.endswith(".go") for name in names)
    built = [n for n in names if "/_lib/" in n or "/_bin/" in n or "__pycache__" in n or n.endswith((".so", "_build_info.py"))]
    assert not built
    assert not [n for n in names if n.startswith((".venv", ".git/", "dist/"))]


def test_wheel_from_the_tree_has_the_files_of_the_wheel_from_the_sdist(root: Path, wheel: Path, tmp_path: Path) -> None:
    script = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    run(sys.executable, "-c", script, tmp_path, cwd=root, env=CORE)
    (direct,) = tmp_path.glob("*.whl")
    for_mpi = {f"schwimmbad_go/_lib/libschwimmbad_{family}.so" for family in mpi.MPI_TITLES}
    with ZipFile(wheel) as one, ZipFile(direct) as other:
        assert sorted(set(one.namelist()) - for_mpi) == sorted(other.namelist())


def test_editable_install_builds_into_the_tree(sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path)
    (tree,) = (path for path in tmp_path.iterdir() if path.is_dir())
    out = tmp_path / "out"
    out.mkdir()
    script = "import sys; from hatchling.build import build_editable; build_editable(sys.argv[1])"
    run(sys.executable, "-c", script, out, cwd=tree, env=CORE)
    assert list((tree / "python/schwimmbad_go/_lib").glob("libschwimmbad.*"))
    assert (tree / "python/schwimmbad_go/_lib/include/schwimmbad.h").is_file()
    (editable,) = out.glob("*.whl")
    with ZipFile(editable) as archive_:
        (pth,) = [name for name in archive_.namelist() if name.endswith(".pth")]
        assert archive_.read(pth).decode().split() == [str(tree / "python")]


def test_tag_that_promises_an_older_glibc_than_needed_is_refused(root: Path, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("manylinux tags are for Linux")
    tag = f"manylinux_2_1_{project.machine()}"
    script = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=root, env={**os.environ, **CORE, "SWG_PLAT": tag}, text=True, capture_output=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode != 0
    assert f"SWG_PLAT={tag}" in done.stderr and "needs glibc 2." in done.stderr
    assert not list(tmp_path.glob("*.whl"))
    shutil.rmtree(tmp_path)
