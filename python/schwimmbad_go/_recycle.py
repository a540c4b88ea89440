"""Memory of large results, used again when the user has dropped them.

Pages that nobody has touched are what large results cost most: 64 arrays of 8 MB are 256 huge ones, and where the machine is a virtual
one each has to be got from the host besides. The allocator gives such memory back with each free. So a pool keeps what its results lay
in, marked as free for the kernel to take (MADV_FREE) should anybody need memory.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import weakref
from typing import Any, Final

LEAST: Final = 1 << 20  # bytes; for less, making the object costs as much as the pages
MOST: Final = 512 << 20  # kept by a pool in all
MOST_LENGTHS: Final = 64  # a program whose results differ in length each time has no use for old ones


class Recycler:
    """What the results of one pool lay in.

    Without a lock: memory comes back wherever the last reference ends, in a garbage collection or in a forked child as well, and what
    is done to the lists is done in one step each.
    """

    def __init__(self) -> None:
        self.spare: dict[int, list[mmap.mmap]] = {}  # by length
        self.closed = False

    def take(self, nbytes: int) -> Any:
        """Memory of so many bytes, as an object with a writable buffer; what it holds is not defined."""
        try:
            memory = self.spare[nbytes].pop()
        except (KeyError, IndexError):
            memory = mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if sys.platform == "linux":
                memory.madvise(mmap.MADV_HUGEPAGE)
        block = (ctypes.c_char * nbytes).from_buffer(memory)
        weakref.finalize(block, self._give, memory).atexit = False
        return block

    def _give(self, memory: mmap.mmap) -> None:
        """Nobody uses it any more."""
        kept = list(self.spare.items())
        if self.closed or sys.platform != "linux" or sum(n * len(spare) for n, spare in kept) + len(memory) > MOST:
            return
        if len(kept) >= MOST_LENGTHS and len(memory) not in self.spare:
            self.spare.clear()
        memory.madvise(mmap.MADV_FREE)
        self.spare.setdefault(len(memory), []).append(memory)
        if self.closed:  # meanwhile
            self.spare.clear()

    def close(self) -> None:
        """Keep nothing any more. Memory that is in use stays the user's."""
        self.closed = True
        self.spare.clear()
