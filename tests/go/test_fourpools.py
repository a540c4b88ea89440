"""Go programs with all pools: alone, on the ranks of each MPI, and in trouble."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from capi.parse import ROOT
from helpers import leaks, mpirun
from mpi.test_link import headers

ALONE = "serial,multi,processes,joblib"
# The Python whose functions are mapped: the one that runs the tests, with the modules that it has.
PYTHON = {"SCHWIMMBAD_GO_PYTHON": sys.executable}


def build(package: str, out: Path, *flags: str, **variables: str) -> Path:
    built = subprocess.run(
        [os.environ.get("GO", "go"), "build", *flags, "-o", str(out), f"./tests/go/{package}"],
        cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return out


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without cgo: that is all a Go user needs for three of the pools, and for Python."""
    return build("fourpools", tmp_path_factory.mktemp("go") / "fourpools", CGO_ENABLED="0")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The program linked with a family's MPI, as docs/GO.md says."""
    made: dict[str, Path] = {}

    def find(family: str) -> Path:
        if family not in made:
            # The same in each run: flags are part of what Go's build cache goes by.
            link = mpirun.CACHE / f"link-{family}"
            link.mkdir(parents=True, exist_ok=True)
            libraries = Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or "")
            if family == "mpich":
                (link / "libmpi.so").write_text("INPUT(-lmpich)\n")  # Debian's has another name; this is a linker script
            made[family] = build(
                "fourpools", tmp_path_factory.mktemp(family) / "fourpools", "-tags", "mpi",
                CGO_ENABLED="1", CGO_CFLAGS=f"-O2 -I{shlex.quote(headers(family))}",
                CGO_LDFLAGS=f"-L{shlex.quote(str(link))} -L{libraries}",
            )  # fmt: skip
        return made[family]

    return find


def alone(program: Path, *args: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run it; no process of it may be left."""
    mark = uuid.uuid4().hex
    done = subprocess.run(
        [program, *args], capture_output=True, text=True, timeout=timeout, env={**os.environ, **PYTHON, "SWG_MARK": mark},
    )  # fmt: skip
    leaks.poll(lambda: not _marked(mark), 5)
    assert not _marked(mark), done.stderr
    return done


def _marked(mark: str) -> list[int]:
    word = f"SWG_MARK={mark}".encode()
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and word in leaks._read(int(p.name), "environ")]


def ranks(family: str, program: Path, tmp_path: Path, *args: str) -> mpirun.Result:
    runner = tmp_path / "run.py"
    runner.write_text(f"import os, sys\nos.execv({str(program)!r}, [{str(program)!r}, *sys.argv[1:]])\n")
    return mpirun.run(family, 3, runner, *args, timeout=60, env=PYTHON)


@pytest.mark.slow
def test_alone(program: Path) -> None:
    done = alone(program, "-pools", ALONE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "serial ok, workers: 0", "multi ok, workers: 2", "processes ok, workers: 2", "joblib ok, workers: 2",
    ]  # fmt: skip


@pytest.mark.slow
def test_crashes_of_processes(program: Path) -> None:
    for deed, words in (("exit", "ended with exit code 0"), ("kill", "SIGKILL")):
        done = alone(program, "-pools", "processes", "-python=false", "-crash", deed)
        assert done.returncode == 0 and words in done.stdout and "task 1" in done.stdout, (done.stdout, done.stderr)


@pytest.mark.slow
def test_the_master_dies(program: Path) -> None:
    """Workers in the middle of a task go with it."""
    mark = uuid.uuid4().hex
    command = [program, "-pools", "processes", "-python=false", "-crash", "sleep"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "SWG_MARK": mark}) as process:
        leaks.poll(lambda: len(_marked(mark)) == 3, 20)
        assert len(_marked(mark)) == 3
        process.send_signal(signal.SIGKILL)
    leaks.poll(lambda: not _marked(mark), 5)
    assert not _marked(mark)


@pytest.mark.slow
def test_what_is_missing(program: Path, tmp_path: Path) -> None:
    done = alone(program, "-pools", "mpi")
    assert done.returncode == 1 and "-tags mpi" in done.stderr and "unavailable: true" in done.stderr
    done = alone(build("careless", tmp_path / "careless", CGO_ENABLED="0"))
    assert done.returncode == 0 and "pools.Main()" in done.stdout, done


@pytest.mark.slow
def test_ranks(family: str, built: Callable[[str], Path], tmp_path: Path) -> None:
    """All pools and Python in one program; afterwards what ranks can have beside them."""
    done = ranks(family, built(family), tmp_path, "-pools", f"mpi,{ALONE}").ok()
    assert done.stdout.splitlines()[0] == "mpi ok, workers: 2" and len(done.stdout.splitlines()) == 5
    assert ranks(family, built(family), tmp_path, "-pools", "mpi-processes").ok().stdout == "mpi-processes ok, workers: 4\n"
    assert ranks(family, built(family), tmp_path, "-pools", "mpi-python").ok().stdout == "mpi-python ok, workers: 2\n"


@pytest.mark.slow
def test_crashes_of_ranks(family: str, built: Callable[[str], Path], tmp_path: Path) -> None:
    """A dead rank ends the job, with a word and a code, even one that left with code 0. A process beside a rank costs its task alone."""
    for deed in ("exit", "kill"):
        done = ranks(family, built(family), tmp_path, "-pools", "mpi", "-python=false", "-crash", deed)
        assert not done.left and "ok" not in done.stdout, done
        # hydra may see a rank leave with code 0 before rank 0 does, ends the job itself, and then with that code.
        assert done.returncode != 0 or (family, deed) == ("mpich", "exit"), done
        if done.returncode == 0:
            continue  # the hole of which docs/GO.md tells: then nobody else says anything either
        # The engine and the exception both say it, and name the task; but the launcher may end the job before them, in its own words.
        said = ("has died while it had task 1", "has died; MPI cannot go on", "TERMINATED WITH THE EXIT STRING", "EXIT CODE")
        assert any(words in done.stderr + done.stdout for words in said), done
    done = ranks(family, built(family), tmp_path, "-pools", "mpi-processes", "-python=false", "-crash", "kill").ok()
    assert "SIGKILL" in done.stdout and "rank " in done.stdout


@pytest.mark.slow
def test_no_launcher(family: str, built: Callable[[str], Path]) -> None:
    done = alone(built(family), "-pools", "mpi")
    assert done.returncode == 1 and "mpirun -n" in done.stderr and "unavailable: true" in done.stderr
