"""schwimmbad_go: schwimmbad's pools on an engine written in Go.

Use it as ``import schwimmbad_go as schwimmbad``, or run an unchanged script with
``python -m schwimmbad_go run``.

Importing this package loads no shared library, no MPI and no optional dependency: the pools' modules are
imported when they are first asked for, and the engine when a pool that needs it is made.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING, Any

from ._version import version as __version__

if TYPE_CHECKING:
    from . import decorators as decorators
    from . import error as error
    from . import jl as jl
    from . import mpi as mpi
    from . import multiprocessing as multiprocessing
    from . import pool as pool
    from . import serial as serial
    from . import utils as utils
    from .jl import JoblibPool
    from .mpi import MPIPool
    from .multiprocessing import MultiPool
    from .serial import SerialPool

__all__ = ["JoblibPool", "MPIPool", "MultiPool", "SerialPool", "__version__", "choose_pool", "register_joblib_backend"]

__author__ = "The schwimmbad-go authors"

if "SCHWIMMBAD_GO_FD" in os.environ:
    from . import _inherited

    _inherited.claim()  # before a child could inherit it

# Gone from schwimmbad since 0.4.0, but old scripts set the level of the logger.
_VERBOSE = 5
log = logging.getLogger("schwimmbad")
log.addHandler(logging.NullHandler())

_POOLS = {"JoblibPool": "jl", "MPIPool": "mpi", "MultiPool": "multiprocessing", "SerialPool": "serial"}
# Of schwimmbad `import schwimmbad; schwimmbad.utils.batch_tasks` works without an import of the submodule.
_SUBMODULES = frozenset({"decorators", "error", "jl", "mpi", "multiprocessing", "pool", "serial", "utils"})


def __getattr__(name: str) -> Any:
    if name in _POOLS:
        value = getattr(importlib.import_module(f".{_POOLS[name]}", __name__), name)
        globals()[name] = value  # next time without this detour
        return value
    if name in _SUBMODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})


def choose_pool(
    mpi: bool = False, processes: int | None = 1, **kwargs: Any
) -> MPIPool | MultiPool | SerialPool:
    """Make the pool that options such as ``--mpi`` and ``--ncores`` ask for.

    Parameters
    ----------
    mpi : bool
        Make an MPIPool; `processes` is ignored.
    processes : int or None
        1 makes a SerialPool, anything else a MultiPool of that many workers; None means one per usable CPU.
    **kwargs
        For the pool. Arguments that only other pools understand (``use_dill``, ``comm``, ``initializer`` and
        so on) do no harm.

    Returns
    -------
    MPIPool, MultiPool or SerialPool

    Raises
    ------
    SystemError
        MPI was asked for, but this is not an MPI run; the message says what was found and what to type.
    ValueError, TypeError
        As the pool's constructor.
    """
    if mpi:
        from .mpi import MPIPool, OneProcess, _why_alone

        refused = "Tried to run with MPI but MPIPool not enabled."
        if not MPIPool.enabled() and not kwargs.get("master_works"):
            raise SystemError(f"{refused} {_why_alone()}")
        try:
            return MPIPool(**kwargs)
        except OneProcess as error:  # a launcher, but not this MPI library's
            raise SystemError(f"{refused} {error.why}") from None
    if processes != 1:
        from .multiprocessing import MultiPool

        if MultiPool.enabled():
            return MultiPool(processes=processes, **kwargs)
    from .serial import SerialPool

    return SerialPool(**kwargs)


def register_joblib_backend(make_default: bool = False) -> None:
    """Make ``"schwimmbad"`` a backend of joblib's in this process: ``joblib.parallel_config(backend="schwimmbad")``.

    Parameters
    ----------
    make_default : bool
        `joblib.Parallel`, and with it scikit-learn, uses it where nothing else is said.

    Raises
    ------
    ImportError
        joblib is not installed.
    """
    from ._joblib import register  # imports joblib

    register(make_default)
