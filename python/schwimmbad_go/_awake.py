"""Whether a worker waits for its next chunk awake.

To wake a process whose CPU has gone idle takes 40 to 60 us on virtual machines, 3 to 5 on bare metal. In a loop of small maps that is more
than the map itself, so a worker that is needed again at once had better look for a while. Where CPUs are scarce it had better not: it then
keeps the master from running. What is the case is found out by trying, now and then.
"""

from __future__ import annotations

from fcntl import ioctl
from termios import FIONREAD
from time import monotonic_ns
from typing import Final

SPIN_NS: Final = 100_000  # how long it looks: twice what a wake-up takes
SHORT_NS: Final = 3_000  # shorter gaps between two chunks are no waits: the next one was there
LONG_NS: Final = 1_000_000  # after longer ones nobody waits for microseconds
_SAMPLE: Final = 8  # waits that are compared
_STAY: Final = 1024  # waits after which what has proved good is tried against the other way again
_MOST: Final = 8192  # the same for a way that has proved bad, which is tried at intervals that grow
_NOTHING: Final = bytes(4)  # an int of 0: bytes that can be read
_GAIN: Final = 0.9  # of the time that waits take asleep: no gain is not worth a CPU


class Awake:
    """The choice, and the looking.

    Parameters
    ----------
    work : int
        Descriptor of the queue.
    """

    def __init__(self, work: int) -> None:
        self.work = work
        self.looks = False
        self.slept = self.total = 0  # ns: mean of the last sample asleep; sum of the present one
        self.n = self.left = _SAMPLE
        self.interval = _SAMPLE

    def wait(self, gap: int) -> None:
        """Called before a read of the queue, after `gap` ns between the two latest chunks: not too short and not too long."""
        self.total += gap
        self.left -= 1
        if self.left == 0:
            self._judge()
        if self.looks:
            # Not select.poll(), which is as fast: gevent and eventlet replace it, in a process that is forked as well.
            work, limit = self.work, monotonic_ns() + SPIN_NS
            while ioctl(work, FIONREAD, _NOTHING) == _NOTHING and monotonic_ns() < limit:
                pass

    def _judge(self) -> None:
        mean = self.total // self.n
        if not self.looks:
            self.slept, self.looks, self.n = mean, True, _SAMPLE
        elif mean > _GAIN * self.slept:
            self.interval = min(2 * self.interval, _MOST)
            self.looks, self.n = False, self.interval
        elif self.n == _SAMPLE:
            self.interval, self.n = _SAMPLE, _STAY
        else:
            self.looks, self.n = False, _SAMPLE
        self.total, self.left = 0, self.n


__all__ = ["LONG_NS", "SHORT_NS", "Awake"]
