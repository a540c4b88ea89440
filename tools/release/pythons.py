"""The wheel under each Python that is here: the tests of all local pools, on the installed package."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from release.steps import ROOT, Failed, environment, requirement, run

MINORS = range(10, 15)  # 3.10 to 3.14
# No network, no MPI, no builds: those do not differ between Pythons. Crashes are left out for their length.
TESTS = (
    "conformance", "test_alias.py", "test_asyncresult.py", "test_basepool.py", "test_cpus.py", "test_errors.py", "test_fork_safety.py",
    "test_functions.py", "test_payloads.py", "test_serial.py", "test_start_methods.py", "test_threads.py", "test_utils.py",
)  # fmt: skip
NEEDED = ("pytest>=7", "pytest-timeout", "numpy", "multiprocess")
WHERE = """
import pathlib, sys
import schwimmbad_go
assert pathlib.Path(schwimmbad_go.__file__).is_relative_to(sys.prefix), schwimmbad_go.__file__
"""


def interpreters(named: Sequence[str] = ()) -> dict[str, str]:
    """Version ("3.12.1") -> interpreter: those named, those on PATH, those that pyenv or uv keeps; one per minor version.

    Raises
    ------
    Failed
        A named one does not run, or has no venv module.
    """
    candidates = [*named, *(path for minor in MINORS if (path := shutil.which(f"python3.{minor}")))]
    kept = [Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")]
    kept.append(Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or Path.home() / ".local/share/uv/python"))
    candidates += [str(path) for folder in kept for path in sorted(folder.glob("*/bin/python3"))]
    found: dict[str, str] = {}
    for candidate in candidates:
        try:
            version = run(candidate, "-c", "import sys, venv; print(*sys.version_info[:3], sep='.')", cwd=Path("/")).strip()
        except (Failed, OSError) as error:  # a version manager's link to a version that is not chosen, or a Python without venv
            if candidate in named:
                raise Failed(f"--python {candidate} cannot be used: {error}") from error
            continue
        minor = int(version.split(".")[1])
        if minor in MINORS and minor not in [int(known.split(".")[1]) for known in found]:
            found[version] = candidate
    return dict(sorted(found.items(), key=lambda item: int(item[0].split(".")[1])))


def absent(found: dict[str, str]) -> list[str]:
    """Supported minor versions of which there is no interpreter here."""
    return [f"3.{minor}" for minor in MINORS if f"3.{minor}" not in {version.rpartition(".")[0] for version in found}]


def check(version: str, python: str, wheel: Path, folder: Path) -> str:
    """Install and test under one Python; the last line of pytest.

    Raises
    ------
    Failed
        The installation or a test failed.
    """
    made = environment(python, folder / f"python{version}", [requirement(wheel, "all"), *NEEDED])
    run(made, "-c", WHERE, cwd=folder)
    return pytest(made, folder, f"python{version}", *(f"tests/{name}" for name in TESTS))


def pytest(python: Path, folder: Path, name: str, *arguments: str, **variables: str) -> str:
    """Run the tree's tests with an environment's Python on what is installed there; the last line of pytest."""
    paths = [str(ROOT / argument) if argument.startswith("tests/") else argument for argument in arguments]
    options = ["-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}"]
    output = run(python, "-m", "pytest", *options, *paths, cwd=folder, env=variables, log=folder / f"{name}.log")
    return output.strip().splitlines()[-1]
