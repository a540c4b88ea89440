"""Counting CPUs against small file trees that look like /proc and /sys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from schwimmbad_go._cpus import affinity_count, cgroup_limit, cpu_count

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "33 32 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct\n"
V1_OTHER = "34 32 0:30 / /sys/fs/cgroup/memory rw shared:11 - cgroup cgroup rw,memory\n"


class Tree:
    def __init__(self, root: Path, cgroup: str, mountinfo: str) -> None:
        self.root = root
        self.put("proc/self/cgroup", cgroup)
        self.put("proc/self/mountinfo", mountinfo)

    def put(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("max 100000\n", None),
        ("200000 100000\n", 2),
        ("250000 100000\n", 3),
        ("50000 100000\n", 1),
        ("1000 1000000\n", 1),
        ("3\n", 1),  # no period: the kernel's default of 100 ms
        ("", None),
        ("nonsense 100000\n", None),
        ("100000 0\n", None),
    ],
)
def test_version_2(tmp_path: Path, text: str, limit: int | None) -> None:
    tree = Tree(tmp_path, "0::/user/job\n", V2)
    tree.put("sys/fs/cgroup/user/job/cpu.max", text)
    assert cgroup_limit(tmp_path) == limit


def test_the_tightest_level_counts(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "0::/a/b/c\n", V2)
    tree.put("sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n")
    tree.put("sys/fs/cgroup/a/b/cpu.max", "800000 100000\n")
    tree.put("sys/fs/cgroup/a/cpu.max", "400000 100000\n")
    tree.put("sys/fs/cgroup/sibling/cpu.max", "100000 100000\n")
    assert cgroup_limit(tmp_path) == 4


def test_inside_a_cgroup_namespace(tmp_path: Path) -> None:
    """A container sees its own cgroup as the root of the mount."""
    tree = Tree(tmp_path, "0::/\n", V2)
    tree.put("sys/fs/cgroup/cpu.max", "300000 100000\n")
    assert cgroup_limit(tmp_path) == 3


def test_outside_of_what_the_mount_shows(tmp_path: Path) -> None:
    """Moved out of the container's cgroup after the namespace was made: only the top is visible."""
    tree = Tree(tmp_path, "0::/../other\n", V2)
    tree.put("sys/fs/cgroup/cpu.max", "300000 100000\n")
    assert cgroup_limit(tmp_path) == 3


def test_bind_mounted_part_of_the_tree(tmp_path: Path) -> None:
    """Docker without a namespace: the path is the host's, the mount begins at that very cgroup."""
    mounted = V1.replace(" / /sys", " /docker/abc /sys")
    tree = Tree(tmp_path, "4:cpu,cpuacct:/docker/abc\n", mounted)
    tree.put("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "150000\n")
    tree.put("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
    assert cgroup_limit(tmp_path) == 2


@pytest.mark.parametrize(
    ("quota", "period", "limit"), [("-1", "100000", None), ("400000", "100000", 4), ("0", "100000", None)]
)
def test_version_1(tmp_path: Path, quota: str, period: str, limit: int | None) -> None:
    tree = Tree(tmp_path, "9:memory:/job\n4:cpuacct,cpu:/job\n0::/ignored\n", V1_OTHER + V1)
    tree.put("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", quota + "\n")
    tree.put("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", period + "\n")
    tree.put("sys/fs/cgroup/memory/job/cpu.cfs_quota_us", "100000\n")  # not the cpu controller's
    tree.put("sys/fs/cgroup/memory/job/cpu.cfs_period_us", "100000\n")
    assert cgroup_limit(tmp_path) == limit


def test_both_versions_at_once(tmp_path: Path) -> None:
    unified = V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    tree = Tree(tmp_path, "4:cpu:/job\n0::/job\n", V1 + unified)
    tree.put("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "500000\n")
    tree.put("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n")
    tree.put("sys/fs/cgroup/unified/job/cpu.max", "300000 100000\n")
    assert cgroup_limit(tmp_path) == 3


def test_mount_point_with_a_blank(tmp_path: Path) -> None:
    tree = Tree(tmp_path, "0::/\n", V2.replace("/sys/fs/cgroup", r"/sys/my\040cgroup"))
    tree.put("sys/my cgroup/cpu.max", "100000 100000\n")
    assert cgroup_limit(tmp_path) == 1


def test_nothing_there(tmp_path: Path) -> None:
    assert cgroup_limit(tmp_path) is None
    assert cpu_count(tmp_path) == affinity_count()
    Tree(tmp_path, "nonsense\n\n:::\n", "nonsense\n - \n")
    assert cgroup_limit(tmp_path) is None


def test_count_is_the_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(tmp_path, "0::/\n", V2)
    monkeypatch.setattr("schwimmbad_go._cpus.affinity_count", lambda: 8)
    for quota, count in (("250000", 3), ("1600000", 8), ("max", 8), ("1", 1)):
        tree.put("sys/fs/cgroup/cpu.max", f"{quota} 100000\n")
        assert cpu_count(tmp_path) == count


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this platform has no affinity masks")
def test_affinity() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert affinity_count() == 1
        assert cpu_count() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_the_users_word_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHON_CPU_COUNT, from Python 3.13 on; it cannot make more CPUs than there are."""
    monkeypatch.setattr(os, "process_cpu_count", lambda: 1, raising=False)
    assert affinity_count() == 1
    monkeypatch.setattr(os, "process_cpu_count", lambda: 10_000, raising=False)
    assert affinity_count() == len(os.sched_getaffinity(0))


def test_this_machine() -> None:
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)
