"""What workers run for joblib: a batch of calls, in the surroundings that joblib promises.

A batch travels as its calls alone; the function that they share, the backend of nested calls and the limits come with the
engine's function, which workers get once.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterable
from itertools import islice
from time import perf_counter
from typing import Any, Final

from . import _payload
from ._layout import PICKLE

_GROWTH: Final = 8  # of the number of calls between two looks at the clock

WHOLE: Final = 0
ARGS: Final = 1
SINGLE: Final = 2

Form = int | tuple[int, tuple[str, ...]]
Outcome = tuple[float, int, Any]  # seconds, how the results are encoded (see `_payload`), results


class Batch:
    """The engine's function for a batch.

    Parameters
    ----------
    func : callable or None
        Of all calls; None: the batch, or each call, brings its own.
    nested : joblib backend
        For calls of joblib inside the tasks.
    n_jobs : int or None
        Of such calls, where they do not say.
    threads : int or None
        Limit for the thread pools of compiled libraries; None: as the worker was started.
    budget : float or None
        Seconds after which the batch stops between two calls.
    """

    def __init__(self, func: Callable[..., Any] | None, nested: Any, n_jobs: int | None, threads: int | None, budget: float | None) -> None:
        self.func = func
        self.nested = nested
        self.n_jobs = n_jobs
        self.threads = threads
        self.budget = budget

    def __call__(self, task: tuple[Form, Callable[..., Any] | None, list[Any]]) -> Outcome:
        """Run the calls; fewer results than calls if the budget was used up.

        Parameters
        ----------
        task : (form, callable or None, list)
            The form of the calls, their function if it comes with them, and the calls. WHOLE: as ``(func, args, kwargs)``; ARGS: as
            ``args``; SINGLE: as the one argument of each; ``(n, names)``: as n arguments and the values of keywords.
        """
        form, own, calls = task
        run = _runner(form, self.func if own is None else own)
        with _nested(copy.copy(self.nested), self.n_jobs), _limited(self.threads):
            start = perf_counter()
            if self.budget is None:
                results = run(calls)
            else:
                results = self._run_for(run, calls, start, self.budget)
            seconds = perf_counter() - start
        kind, data = _payload.pack_numbers(results)
        return seconds, kind, data if kind == PICKLE else bytes(data)

    def _run_for(self, run: Callable[[Iterable[Any]], list[Any]], calls: list[Any], start: float, budget: float) -> list[Any]:
        rest = iter(calls)
        results: list[Any] = []
        block = 1
        while len(results) < len(calls):
            results += run(islice(rest, block))
            spent = perf_counter() - start
            if spent >= budget:
                break
            # Not more than what the budget leaves, by what calls took so far: one look too many costs 0.1 us.
            block = max(1, min(_GROWTH * block, int(len(results) * (budget - spent) / max(spent, 1e-9))))
        return results


def _runner(form: Form, func: Any) -> Callable[[Iterable[Any]], list[Any]]:
    """What runs calls in this form. Never map(): it would take a StopIteration for its end."""
    if form == SINGLE:
        return lambda calls: [func(arg) for arg in calls]
    if form == ARGS:
        return lambda calls: [func(*args) for args in calls]
    if form == WHOLE:
        return lambda calls: [f(*args, **kwargs) for f, args, kwargs in calls]
    count, names = form  # type: ignore[misc]
    return lambda calls: [func(*row[:count], **dict(zip(names, row[count:], strict=True))) for row in calls]


def _nested(backend: Any, n_jobs: int | None) -> Any:
    import joblib

    enter = getattr(joblib, "parallel_config", None) or joblib.parallel_backend  # the latter up to joblib 1.2
    return enter(backend, n_jobs=n_jobs)


_controller: Any = None
_modules = 0


def _limited(threads: int | None) -> contextlib.AbstractContextManager[Any]:
    """Limits the thread pools of the libraries that are loaded; the worker may be somebody's whose other tasks have none."""
    global _controller, _modules
    if threads is None:
        return contextlib.nullcontext()
    if _modules != len(sys.modules):  # libraries come with modules; looking for them takes a millisecond
        import threadpoolctl

        _controller = threadpoolctl.ThreadpoolController()
        _modules = len(sys.modules)
    return _controller.limit(limits=threads)  # type: ignore[no-any-return]


def read_only(buffer: Any, dtype: Any, shape: tuple[int, ...], order: Any) -> Any:
    """An array over memory that several tasks see."""
    import numpy as np

    array = np.frombuffer(buffer, dtype).reshape(shape, order=order)
    array.flags.writeable = False
    return array


def mapped(
    path: str, mode: str, offset: int, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...] | None, nbytes: int, order: Any
) -> Any:
    """An array in a file, as the master has it mapped.

    Parameters
    ----------
    path, mode, offset, dtype, shape, order
        As of ``numpy.memmap``.
    strides : tuple of int or None
        [bytes], where the array is not contiguous.
    nbytes : int
        From its first to behind its last byte.
    """
    import numpy as np

    if strides is None:
        return np.memmap(path, dtype=dtype, mode=mode, offset=offset, shape=shape, order=order)  # type: ignore[call-overload]
    flat = np.memmap(path, dtype=np.uint8, mode=mode, offset=offset, shape=(nbytes,))  # type: ignore[call-overload]
    return np.ndarray(shape, dtype, flat, 0, strides)
