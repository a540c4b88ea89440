"""The lanes that run the project's checks: what is counted, what is shown, and that nothing is hidden."""

from __future__ import annotations

import sys
import threading
from itertools import pairwise
from pathlib import Path
from typing import TextIO

import check
import lanes
import pytest
from lanes import Counts, Lanes, Stage, plain

PYTHON = sys.executable


def test_counts_are_summed_and_a_failure_without_a_test_is_one() -> None:
    made = Lanes((
        Stage("tests", lambda out: (1, Counts(5, 2, 1))),
        Stage("formatter", plain(PYTHON, "-c", "raise SystemExit(3)")),
        Stage("fine", plain(PYTHON, "-c", "pass")),
    ))  # fmt: skip
    made.run()
    assert made.total == Counts(5, 3, 1)
    assert any("formatter" in line and "FAILED (exit 3)" in line for line in made.lines) and len(made.lines) == 3


def test_stage_that_raises_has_failed_and_stops_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(out: TextIO) -> tuple[int, Counts]:
        raise FileNotFoundError("no such tool")

    made = Lanes((Stage("broken", broken), *(Stage(str(n), lambda out: (0, Counts(1))) for n in range(3))))
    made.run()
    assert made.total == Counts(3, 1)
    assert "FileNotFoundError: no such tool" in capsys.readouterr().out


def test_two_stages_run_at_once() -> None:
    both = threading.Barrier(2, timeout=30)

    def meet(out: TextIO) -> tuple[int, Counts]:
        both.wait()
        return 0, Counts(1)

    made = Lanes((Stage("one", meet), Stage("other", meet)))
    made.run()
    assert made.total == Counts(2)


def test_output_of_a_stage_stays_together(capfd: pytest.CaptureFixture[str]) -> None:
    script = "import os, sys; [os.write(1 + n % 2, b'%s %d\\n' % (sys.argv[1].encode(), n)) for n in range(50)]"
    Lanes(tuple(Stage(name, plain(PYTHON, "-c", script, name)) for name in ("a", "b"))).run()
    printed = [line for line in capfd.readouterr().out.splitlines() if line.startswith(("a ", "b "))]
    assert sorted(printed) == sorted(f"{name} {n}" for name in "ab" for n in range(50))
    assert sum(one[0] != other[0] for one, other in pairwise(printed)) == 1


def test_a_hang_is_ended_with_all_that_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lanes, "STAGE_SECONDS", 1)
    # The grandchild holds the pipe: its end is what we see when it is dead, too.
    script = "import subprocess, sys; print('started', flush=True); subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    with open(tmp_path / "out", "w+") as out:
        code: list[int] = []
        assert list(lanes.lines_of([PYTHON, "-c", script], code, out, capture=True)) == ["started\n"]
        out.seek(0)
        assert "killed after 1 s" in out.read()
    assert code == [-9]


def test_each_part_is_there(root: Path) -> None:
    """The run of the rest leaves the parts out by name: one that was renamed would be run twice, and no other."""
    assert [part for part in check.PARTS if not any((root / "tests" / part).glob("test_*.py"))] == []
