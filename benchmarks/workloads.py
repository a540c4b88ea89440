"""What is measured: inputs, the goals they are held to, and how each differs from a plain map.

A case is built right before it runs and dropped right after: its inputs do not sit in memory meanwhile.
"""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tasks
from contenders import Contender

MB = 1_000_000


@dataclass(frozen=True)
class Goal:
    """A factor by which to beat a contender (at its default chunk size), or an absolute ceiling.

    against: a contender's key; "best" for the best peer, tuned or not; "limit" for a ceiling, in the row's
    unit, on our own value. A factor is "value of the other / ours". None: no such demand.
    """

    against: str
    must: float | None
    aim: float | None


@dataclass
class Case:
    """One map that every contender runs on the same input."""

    name: str
    title: str
    func: Callable[[Any], Any]
    inputs: Any
    workers: int = 2
    goals: tuple[Goal, ...] = ()
    ideal: float | None = None  # seconds of a perfect schedule, where that is known
    tune: tuple[int, ...] | None = None  # chunk sizes to try; None: the usual ladder
    per: int = 1  # one run counts as so many units (steps of a sampler)
    over_serial: bool = False  # report what the pool costs on top of the serial run
    serial: bool = True  # False: no serial run; the tasks are their own results

    def __len__(self) -> int:
        return len(self.inputs)

    def prepare(self, contender: Contender, chunksize: int | None, count: int) -> Callable[[], Any]:
        """A call that does the work once, on the first `count` tasks; what happens here is not timed."""
        func = self.func
        prepared = contender.adapt(self.inputs if count == len(self) else self.inputs[:count])
        return lambda: contender.map(func, prepared, chunksize)


class _Face:
    """A pool as samplers see it: an object with `map`."""

    def __init__(self, contender: Contender, chunksize: int | None) -> None:
        self._contender, self._chunksize = contender, chunksize

    def map(self, func: Callable[[Any], Any], inputs: Any) -> list[Any]:
        return self._contender.map(func, self._contender.adapt(inputs), self._chunksize)


@dataclass
class EmceeCase(Case):
    """A real emcee run; a sampler that goes on from where it stood, so that start-up is not counted."""

    walkers: int = 32
    start: np.ndarray = field(default_factory=lambda: np.random.default_rng(1).normal(size=(32, 5)))

    def __len__(self) -> int:
        return self.walkers // 2  # emcee maps one half of the walkers at a time

    def prepare(self, contender: Contender, chunksize: int | None, count: int) -> Callable[[], Any]:
        import emcee

        pool = _Face(contender, chunksize) if contender.parallel else None
        sampler = emcee.EnsembleSampler(self.walkers, self.start.shape[1], self.func, pool=pool)
        sampler.random_state = np.random.RandomState(1).get_state()
        sampler.run_mcmc(self.start, 1)

        def run() -> np.ndarray:
            sampler.run_mcmc(None, self.per)
            return sampler.get_chain()

        return run


def _tiny(quick: bool) -> Case:
    goals = (Goal("multiprocessing", 10, 17), Goal("schwimmbad", 25, 45))
    return Case("tiny", "16 tiny tasks per map, repeated", tasks.square, list(range(16)), goals=goals)


def _one(quick: bool) -> Case:
    return Case("one", "1 tiny task per map (latency)", tasks.square, [3], tune=())


def _rows(quick: bool) -> Case:
    goals = (Goal("multiprocessing", 6, 10), Goal("schwimmbad", 25, 40))
    rows = np.random.default_rng(2).normal(size=(16, 5))
    return Case("rows", "16 rows of a (16,5) ndarray to np.float64", tasks.log_prob, rows, goals=goals)


def _emcee(quick: bool) -> Case:
    goals = (Goal("multiprocessing", 3, 5), Goal("schwimmbad", 16, 25))
    title = "emcee, 32 walkers: a step, over the no-pool cost"
    return EmceeCase(
        "emcee", title, tasks.log_prob, None, goals=goals, per=2 if quick else 5, over_serial=True
    )


def _ints(quick: bool) -> Case:
    n = 50_000 if quick else 1_000_000
    goals = (Goal("multiprocessing", 1.5, 2), Goal("schwimmbad", 12, 15))
    return Case("ints", f"one map of {n:,} ints (list)", tasks.square, list(range(n)), goals=goals)


def _float64(quick: bool) -> Case:
    n = 5_000 if quick else 100_000
    goals = (Goal("multiprocessing", 3.5, 5), Goal("schwimmbad", 25, 30))
    rows = np.random.default_rng(3).normal(size=(n, 5))
    return Case("float64", f"{n:,} tasks returning np.float64", tasks.log_prob, rows, goals=goals)


def _arrays(quick: bool) -> Case:
    n = 4 if quick else 64
    goals = (Goal("multiprocessing", 5, 15), Goal("best", 1, 5))
    arrays = [np.full(MB, float(i)) for i in range(n)]
    return Case(
        "arrays", f"{n} arrays of 8 MB in and out", tasks.double, arrays, goals=goals, tune=(1, n // 2)
    )


def _callable(quick: bool) -> Case:
    goals = (Goal("multiprocessing", 130, 170), Goal("best", 2.7, 5))
    func = tasks.Likelihood(np.arange(10 * MB // 8, dtype=float))
    rows = np.random.default_rng(4).normal(size=(16, 5))
    return Case("callable", "callable carrying 10 MB (ndarray), 16 tasks", func, rows, goals=goals)


def _callable_objects(quick: bool) -> Case:
    """The honest counterpart: Python floats have no buffer to compare, every pool pickles them each time."""
    n = 50_000 if quick else 200_000
    func = tasks.Likelihood([float(i) for i in range(n)])
    rows = np.random.default_rng(4).normal(size=(16, 5))
    return Case("callable-objects", f"callable carrying a list of {n:,} floats, 16 tasks", func, rows)


def _riding(quick: bool) -> Case:
    goals = (Goal("multiprocessing", 50, 100),)
    likelihood = tasks.Likelihood(np.arange(10 * MB // 8, dtype=float))
    pairs = [(likelihood, row) for row in np.random.default_rng(4).normal(size=(16, 5))]
    return Case("riding", "the same 10 MB riding in each of 16 tasks", tasks.call_pair, pairs, goals=goals)


def _dynesty(quick: bool) -> Case:
    """One real map of dynesty: function and arguments are caught on their way out of a run."""
    import dynesty

    caught: list[tuple[Any, list[Any]]] = []

    class Recorder:
        size = 16

        def map(self, func: Any, arguments: Any) -> list[Any]:
            if hasattr(arguments[0], "loglikelihood"):
                caught.append((func, list(arguments)))
            return list(map(func, arguments))

    likelihood = tasks.Likelihood(np.arange(10 * MB // 8, dtype=float))
    sampler = dynesty.NestedSampler(
        likelihood,
        tasks.prior_transform,
        3,
        nlive=50,
        sample="rwalk",
        walks=5,
        pool=Recorder(),
        queue_size=16,
        use_pool={"update_bound": False},
        first_update={"min_ncall": 0, "min_eff": 100.0},
        rstate=np.random.default_rng(5),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynesty minds that the run is too short to be of use
        sampler.run_nested(maxiter=200, print_progress=False)
    func, arguments = caught[-1]
    goals = (Goal("multiprocessing", 50, 100),)
    return Case("dynesty", "a map of dynesty's own arguments, 10 MB, 16 tasks", func, arguments, goals=goals)


def heavy_tailed(total: float, n: int = 1000) -> np.ndarray:
    """n task lengths in seconds with that total, in falling order: the quantiles of a Pareto law, capped.

    At a = 1.25 the largest 3 % hold over a third of the work; the cap keeps the largest task at about half of
    the ideal makespan of 8 workers.
    """
    lengths = (1.0 - (np.arange(n) + 0.5) / n) ** (-1 / 1.25)
    lengths *= total / lengths.sum()
    lengths = np.minimum(lengths, total / 16)
    return np.sort(lengths * (total / lengths.sum()))[::-1]


def in_order(lengths: np.ndarray, workers: int) -> float:
    """Makespan in seconds when each free worker takes the next task at once: what an order allows."""
    free = [0.0] * workers
    for length in lengths:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def _heavy(order: str) -> Callable[[bool], Case]:
    def build(quick: bool) -> Case:
        lengths = heavy_tailed(0.4 if quick else 4.0)
        if order == "last":
            lengths = lengths[::-1]
        elif order == "shuffled":
            lengths = np.random.default_rng(6).permutation(lengths)
        ideal = max(lengths.sum() / 8, lengths.max())
        bound = in_order(lengths, 8)
        label = order if order == "shuffled" else f"heavy {order}"
        title = f"1,000 heavy-tailed sleeps, 8 workers, {label} (in order {bound * 1e3:.0f} ms)"
        # "1.05 of the best peer" is a factor of 1 / 1.05.
        goals = (Goal("best", 1 / 1.05, 1.0),)
        inputs = lengths.tolist()
        case = Case(f"heavy-{order}", title, tasks.sleep, inputs, 8, goals=goals, ideal=ideal)
        case.serial = False
        case.tune = () if quick else (1,)
        return case

    return build


def _busy(milliseconds: float, name: str) -> Callable[[bool], Case]:
    def build(quick: bool) -> Case:
        inputs = [(i, milliseconds / 1000) for i in range(16)]
        title = f"16 tasks of {milliseconds:g} ms CPU"
        return Case(name, title, tasks.busy, inputs, ideal=16 * milliseconds / 2000)

    return build


# In the order of the table. Names serve --only.
CASES: dict[str, Callable[[bool], Case]] = {
    "tiny": _tiny,
    "one": _one,
    "rows": _rows,
    "emcee": _emcee,
    "ints": _ints,
    "float64": _float64,
    "arrays": _arrays,
    "callable": _callable,
    "callable-objects": _callable_objects,
    "riding": _riding,
    "dynesty": _dynesty,
    "busy-200us": _busy(0.2, "busy-200us"),
    "busy-1ms": _busy(1.0, "busy-1ms"),
    "heavy-shuffled": _heavy("shuffled"),
    "heavy-first": _heavy("first"),
    "heavy-last": _heavy("last"),
}

# Needs a package besides the pools.
REQUIRES = {"emcee": "emcee", "dynesty": "dynesty"}
# Cases whose workers number is not the usual 2.
EIGHT_WORKERS = frozenset({"heavy-shuffled", "heavy-first", "heavy-last"})

ZERO_COPY_GOALS = (Goal("multiprocessing", None, 20),)
CREATE_GOALS = (Goal("multiprocessing", 1, 2),)
CPU_MASTER_GOALS = (Goal("multiprocessing", 1, None), Goal("limit", None, 4.5e-6))
CPU_WORKERS_GOALS = (Goal("multiprocessing", 1, None),)
