"""The ways to run a `JoblibPool`'s calls that need no engine: here and now, and through ``joblib.Parallel``.

Each has what a `Runner` has for a pool: `collect`, `stream`, `submit` and `broadcast`.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from . import _jl_options
from ._call import Call
from ._results import AsyncResult
from .error import PoolUnavailable
from .pool import _Failure, _place, _TaskRunner, run_now
from .serial import SerialPool


class Sequential:
    """On the caller's stack, as joblib does with ``n_jobs=1``. A limit per task works within SerialPool's bounds."""

    def __init__(self, options: _jl_options.Options) -> None:
        self.pool = SerialPool(initializer=options.initializer, initargs=options.initargs)

    def collect(self, call: Call) -> list[Any]:
        """Run a call and return its results in input order."""
        return self.pool._collect(call)

    def stream(self, call: Call) -> Generator[tuple[int, list[Any]], None, None]:
        """Run a call and yield each result."""
        return self.pool._stream(call)

    def submit(self, call: Call, result: AsyncResult[Any]) -> None:
        """Run a call now."""
        run_now(self.collect, call, result)

    def broadcast(self, call: Call) -> list[Any]:
        """Run the function here."""
        return self.pool._collect(call)


class Foreign:
    """Over a backend of somebody else's, through ``joblib.Parallel`` with the pool's arguments."""

    def __init__(self, options: _jl_options.Options, plan: _jl_options.Plan) -> None:
        if options.initializer is not None and not options.foreign:
            raise PoolUnavailable(
                f"the backend of the parallel_config around this call, {plan.parallel._backend!r}, runs no initializer of this "
                "pool; give the pool its backend="
            )
        self.options = options
        self.plan = plan
        self.backend = plan.parallel._backend

    def _run(self, call: Call, tasks: Iterable[Any], catch: bool, **changes: Any) -> Any:
        import joblib

        if call.timeout is not None:
            raise PoolUnavailable(
                f"joblib gives no hold on a task that runs on {self.backend!r}: no limit per task. JoblibPool(timeout=) is joblib's own"
            )
        if call.chunksize is not None:
            changes["batch_size"] = call.chunksize
        # The backend as it was resolved when the call was made: a stream may go on after the context has been left.
        parallel = self.options.parallel(backend=self.backend, n_jobs=self.plan.parallel.n_jobs, **changes)
        task = joblib.delayed(_TaskRunner(call.func, call.unpack, call.retries, catch))
        return parallel(task(item) for item in tasks)

    def collect(self, call: Call) -> list[Any]:
        """Run a call and return its results in input order."""
        if not call.return_exceptions:
            return list(self._run(call, call.tasks, False, return_as="list"))
        out: list[Any] = []
        for first, values in self.stream(call):
            _place(out, first, values)
        return out

    def stream(self, call: Call) -> Generator[tuple[int, list[Any]], None, None]:
        """Run a call and yield its results one by one."""
        return _indexed(self._values(call), call)

    def _values(self, call: Call) -> Iterator[Any]:
        if getattr(self.backend, "supports_return_generator", False):
            # Who iterates lazily looks at no index; joblib does not tell which result is which in order of completion.
            free = call.lazy and not call.ordered and getattr(self.backend, "supports_retrieve_callback", False)
            how = "generator_unordered" if free else "generator"
            results = self._run(call, call.tasks, call.return_exceptions, return_as=how)
            try:
                for value in results:  # noqa: UP028 - `yield from` would close it, and that is to be done quietly
                    yield value
            finally:
                with warnings.catch_warnings():  # joblib warns of what was computed and not taken: the user's choice
                    warnings.simplefilter("ignore")
                    results.close()
            return
        tasks = iter(call.tasks)
        while call.lazy:
            part = list(itertools.islice(tasks, (call.chunksize or 1) * self.plan.workers))
            if not part:
                return
            yield from self._run(call, part, call.return_exceptions, return_as="list")
        yield from self._run(call, tasks, call.return_exceptions, return_as="list")

    def submit(self, call: Call, result: AsyncResult[Any]) -> None:
        """Run a call now."""
        run_now(self.collect, call, result)

    def broadcast(self, call: Call) -> list[Any]:
        """Not possible."""
        raise PoolUnavailable(f"joblib gives no hold on the single workers of {self.backend!r}: no broadcast")


def _indexed(values: Iterator[Any], call: Call) -> Generator[tuple[int, list[Any]], None, None]:
    for index, value in enumerate(values):
        if isinstance(value, _Failure):
            value = value.error
            if call.failed is not None:
                call.failed.add(index)
        yield index, [value]


__all__ = ["Foreign", "Sequential"]
