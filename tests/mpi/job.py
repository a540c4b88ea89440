"""What the ranks of a job run: rank 0 runs pytest over suites whose registry holds MPIPool alone, the others are its workers.

usage: job.py REPORT PYTEST-ARGUMENTS, with the mode in the environment (`pools_under_test.MPI_MODE`). REPORT is written when pytest
has ended: JSON with the number of tests per outcome, and how often each reason of a skip was given.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from pools_under_test import KINDS


class Outcomes:
    """A pytest plugin that counts."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.skips: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or not report.passed:
            self.counts[report.outcome] += 1
        if report.skipped:
            self.skips[report.longrepr[2].removeprefix("Skipped: ")] += 1


def main(report: str, arguments: list[str]) -> int:
    kind = KINDS[0]
    # All ranks make the first pool, and the others stay in it. What the tests import and set comes later, on rank 0 alone.
    with kind(2) as pool:
        assert pool.size == 2, pool
    pool.join()
    import pytest

    outcomes = Outcomes()
    code = pytest.main(arguments, plugins=[outcomes])
    Path(report).write_text(json.dumps({"counts": outcomes.counts, "skips": outcomes.skips}))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
