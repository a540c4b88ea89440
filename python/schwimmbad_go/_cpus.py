"""How many CPUs this process may really use.

``os.cpu_count()`` counts those of the machine. A job on a cluster is confined to some of them by an affinity
mask, a container to a share of their time by a cgroup quota; a pool that ignores either starts too many
workers, which then wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path, PurePosixPath

__all__ = ["affinity_count", "cgroup_limit", "cpu_count"]


def cpu_count(root: str | Path = "/") -> int:
    """Number of CPUs this process may use: the smallest of affinity and cgroup quotas.

    Parameters
    ----------
    root : path
        Where the file system with ``proc`` and ``sys`` starts; for tests.

    Returns
    -------
    int
        >= 1. A quota of 2.5 CPUs counts as 3: two workers would leave a part of it unused.

    Notes
    -----
    Sources: sched_setaffinity(2); cgroups(7); the kernel's cgroup-v2 (``cpu.max``) and sched-bwc documents
    (``cpu.cfs_quota_us``). Cost: about ten small files read, some 100 us.
    """
    count = affinity_count()
    limit = cgroup_limit(root)
    return count if limit is None else max(1, min(count, limit))


def affinity_count() -> int:
    """Number of CPUs in this process's affinity mask; of the machine where there is no such mask."""
    # PYTHON_CPU_COUNT and -X cpu_count (Python 3.13) are the user's own word, and come in through this
    # function.
    override = getattr(os, "process_cpu_count", os.cpu_count)()
    try:
        allowed = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux, or more CPUs than the C library's mask holds
        return override or 1
    return min(override or allowed, allowed)


def cgroup_limit(root: str | Path = "/") -> int | None:
    """Number of CPUs that the cgroups of this process allow, rounded up; None without a quota.

    Parameters
    ----------
    root : path
        As in `cpu_count`.

    Returns
    -------
    int or None
        The smallest quota from this process's cgroup up to the root, since each level limits all below it.
    """
    quotas = [quota for directory in _cgroup_directories(Path(root)) for quota in _quotas(directory)]
    if not quotas:
        return None
    smallest = min(quotas)
    return max(1, -(-smallest.numerator // smallest.denominator))


def _cgroup_directories(root: Path) -> Iterator[Path]:
    """Every directory whose quota counts for this process, over both versions of cgroups."""
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if not colon:
            continue
        if controllers == "":  # version 2 has one hierarchy, listed as "0::/path"
            wanted = "cgroup2"
        elif "cpu" in controllers.split(","):
            wanted = "cgroup"
        else:
            continue
        for mount_root, mount_point in _mounts(root, wanted):
            yield from _upwards(root, mount_root, mount_point, PurePosixPath(path))


def _mounts(root: Path, kind: str) -> Iterator[tuple[PurePosixPath, PurePosixPath]]:
    """Mounts of this version's hierarchies, of version 1 those with the cpu controller: (root, place)."""
    for line in _lines(root / "proc/self/mountinfo"):
        # proc(5): id parent major:minor ROOT PLACE options [tags...] - TYPE source SUPER-OPTIONS
        before, dash, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if not dash or len(left) < 5 or len(right) < 3 or right[0] != kind:
            continue
        if kind == "cgroup" and "cpu" not in right[2].split(","):
            continue
        yield PurePosixPath(_unescaped(left[3])), PurePosixPath(_unescaped(left[4]))


def _upwards(
    root: Path, mount_root: PurePosixPath, mount_point: PurePosixPath, path: PurePosixPath
) -> Iterator[Path]:
    """The directory of cgroup `path` and those above it, as far as this mount shows them."""
    # In a container the mount shows only a part of the tree, from `mount_root` on, and `path` may lie outside
    # of it ("/../other"): then only the mount's top is visible, and its quota still counts.
    try:
        inside = path.relative_to(mount_root)
    except ValueError:
        inside = PurePosixPath()
    if ".." in inside.parts:
        inside = PurePosixPath()
    top = root / mount_point.relative_to(mount_point.anchor)
    for part in (inside, *inside.parents):
        yield top / part


def _quotas(directory: Path) -> Iterator[Fraction]:
    """The quota of one cgroup [CPUs], if it has one."""
    for line in _lines(directory / "cpu.max"):  # version 2: "max 100000" or "250000 100000" [us]
        yield from _quota(*line.split()[:2])
    quota = _lines(directory / "cpu.cfs_quota_us")  # version 1; -1 means none
    period = _lines(directory / "cpu.cfs_period_us")
    if quota and period:
        yield from _quota(quota[0], period[0])


def _quota(quota: str = "max", period: str = "100000") -> Iterator[Fraction]:
    try:
        share = Fraction(int(quota), int(period))
    except (ValueError, ZeroDivisionError):  # "max"
        return
    if share > 0:
        yield share


def _lines(path: Path) -> list[str]:
    """Lines of a small file of the kernel's; none if it is not there or not ours to read."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def _unescaped(field: str) -> str:
    """A path from mountinfo, which writes blanks and backslashes as octal escapes."""
    for code, char in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        field = field.replace(code, char)
    return field
