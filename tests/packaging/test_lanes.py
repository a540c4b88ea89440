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


FLAKY = """
import pathlib
def test_fine(): pass
def test_once():
    here = pathlib.Path(__file__).with_name("seen")
    seen = here.exists()
    here.touch()
    assert seen
"""


@pytest.mark.parametrize(("broken", "expected"), [(False, (0, Counts(2, 0, 0, 1))), (True, (1, Counts(1, 1)))])
def test_failed_tests_run_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool, expected: tuple[int, Counts]
) -> None:
    """Only what failed, and it is named; what fails again has failed."""
    (tmp_path / "test_flaky.py").write_text(FLAKY + ("    raise OSError\n" if broken else ""))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    monkeypatch.setattr(check, "_second", [])
    with (tmp_path / "out").open("w+") as out:
        assert check.pytest("-c", str(tmp_path / "pytest.ini"), str(tmp_path))(out) == expected
    assert [name.endswith("test_once") for name in check._second] == ([] if broken else [True])
    assert "once more" in (tmp_path / "out").read_text()


GO_FLAKY = """package flaky

import ("os"; "testing")

func TestFine(t *testing.T) {}

func TestOnce(t *testing.T) {
	_, err := os.Stat("seen")
	os.WriteFile("seen", nil, 0o600)
	if err != nil || BROKEN { t.Fatal("WORDS") }
}
"""


@pytest.mark.parametrize(
    ("broken", "words", "code", "counts"),
    [
        ("false", "once", 0, Counts(2, 0, 0, 1)),
        ("true", "always", 1, Counts(1, 1)),
        ("false", "WARNING: DATA RACE", 1, Counts(1, 1)),  # what the detector says is no accident
    ],
)
def test_so_do_failed_go_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, words: str, code: int, counts: Counts
) -> None:
    (tmp_path / "go.mod").write_text("module example.org/flaky\ngo 1.26\n")
    (tmp_path / "flaky_test.go").write_text(GO_FLAKY.replace("BROKEN", broken).replace("WORDS", words))
    monkeypatch.setattr(lanes, "ROOT", tmp_path)
    monkeypatch.setattr(check, "_second", [])
    with (tmp_path / "out").open("w+") as out:
        assert check.go_test()(out) == (code, counts), (tmp_path / "out").read_text()
    assert check._second == ([] if code else ["example.org/flaky TestOnce"])
