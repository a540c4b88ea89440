"""What ``verbose=`` makes a `JoblibPool` say."""

from __future__ import annotations

import math
import sys
import time


class Progress:
    """Reports how far one call is.

    Parameters
    ----------
    verbose : float
        As joblib has it: above 10 every batch of results is reported, below the fewer the more tasks are done already;
        from 50 on to stdout instead of stderr.
    label : str
        What the lines begin with.
    total : int
        Number of tasks, -1 where nobody knows.
    """

    def __init__(self, verbose: float, label: str, total: int) -> None:
        self.verbose = verbose
        self.label = label
        self.total = total
        self.done = 0
        self.start = time.monotonic()
        self.step = -1

    def begin(self, how: str) -> None:
        """Say how the tasks are going to run."""
        self._say(how)

    def tick(self, n: int) -> None:
        """So many more are done."""
        self.done += n
        if self.done == self.total:
            return  # `end` says so
        # Below 11 the distance between two reports grows with the square root of what is done, as joblib's does.
        step = self.done if self.verbose > 10 else int(math.sqrt(self.done / (0.5 * (11 - self.verbose) ** 2)))
        if step == self.step:
            return
        self.step = step
        elapsed = time.monotonic() - self.start
        if self.total < 0:
            self._say(f"{self.done} tasks done after {_span(elapsed)}")
        else:
            left = elapsed / self.done * (self.total - self.done)
            self._say(f"{self.done} of {self.total} tasks done after {_span(elapsed)}, about {_span(left)} left")

    def end(self) -> None:
        """All results are there."""
        self._say(f"all {self.done} tasks done after {_span(time.monotonic() - self.start)}")

    def _say(self, text: str) -> None:
        stream = sys.stderr if self.verbose < 50 else sys.stdout
        if stream is not None:
            stream.write(f"[{self.label}] {text}\n")
            stream.flush()


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


__all__ = ["Progress"]
