"""schwimmbad's own published tests, taken from its source distribution.

They are not part of this repository. The first use asks pip for the sdist and keeps the test files in
``.cache/``; without an index, and without that cache, there is nothing to run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

VERSION = "0.4.2"
CACHE = Path(__file__).resolve().parents[2] / ".cache"
DOWNLOAD_SECONDS = 90  # pip also fetches the build requirements, for the metadata


class Unavailable(Exception):
    """Why the files cannot be had."""


def directory() -> Path:
    """The directory with schwimmbad's test files; raises `Unavailable`."""
    place = CACHE / f"schwimmbad-{VERSION}-tests"
    if place.is_dir():
        return place
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    # Beside the goal, so that the rename is atomic: two test runs may want the files at once.
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        unpacked = Path(scratch) / "tests"
        unpacked.mkdir()
        _unpack(_download(Path(scratch)), unpacked)
        try:
            os.rename(unpacked, place)
        except OSError:
            if not place.is_dir():
                raise
    return place


def _download(into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", f"schwimmbad=={VERSION}"]
    command += ["--no-binary", "schwimmbad", "--no-deps", "--disable-pip-version-check", "--dest", str(into)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pip did not finish in {DOWNLOAD_SECONDS} s") from None
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise Unavailable(f"pip download failed: {last[0]}")
    return next(into.glob("*.tar.gz"))


def _unpack(sdist: Path, into: Path) -> None:
    """Write the test files flat into a directory: names from an archive are never used as paths."""
    with tarfile.open(sdist) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if member.isfile() and path.parent.name == "tests" and path.suffix == ".py":
                source = archive.extractfile(member)
                assert source is not None
                (into / path.name).write_bytes(source.read())
    if not any(into.iterdir()):
        raise Unavailable(f"{sdist.name} holds no tests")
