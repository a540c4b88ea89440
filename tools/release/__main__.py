"""Command line of the release check: `python -m release` in tools/, or `bash dev.sh release-check`.

Each step says what it found; one that fails does not stop the others, but for the wheel, which all of them need. Cost: 75 s for the
wheel, 5 minutes for each Python, 4 for each MPI, half a minute for each extra, on two free CPUs; 3 GB on disk.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from release import extras, mpi, pythons, wheel
from release.steps import Failed

P = ParamSpec("P")
T = TypeVar("T")
STEPS = ("wheel", "extras", "mpi", "pythons")


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev.sh release-check", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="check this wheel, in place of building one")
    parser.add_argument("--only", help=f"steps, separated by commas, of: {', '.join(STEPS)}", default=",".join(STEPS))
    parser.add_argument("--python", action="append", default=[], help="one more interpreter; may be repeated")
    parser.add_argument("--keep", type=Path, help="directory for the environments and logs, which are kept; it must not exist")
    options = parser.parse_args()
    only = options.only.split(",")
    if unknown := [name for name in only if name not in STEPS]:
        parser.error(f"no step {unknown[0]!r}")
    if options.keep:
        options.keep.mkdir()
        return check(options.keep.resolve(), options.wheel, only, options.python)
    with tempfile.TemporaryDirectory(prefix="schwimmbad-go-release-", ignore_cleanup_errors=True) as folder:
        return check(Path(folder), options.wheel, only, options.python)


def check(folder: Path, given: Path | None, only: list[str], named: list[str]) -> int:
    """All steps; 1 if one failed."""
    report = Report()
    path = given.resolve() if given else report.step("wheel where there is neither Go nor a compiler", wheel.build, folder)
    if path is None:
        return report.end()
    if "wheel" in only:
        report.step("its tag, by auditwheel", wheel.check_tag, path, folder)
        report.step("a map", wheel.check_map, path, folder)
    for extra in extras.EXTRAS if "extras" in only else ():
        report.step(f"extra {extra}", extras.check, extra, path, folder)
    for family in mpi.EXTRAS if "mpi" in only else ():
        report.step(f"MPIPool on the {family} wheel", mpi.check, family, path, folder)
    if "pythons" in only:
        found = pythons.interpreters(named)
        for version, python in found.items():
            report.step(f"tests under Python {version}", pythons.check, version, python, path, folder)
        for version in pythons.absent(found):
            print(f"no Python {version} here: name one by --python", flush=True)
    return report.end()


class Report:
    """Prints a line per step, and counts."""

    def __init__(self) -> None:
        self.passed = self.failed = 0

    def step(self, name: str, run: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What `run` returned; None if it failed."""
        start, made = time.monotonic(), None
        try:
            made = run(*args, **kwargs)
        except (Failed, OSError) as error:
            self.failed += 1
            said = f"FAILED: {error}"
        else:
            self.passed += 1
            said = made.name if isinstance(made, Path) else str(made)
        print(f"{name}: {said}  [{time.monotonic() - start:.0f} s]", flush=True)
        return made

    def end(self) -> int:
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        return 1 if self.failed else 0


if __name__ == "__main__":
    sys.exit(main())
