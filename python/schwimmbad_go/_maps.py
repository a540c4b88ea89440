"""A worker's private views of large shared buffers: made once, used again by the next map while nobody has changed them.

A private mapping shows the shared bytes until somebody writes into a page; that page is then the worker's own. The next map must
not see it. Mapping anew for each map is safe but costs system calls and a page fault for every 64 KiB that the tasks read: 10 MB
some 100 us. The kernel tells in 5 to 20 us which pages of a mapping are its own (PAGEMAP_SCAN of Linux 6.7, see its
Documentation/admin-guide/mm/pagemap.rst); a mapping that has none is as good as a new one. Where it does not tell, every map gets new
mappings.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import Callable
from typing import Any, Final

# struct pm_scan_arg: size, flags, start, end, walk_end, vec, vec_len, max_pages, category_inverted, category_mask,
# category_anyof_mask, return_mask; the vector is one struct page_region: start, end, categories.
_SCAN: Final = struct.Struct("<12Q")
_REGION: Final = 24
_PAGEMAP_SCAN: Final = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
_FILE: Final = 1 << 2
_PRESENT: Final = 1 << 3
_SWAPPED: Final = 1 << 4


class Mappings:
    """The mappings of one worker.

    Parameters
    ----------
    memory : int
        Descriptor of the arena.
    """

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.used: dict[tuple[int, int], mmap.mmap] = {}  # by offset and length: of the job at hand
        self.spare: dict[tuple[int, int], mmap.mmap] = {}  # of the job before, as good as new
        self.zombies: list[mmap.mmap] = []  # a view of the user's outlived its job: it stays valid, its memory stays ours
        self._look: Scanner | None = None
        self._untold = False

    def __bool__(self) -> bool:
        """Whether anybody may be reading shared memory through a view."""
        return bool(self.used or self.zombies)

    def get(self, at: int, nbytes: int) -> memoryview:
        """A private, writable view of shared bytes: changes stay in this worker and end with the job."""
        key = at, nbytes
        m = self.used.get(key)
        if m is None:
            m = self.spare.pop(key, None)
            if m is None:
                m = mmap.mmap(self.memory, nbytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=at)
            self.used[key] = m
        return memoryview(m)

    def turn(self) -> None:
        """A job has ended, another begins."""
        for m in self.spare.values():  # the job that has ended had no use for them
            m.close()
        self.spare = {}
        kept = []
        for m in self.zombies:
            if not _close(m):
                kept.append(m)
        used, self.used = self.used, {}
        while used:
            key, m = used.popitem()
            if _references([m], 0) > _OURS:  # somebody holds a view
                kept.append(m)
            elif self._untouched(m):
                self.spare[key] = m
            elif not _close(m):
                kept.append(m)
        self.zombies = kept

    def _untouched(self, m: mmap.mmap) -> bool:
        """Whether no page is the worker's own. Nobody else has a view of it."""
        if self._untold:
            return False
        try:
            if self._look is None:
                self._look = Scanner()
            return self._look(m)
        except (ImportError, OSError):  # an older kernel, no /proc, a sandbox
            self._untold = True
            return False


def _close(m: mmap.mmap) -> bool:
    try:
        m.close()
    except BufferError:  # somebody still holds a view
        return False
    return True


def _references(items: list[Any], i: int) -> int:
    return sys.getrefcount(items[i])


def _ours() -> int:
    m = object()
    return _references([m], 0)


_OURS: Final = _ours()  # a local variable and a list


class Scanner:
    """Tells whether a mapping has no page of its own. Raises OSError where the kernel does not tell."""

    def __init__(self) -> None:
        import ctypes
        import fcntl

        self.pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        self.ioctl = fcntl.ioctl
        self.first: Callable[[mmap.mmap], Any] = ctypes.c_char.from_buffer
        self.addressof: Callable[[Any], int] = ctypes.addressof
        self.region = ctypes.create_string_buffer(_REGION)
        self.vector = ctypes.addressof(self.region)
        self.argument = bytearray(_SCAN.size)

    def __call__(self, m: mmap.mmap) -> bool:
        start = self.addressof(self.first(m))
        end = start + (len(m) + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
        # One page that is there, in memory or swapped out, and does not belong to the file is enough.
        wanted = (_FILE, _FILE, _PRESENT | _SWAPPED, _PRESENT)  # inverted, all of, any of, to be returned
        _SCAN.pack_into(self.argument, 0, _SCAN.size, 0, start, end, 0, self.vector, 1, 1, *wanted)
        return bool(self.ioctl(self.pagemap, _PAGEMAP_SCAN, self.argument) == 0)
