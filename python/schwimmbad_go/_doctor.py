"""``doctor``: what works here, and what to do about what does not.

Each finding stands for itself: one that cannot be had is a finding, too. Libraries are loaded in processes of their own, since one that
crashes, or an MPI that takes a process with it, is what one wants to hear about.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from . import __version__, _inherited, _launcher, _libmpi
from ._cpus import affinity_count, cgroup_limit, cpu_count
from ._engine import in_program

__all__ = ["Finding", "examine", "report", "selftest"]

#: What a finding can be: works; works, but look; is not there, and need not be; is there and does not work, or must be there.
OK, NOTE, ABSENT, BROKEN = "ok", "note", "absent", "broken"

_PROBE_SECONDS: Final = 60  # [s] for a process that loads a library, on a cold network file system
_SELFTEST_SECONDS: Final = 120  # [s] for mpirun on a loaded machine

#: Optional packages: what they are for, and the extra that brings them.
_PACKAGES: Final = {
    "numpy": ("arrays without copies", "numpy"),
    "cloudpickle": ("lambdas and closures as functions", "schwimmbad-go[cloudpickle]"),
    "dill": ("use_dill=True", "schwimmbad-go[dill]"),
    "joblib": ("JoblibPool's backends of joblib", "schwimmbad-go[joblib]"),
    "mpi4py": ("communicators of the script's own", "schwimmbad-go[mpi4py]"),
    "tqdm": ("progress bars", "schwimmbad-go[progress]"),
}


class Finding(NamedTuple):
    """One line of the report.

    Attributes
    ----------
    name : str
        What was looked at.
    status : str
        ``"ok"``, ``"note"``, ``"absent"`` or ``"broken"``.
    value : str
        What was found.
    advice : str
        What to do about it; empty where there is nothing to do.
    """

    name: str
    status: str
    value: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at everything, in half a second. Never raises: what goes wrong is a finding."""
    steps: list[Callable[[], Iterator[Finding]]] = [_package, _engine, _cpus, _mpi, _launch, _optional]
    findings: list[Finding] = []
    for step in steps:
        try:
            findings.extend(step())
        except Exception as error:
            findings.append(Finding(step.__name__.strip("_"), BROKEN, f"{type(error).__name__}: {error}", "report this as a bug"))
    return findings


def selftest() -> list[Finding]:
    """Run a map of three tasks over every pool, in a process of its own each; MPI under each launcher that has an engine library."""
    findings = [_selftest_local(name) for name in ("SerialPool()", "MultiPool(2)", "JoblibPool(2)")]
    for family, launcher in _launchers().items():
        if launcher is not None and _libmpi.variant_path(family).is_file():
            findings.append(_selftest_mpi(family, launcher))
    return findings


def report(findings: Sequence[Finding], as_json: bool = False) -> int:
    """Print findings; the exit code is 1 if any is broken, else 0."""
    if as_json:
        print(json.dumps([finding._asdict() for finding in findings], indent=1))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print(f"{finding.status:<6}  {finding.name:<{width}}  {finding.value}")
            if finding.advice:
                print(f"{'':<{width + 8}}  -> {finding.advice}")
    return 1 if any(finding.status == BROKEN for finding in findings) else 0


# --- this installation --------------------------------------------------------------------------------------------------


def _package() -> Iterator[Finding]:
    yield Finding("schwimmbad_go", OK, f"{__version__} in {Path(__file__).parent}")
    # sys._is_gil_enabled is new in Python 3.13.
    gil = "" if getattr(sys, "_is_gil_enabled", lambda: True)() else ", without GIL"
    yield Finding("python", OK, f"{platform.python_version()} ({platform.python_implementation()}{gil}), {sys.executable}")
    libc = " ".join(platform.libc_ver()).strip() or ("musl" if "musl" in (sysconfig.get_config_var("SOABI") or "") else "unknown C library")
    yield Finding("platform", OK, f"{platform.platform()}, {libc}")
    yield Finding("start methods", OK, ", ".join(multiprocessing.get_all_start_methods()))
    original = importlib.util.find_spec("schwimmbad")
    if original is not None and original.origin and Path(original.origin).parent != Path(__file__).parent:
        yield Finding(
            "schwimmbad", NOTE, f"the original is installed as well, in {Path(original.origin).parent}",
            "'import schwimmbad' means the original; under 'schwimmbad-go run' it means this package",
        )  # fmt: skip


def _engine() -> Iterator[Finding]:
    if _inherited.fd is not None:
        yield Finding("engine", OK, "in the program schwimmbad-go, over a socket")
        return
    code = "from schwimmbad_go import _engine; l = _engine.library(); print(l.swg_version().decode(), _engine.origin())"
    done = _python(code)
    if done.returncode == 0:
        version, _, path = done.stdout.strip().partition(" ")
        same = version == __version__
        advice = "" if same else "the library is of another version than the package: reinstall schwimmbad-go"
        where = f"in a process of {path}: this installation has no library" if in_program() else path
        yield Finding("engine", OK if same else NOTE, f"{version}, {where}", advice)
    else:
        yield Finding(
            "engine", BROKEN, _last_line(done),
            "'pip install .' builds it; 'schwimmbad-go run script.py' works without",
        )  # fmt: skip
    yield from _numbers()
    for family, title in _launcher.TITLES.items():
        variant = _libmpi.variant_path(family)
        if variant.is_file():
            yield Finding(f"engine, {title}", OK, str(variant))
        else:
            yield Finding(
                f"engine, {title}", ABSENT, _why_skipped(family),
                f"install its headers (Debian: lib{family}-dev), then schwimmbad-go again, from source",
            )  # fmt: skip


def _numbers() -> Iterator[Finding]:
    done = _python("from schwimmbad_go import _words; p = _words.library_path(); print(p if _words.load(p) else '')")
    if done.returncode != 0:
        yield Finding("numbers", BROKEN, _last_line(done), "lists of numbers take longer: reinstall schwimmbad-go")
    elif done.stdout.strip():
        yield Finding("numbers", OK, done.stdout.strip())
    else:
        yield Finding("numbers", ABSENT, "no library for this Python: lists of numbers take longer")


def _why_skipped(family: str) -> str:
    try:
        info: Any = importlib.import_module("._build_info", __package__)
    except ImportError:
        return "not built"
    return f"not built: {info.SKIPPED.get(family, 'no reason known')}"


def _cpus() -> Iterator[Finding]:
    limit = cgroup_limit()
    value = f"{cpu_count()} usable (affinity {affinity_count()}, cgroup {limit or 'without limit'}, machine {os.cpu_count()})"
    yield Finding("cpus", OK, value)


# --- MPI ----------------------------------------------------------------------------------------------------------------

_LAUNCHERS: Final = {
    "openmpi": ("mpirun.openmpi", "orterun", "prterun"),
    "mpich": ("mpiexec.mpich", "mpiexec.hydra"),
}


def _launchers() -> dict[str, str | None]:
    """The launcher of each family, by its own name or as plain mpirun."""
    plain = shutil.which("mpirun") or shutil.which("mpiexec")
    family_of_plain = _launcher.family_of_mpirun()
    return {
        family: next((path for name in names if (path := shutil.which(name))), plain if family_of_plain == family else None)
        for family, names in _LAUNCHERS.items()
    }


def _mpi() -> Iterator[Finding]:
    launchers = _launchers()
    for family, title in _launcher.TITLES.items():
        launcher = launchers[family]
        if launcher is None:
            names, package = ", ".join(_LAUNCHERS[family]), {"openmpi": "openmpi-bin", "mpich": "mpich"}[family]
            yield Finding(f"launcher, {title}", ABSENT, f"none of {names} is on PATH", f"Debian: apt install {package}")
        else:
            yield Finding(f"launcher, {title}", OK, launcher)
        code = (
            "from schwimmbad_go import _libmpi; l = _libmpi.load(False); "
            f"assert l.family == {family!r}, f'found {{l}} instead'; print(l, 'by', l.how)"
        )
        done = _python(code, {"SCHWIMMBAD_GO_MPI": family})
        if done.returncode == 0:
            yield Finding(f"library, {title}", OK, done.stdout.strip())
        elif launcher is not None:
            yield Finding(f"library, {title}", BROKEN, _last_line(done), "the launcher is there: is its lib directory in LD_LIBRARY_PATH?")
        else:
            yield Finding(f"library, {title}", ABSENT, _last_line(done))


def _launch() -> Iterator[Finding]:
    started = _launcher.launch()
    if started is not None:
        size = "an unknown number of" if started.size is None else started.size
        family = _launcher.TITLES.get(started.family or "", "an unknown MPI")
        yield Finding("this run", OK, f"started by {family}'s launcher ({started.variable}), {size} processes")
    elif "SLURM_JOB_ID" in os.environ:
        yield Finding("this run", NOTE, "inside a Slurm job, but not started by srun or mpirun", "put srun or mpirun in front for MPIPool")


# --- optional packages --------------------------------------------------------------------------------------------------


def _optional() -> Iterator[Finding]:
    for name, (purpose, extra) in _PACKAGES.items():
        try:
            yield Finding(name, OK, f"{importlib.metadata.version(name)}, for {purpose}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, ABSENT, f"for {purpose}", f"pip install '{extra}'")


# --- the self-test ------------------------------------------------------------------------------------------------------


def _selftest_local(pool: str) -> Finding:
    code = (
        f"import schwimmbad_go\nwith schwimmbad_go.{pool} as pool:\n"
        "    found = list(pool.map(abs, [-1, 2, -3]))\nassert found == [1, 2, 3], found"
    )
    if _inherited.fd is not None:  # which is this process's alone
        try:
            exec(code, {})
        except Exception as error:
            return Finding(f"selftest {pool}", BROKEN, f"{type(error).__name__}: {error}")
        return Finding(f"selftest {pool}", OK, "3 tasks")
    done = _python(code, seconds=_SELFTEST_SECONDS)
    return Finding(f"selftest {pool}", OK if done.returncode == 0 else BROKEN, "3 tasks" if done.returncode == 0 else _last_line(done))


def _selftest_mpi(family: str, launcher: str) -> Finding:
    code = (
        "import schwimmbad_go\nwith schwimmbad_go.MPIPool() as pool:\n"
        "    found = pool.map(abs, [-1, 2, -3])\nassert found == [1, 2, 3], found"
    )
    variables = {"SCHWIMMBAD_GO_MPI": family}
    if os.getuid() == 0:
        variables.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        variables.update(PRTE_ALLOW_RUN_AS_ROOT="1", PRTE_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    variables.update(OMPI_MCA_rmaps_base_oversubscribe="1", PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe")
    done = _run([launcher, "-n", "2", sys.executable, "-c", code], variables, _SELFTEST_SECONDS)
    name = f"selftest MPIPool(), {_launcher.TITLES[family]}"
    if done.returncode == 0:
        return Finding(name, OK, f"3 tasks, {launcher} -n 2")
    return Finding(name, BROKEN, _last_line(done), f"try: {launcher} -n 2 hostname")


# --- processes ----------------------------------------------------------------------------------------------------------


def _python(code: str, variables: dict[str, str] | None = None, seconds: float = _PROBE_SECONDS) -> subprocess.CompletedProcess[str]:
    """Run code in a process that finds this very package."""
    return _run([sys.executable, "-c", code], variables or {}, seconds)


def _run(command: list[str], variables: dict[str, str], seconds: float) -> subprocess.CompletedProcess[str]:
    # A run of its own, not a rank of this one.
    environ = {**_launcher.scrubbed(), **variables}
    environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [environ.get("PYTHONPATH")])])
    try:
        return subprocess.run(
            command, env=environ, text=True, errors="replace", stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no end within {seconds:g} s")
    except OSError as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"exit code {done.returncode}, and nothing said"
