"""A worker's private views of shared memory: used again only while nothing in them is the worker's own."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from schwimmbad_go import MultiPool, _maps

MB = 1 << 20
AT, LENGTH = 10 * mmap.PAGESIZE, 3 * MB + 100  # no whole number of pages


@pytest.fixture
def shared() -> Iterator[tuple[mmap.mmap, _maps.Mappings]]:
    fd = os.memfd_create("maps")
    os.truncate(fd, 4 * MB)
    memory = mmap.mmap(fd, 4 * MB)
    memory[:] = os.urandom(4 * MB)
    maps = _maps.Mappings(fd)
    yield memory, maps
    maps.turn()
    maps.turn()
    if maps._look is not None:
        os.close(maps._look.pagemap)
    memory.close()
    os.close(fd)


def _tells() -> bool:
    """Whether this kernel does."""
    try:
        os.close(_maps.Scanner().pagemap)
    except OSError:
        return False
    probe = mmap.mmap(-1, mmap.PAGESIZE)
    scan = _maps.Scanner()
    try:
        scan(probe)
    except OSError:
        return False
    finally:
        os.close(scan.pagemap)
    return True


needs_kernel = pytest.mark.skipif(sys.platform != "linux" or not _tells(), reason="the kernel has no PAGEMAP_SCAN (Linux 6.7)")


@needs_kernel
def test_a_mapping_that_was_only_read_is_used_again(shared: Any) -> None:
    memory, maps = shared
    view = maps.get(AT, LENGTH)
    assert view == memory[AT : AT + LENGTH]
    first = id(maps.used[AT, LENGTH])
    del view
    maps.turn()
    assert not maps, "nobody reads through a spare mapping: memory may be reused"
    maps.get(AT, LENGTH)
    assert id(maps.used[AT, LENGTH]) == first


@needs_kernel
@pytest.mark.parametrize("at", [0, 1, MB, LENGTH - 1])
def test_no_write_survives_its_job(shared: Any, at: int) -> None:
    memory, maps = shared
    for _ in range(3):
        view = maps.get(AT, LENGTH)
        assert view == memory[AT : AT + LENGTH]
        view[at] ^= 1
        assert view[at] != memory[AT + at]
        del view
        maps.turn()
        assert not maps.spare


@needs_kernel
def test_writing_what_was_there_counts(shared: Any) -> None:
    _, maps = shared
    view = maps.get(AT, LENGTH)
    view[MB] = view[MB]
    del view
    maps.turn()
    assert not maps.spare


@needs_kernel
def test_a_spare_mapping_shows_what_is_shared_now(shared: Any) -> None:
    memory, maps = shared
    assert maps.get(AT, LENGTH)[5] == memory[AT + 5]
    maps.turn()
    assert maps.spare
    memory[AT : AT + LENGTH] = os.urandom(LENGTH)
    assert maps.get(AT, LENGTH) == memory[AT : AT + LENGTH]


@needs_kernel
def test_one_job_is_all_that_a_spare_mapping_lasts(shared: Any) -> None:
    _, maps = shared
    maps.get(AT, LENGTH)
    maps.turn()
    (spare,) = maps.spare.values()
    maps.turn()
    assert not maps.spare
    assert spare.closed


def test_a_view_that_somebody_keeps_is_left_alone(shared: Any) -> None:
    memory, maps = shared
    view = maps.get(AT, LENGTH)
    view[0] ^= 1
    kept = bytes(view)
    maps.turn()
    assert maps
    assert maps.zombies
    assert not maps.spare
    memory[AT] ^= 255
    assert view == kept
    del view
    maps.turn()
    assert not maps
    assert not maps.zombies


def test_a_kernel_that_does_not_tell(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, maps = shared

    def refuse(*_: Any) -> Any:
        raise OSError("no PAGEMAP_SCAN")

    monkeypatch.setattr(_maps, "Scanner", refuse)
    for _ in range(3):
        assert maps.get(AT, LENGTH) == memory[AT : AT + LENGTH]
        maps.turn()
        assert not maps.spare


class Carrier:
    """A function with data, which it may spoil."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __call__(self, spoil: bool) -> float:
        found = float(self.data.sum())
        if spoil:
            self.data[len(self.data) // 2] += 1
        return found


@pytest.mark.parametrize("spoil", [False, True])
def test_what_a_task_changed_ends_with_the_map(spoil: bool) -> None:
    np = pytest.importorskip("numpy")
    carrier = Carrier(np.arange(MB, dtype=float))
    expected = float(carrier.data.sum())
    with MultiPool(2) as pool:
        for _ in range(4):
            assert pool.map(carrier, [spoil]) == [expected]
        carrier.data[7] += 1  # and what the caller changes does arrive
        assert pool.map(carrier, [False]) == [expected + 1]
