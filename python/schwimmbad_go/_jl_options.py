"""The arguments of a `JoblibPool`: checked when it is made, resolved when it is used.

They are those of ``joblib.Parallel`` and mean what they mean there. What joblib resolves at the time of a call (contexts, nesting,
the number of CPUs) is resolved at the time of a call here, too: by joblib itself once it is loaded. As long as nobody has loaded it,
there is no context and no registered backend, and the rest of its rules are few enough to stand here: importing joblib takes longer
than starting the workers.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import operator
import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from . import _cpus, _engine
from ._call import checked_timeout
from ._jl_worker import level
from ._start import method_of

PROCESSES: Final = "processes"
THREADS: Final = "threads"
SEQUENTIAL: Final = "sequential"
FOREIGN: Final = "joblib"

# joblib's own backends, what they are here, and how worker processes start. loky's workers are fresh interpreters, free of what a
# fork copies (locks, OpenMP's threads: libgomp hangs in a forked child); those of "multiprocessing" are forked.
_OWN: Final = {
    "loky": (PROCESSES, "forkserver"),
    "multiprocessing": (PROCESSES, "fork"),
    "threading": (THREADS, ""),
    "sequential": (SEQUENTIAL, ""),
}
_JOBLIB_NAMES: Final = {
    "LokyBackend": "loky", "MultiprocessingBackend": "multiprocessing", "ThreadingBackend": "threading",
    "SequentialBackend": "sequential",
}  # fmt: skip
_RETURN_AS: Final = ("list", "generator", "generator_unordered")
# In the order of joblib >= 1.3. Before, there was no return_as; which order is meant shows by the third one's type.
_POSITIONS: Final = (
    "n_jobs", "backend", "return_as", "verbose", "timeout", "pre_dispatch", "batch_size", "temp_folder", "max_nbytes", "mmap_mode",
    "prefer", "require",
)  # fmt: skip
# Other pools' arguments, and those of joblib's own backends.
_OURS: Final = ("processes", "initializer", "initargs", "maxtasksperchild", "context", "start_method", "comm", "use_dill")
_BACKEND: Final = ("idle_worker_timeout", "inner_max_num_threads")
_NEEDED: Final = "joblib is required to use the JoblibPool"



@dataclass(frozen=True)
class Plan:
    """How one call is going to run.

    Attributes
    ----------
    kind : str
        PROCESSES, THREADS, SEQUENTIAL or FOREIGN.
    workers : int
        Tasks that run at once, >= 1.
    method : str
        How processes start.
    verbose : float
        Above 0: report progress.
    parallel : object
        FOREIGN: the ``joblib.Parallel`` as joblib set it up.
    """

    kind: str
    workers: int
    method: str = ""
    verbose: float = 0
    parallel: Any = None


class Options:
    """What a pool was made with.

    Raises
    ------
    TypeError, ValueError
        A wrong argument, as joblib words it where joblib checks it.
    ImportError
        The backend is joblib's to know, and joblib is not installed.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = _named(args, kwargs)
        self.processes = given.pop("processes", None)
        self.initializer: Callable[..., Any] | None = given.pop("initializer", None)
        self.initargs = tuple(given.pop("initargs", ()))
        self.max_tasks = given.pop("maxtasksperchild", None)
        self.context = given.pop("context", None)
        self.start_method = given.pop("start_method", None)
        self.inner_threads = given.get("inner_max_num_threads")
        for name in ("comm", "use_dill"):
            given.pop(name, None)
        if given.get("n_jobs") is None and self.processes is not None:
            given["n_jobs"] = self.processes
        self.given = given
        self.n_jobs = _checked_jobs(given.get("n_jobs"))
        self.return_as = _checked_return(given.get("return_as", "list"))
        self.timeout = checked_timeout(given.get("timeout"))
        self.batch_size = _checked_batch(given.get("batch_size", "auto"))
        self.pre_dispatch = given.get("pre_dispatch", "2 * n_jobs")
        self.ahead(2)
        self._check_rest()
        self.backend = given.get("backend")
        self.foreign = False
        self._check_backend()
        self._latest: tuple[Any, Plan] | None = None

    def _check_rest(self) -> None:
        given = self.given
        if self.initializer is not None and not callable(self.initializer):
            raise TypeError("initializer must be a callable")
        if self.max_tasks is not None and (not isinstance(self.max_tasks, int) or self.max_tasks <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        method_of(self.context, self.start_method)
        if self.inner_threads is not None and (not isinstance(self.inner_threads, int) or self.inner_threads < 1):
            raise ValueError(f"inner_max_num_threads must be a positive int or None, not {self.inner_threads!r}")
        verbose = given.get("verbose")
        if not isinstance(verbose, (int, float, type(None))):
            raise TypeError(f"verbose must be a number, not {verbose!r}")
        _check_max_nbytes(given.get("max_nbytes"))
        if given.get("mmap_mode") not in (None, "r", "r+", "w+", "c"):
            raise ValueError(f"mmap_mode must be None, 'r', 'r+', 'w+' or 'c', not {given['mmap_mode']!r}")
        if given.get("temp_folder") is not None:
            os.fspath(given["temp_folder"])
        prefer, require = given.get("prefer"), given.get("require")
        if prefer not in (None, "processes", "threads"):
            raise ValueError(f"prefer={prefer!r} is not a valid backend hint, expected one of ('processes', 'threads', None)")
        if require not in (None, "sharedmem"):
            raise ValueError(f"require={require!r} is not a valid backend constraint, expected one of ('sharedmem', None)")
        if prefer == "processes" and require == "sharedmem":
            raise ValueError("prefer == 'processes' and require == 'sharedmem' are inconsistent settings")

    def _check_backend(self) -> None:
        """Find out whether the backend is one that only joblib knows."""
        backend, given = self.backend, self.given
        if backend is None or isinstance(backend, str) and backend in _OWN:
            if given.get("require") == "sharedmem" and backend is not None and _OWN[backend][0] == PROCESSES:
                raise ValueError(f"Backend {backend} does not support shared memory")
        elif hasattr(backend, "Pool") and hasattr(backend, "Lock"):  # a context of multiprocessing, as joblib takes it
            self.context = self.context or backend
            self.backend = "multiprocessing"
        else:
            self.foreign = _own_name(backend) is None
        unknown = set(given) - set(_POSITIONS) - set(_BACKEND)
        if unknown and not self.foreign:
            name = sorted(unknown)[0]
            raise TypeError(f"JoblibPool() got an unexpected keyword argument {name!r}: it is none of joblib.Parallel's, nor of a pool's")
        if self.foreign:
            self.parallel()  # joblib's own checks

    # ---- at a call -----------------------------------------------------------------------------------------

    def plan(self, contexts: bool = True) -> Plan:
        """How a call runs that is made here and now.

        Parameters
        ----------
        contexts : bool
            False: as if there were no ``parallel_config`` around it.
        """
        joblib = sys.modules.get("joblib.parallel") if contexts or self.foreign else None
        if joblib is None:
            return self._own_plan()
        key = _surroundings(joblib)
        latest = self._latest
        if latest is not None and key is not None and _same(latest[0], key):
            return latest[1]
        plan = self._joblib_plan()
        if key is not None and plan.kind != FOREIGN:
            self._latest = key, plan
        return plan

    def _own_plan(self) -> Plan:
        given = self.given
        if self.backend is not None:
            name = self.backend if isinstance(self.backend, str) else str(_own_name(self.backend))
        elif given.get("require") == "sharedmem" or given.get("prefer") == "threads":
            name = "threading"
        else:  # inside of a worker: threads, and below those nothing parallel, as joblib nests
            name = ("loky", "threading", "sequential")[min(level(), 2)]
            if given.get("prefer") == "processes" and level() == 1:
                name = "loky"
        return self._as(name, _effective(_OWN[name][0], self.n_jobs), given.get("verbose") or 0)

    def _joblib_plan(self) -> Plan:
        parallel = self.parallel(return_as="list")  # whether it can do another is asked of a foreign one alone
        workers = max(int(parallel._effective_n_jobs()), 1)
        name = _own_name(parallel._backend)
        if name is None:
            return Plan(FOREIGN, workers, "", parallel.verbose or 0, parallel)
        if self.backend is None and name == "loky" and level():
            return self._own_plan()  # joblib does not know that it is in a worker
        return self._as(name, workers, parallel.verbose or 0)

    def _as(self, name: str, workers: int, verbose: float) -> Plan:
        kind, method = _OWN[name]
        if kind == PROCESSES and (self.context is not None or self.start_method is not None):
            method = method_of(self.context, self.start_method)
        if workers == 1 or _engine.dead():
            kind, workers = SEQUENTIAL, 1
        return Plan(kind, workers, method if kind == PROCESSES else "", verbose)

    def parallel(self, **changes: Any) -> Any:
        """A ``joblib.Parallel`` with these arguments, some of them changed.

        Raises
        ------
        ImportError
            joblib is not installed.
        """
        try:
            joblib = importlib.import_module("joblib")
        except ImportError as error:
            raise ImportError(
                f"{_NEEDED} with backend {self.backend!r}, which is none of {', '.join(_OWN)} (pip install joblib)"
            ) from error
        words = {**self.given, "backend": self.backend, **changes}
        if "return_as" not in inspect.signature(joblib.Parallel.__init__).parameters:  # joblib < 1.3
            words.pop("return_as", None)
        if not self.foreign:  # joblib < 1.3 refuses them; here it only resolves
            for name in _BACKEND:
                words.pop(name, None)
        if words.get("verbose", 0) is None:
            del words["verbose"]
        if self.foreign and self.initializer is not None:  # for the backend, if it knows what that is
            words.update(initializer=self.initializer, initargs=self.initargs)
        return joblib.Parallel(**words)

    def ahead(self, workers: int) -> int | None:
        """How many batches may be drawn and unanswered; None for "all".

        Raises
        ------
        ValueError
            The expression is none, or it gives less than 1: joblib then returns an empty list without running anything.
        """
        text = self.pre_dispatch
        if text == "all":
            return None
        value = _evaluate(text, workers) if isinstance(text, str) else text
        try:
            number = int(value)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"pre_dispatch must be 'all', a number or an expression of n_jobs, not {text!r}") from None
        if number < 1:
            if isinstance(text, str) and workers == 1:
                return 1
            raise ValueError(f"pre_dispatch must be at least 1, not {text!r}: nothing would run")
        return number


def _named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names: tuple[str, ...] = _POSITIONS
    if len(args) > 2 and not isinstance(args[2], str):
        names = tuple(n for n in names if n != "return_as")
    if len(args) > len(names):
        raise TypeError(f"JoblibPool() takes at most {len(names)} positional arguments, those of joblib.Parallel; {len(args)} were given")
    given = dict(zip(names, args, strict=False))
    twice = set(given) & set(kwargs)
    if twice:
        raise TypeError(f"JoblibPool() got multiple values for argument {sorted(twice)[0]!r}")
    return given | kwargs


def _checked_jobs(value: Any) -> int | None:
    if value is None:
        return None
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"n_jobs could not be converted to int: {value!r}") from None
    if number == 0:
        raise ValueError("n_jobs == 0 in Parallel has no meaning")
    return number


def _checked_return(value: Any) -> str:
    if value not in _RETURN_AS:
        raise ValueError(f"Expected `return_as` parameter to be one of {', '.join(map(repr, _RETURN_AS))}, but got {value!r} instead.")
    return str(value)


def _checked_batch(value: Any) -> int | None:
    if isinstance(value, str) and value == "auto":
        return None
    try:
        size = operator.index(value)
    except TypeError:
        size = 0
    if size < 1:
        raise ValueError(f"batch_size must be 'auto' or a positive integer, got: {value!r}")
    return size


def _check_max_nbytes(value: Any) -> None:
    if value is None or isinstance(value, (int, float)):
        return
    if not isinstance(value, str) or not re.fullmatch(r"\s*\d+(\.\d*)?\s*[KMG]", value):
        raise ValueError(f"max_nbytes must be None, a number of bytes, or a text such as '1M', not {value!r}")


_OPERATORS: Final[dict[type, Callable[..., Any]]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip


def _evaluate(text: str, n_jobs: int) -> float:
    """An arithmetic expression in which ``n_jobs`` may occur."""

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return node.value
        if isinstance(node, ast.Name) and node.id == "n_jobs":
            return n_jobs
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.operand))
        raise ValueError

    try:
        return float(value(ast.parse(text.strip(), mode="eval").body))
    except (ValueError, SyntaxError, ZeroDivisionError, OverflowError):
        raise ValueError(f"pre_dispatch must be 'all', a number or an arithmetic expression of n_jobs, not {text!r}") from None


def _effective(kind: str, n_jobs: int | None) -> int:
    """As joblib counts: -1 is every CPU, -2 all but one."""
    if n_jobs is None or kind == SEQUENTIAL or os.environ.get("JOBLIB_MULTIPROCESSING") == "0":
        return 1
    if n_jobs > 0:
        return n_jobs
    return max(cpu_count() + 1 + n_jobs, 1)


def cpu_count() -> int:
    """CPUs that this process may use, as joblib counts them: by affinity and cgroup, and no more than ``LOKY_MAX_CPU_COUNT``."""
    most = os.environ.get("LOKY_MAX_CPU_COUNT")
    count = _cpus.cpu_count()
    return count if most is None else max(min(count, int(most)), 1)


def _own_name(backend: Any) -> str | None:
    """The name of joblib's backend that this object is; None for anything else."""
    kind = type(backend)
    if kind.__module__ != "joblib._parallel_backends":
        return None
    return _JOBLIB_NAMES.get(kind.__name__)


def _surroundings(parallel: Any) -> tuple[Any, ...] | None:
    """Everything outside of a pool that joblib's resolution depends on, to be compared by identity; None: not known of this version."""
    local = getattr(parallel, "_backend", None)
    if not isinstance(local, threading.local):
        return None
    where = os.getpid(), threading.get_ident(), level()
    return where, getattr(parallel, "DEFAULT_BACKEND", None), *vars(local).values()


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return len(a) == len(b) and a[0] == b[0] and all(x is y for x, y in zip(a[1:], b[1:], strict=True))


__all__ = ["FOREIGN", "PROCESSES", "SEQUENTIAL", "THREADS", "Options", "Plan", "cpu_count"]
