"""What a `JoblibPool`'s workers are set up with: nesting, limits for the threads of compiled libraries, arrays in files."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Final

from ._functions import Encoder, Snapshot
from ._payload import Encoded

_where = threading.local()
_LIBRARIES: Final = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)  # fmt: skip


def level() -> int:
    """How many pools' workers the current code runs inside."""
    return int(getattr(_where, "level", 0))


def pools() -> tuple[Any, ...]:
    """Tokens of the pools of whose threads the current one is."""
    return getattr(_where, "pools", ())


class Entry:
    """The initializer of a pool's workers.

    Parameters
    ----------
    initializer, initargs
        The user's.
    token : object or None
        Known to a thread of the pool as its pool's; None: the workers are processes.
    """

    def __init__(self, initializer: Callable[..., Any] | None, initargs: tuple[Any, ...], token: Any) -> None:
        self.initializer = initializer
        self.initargs = initargs
        self.token = token
        self.level = level() + 1
        self.pools = () if token is None else (*pools(), token)

    def __call__(self) -> None:
        """On the worker, before its first task."""
        _where.level = self.level
        _where.pools = self.pools
        nest()
        if self.token is None and "joblib" not in sys.modules:
            sys.meta_path.insert(0, _Finder())
        if self.initializer is not None:
            self.initializer(*self.initargs)


def nest() -> None:
    """Let calls of joblib inside the tasks run on threads, and those inside of these one by one: joblib's own rule. It holds for
    the current thread, and once joblib is there: loading it takes longer than starting a worker, and most tasks need none."""
    module = sys.modules.get("joblib.parallel")
    if module is None or getattr(_where, "nests", False) or not hasattr(module, "SequentialBackend"):
        return  # not there yet, done, or being imported
    _where.nests = True
    enter = getattr(module, "parallel_config", None) or module.parallel_backend  # the latter up to joblib 1.2
    kind = module.ThreadingBackend if level() == 1 else module.SequentialBackend
    # Entered by being made, and never left.
    enter(kind(nesting_level=level()), n_jobs=1)


class _Finder(importlib.abc.MetaPathFinder):
    """Nests joblib in a worker process when it is imported there. Goes then. In the caller's process nothing is hooked: there threads
    look before each chunk."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The usual module, with a loader that configures it."""
        if fullname != "joblib.parallel":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        """As usual."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As usual, and then the rule."""
        self.loader.exec_module(module)
        nest()


def limits(n_jobs: int, cpus: int, wanted: int | None) -> Mapping[str, str]:
    """Variables that keep the thread pools of compiled libraries from using more than a worker's share of the CPUs.

    Parameters
    ----------
    n_jobs, cpus : int
        Workers; CPUs of this process.
    wanted : int or None
        Threads per worker; None: the share, where the user's environment does not say.
    """
    share = str(max(cpus // n_jobs, 1) if wanted is None else wanted)
    return {name: share for name in _LIBRARIES if wanted is not None or name not in os.environ}


class FileEncoder(Encoder):
    """Pickles tasks; arrays that are mapped from a file are mapped by the workers as well, so that what these write is in the file."""

    def __init__(self, snapshot: Snapshot | None) -> None:
        super().__init__(snapshot)
        self.files: Any = None

    def encode(self, obj: Any, plain: Callable[[Any], Encoded], what: str | Callable[..., Any]) -> Encoded:
        """See `Encoder`."""
        np = sys.modules.get("numpy")
        kind = type(obj[0]) if type(obj) is list else type(obj)
        # Numbers, and arrays that are tasks themselves, have forms of their own that are faster than a pickle.
        if np is None or kind in (int, float, str, range, np.float64, np.ndarray, FunctionType, BuiltinFunctionType):
            return super().encode(obj, plain, what)
        if self.files is None:
            from ._joblib_arrays import BatchEncoder

            self.files = BatchEncoder(self.snapshot, None, True)
        encoded: Encoded = self.files.encode(obj, plain, what)
        return encoded


__all__ = ["Entry", "FileEncoder", "level", "limits", "nest", "pools"]
