"""The crash table: for each moment and way of failing, which error must arrive, and what it must carry.

Rows that a caller meets in his own process (callback, iterator, initializer, ends of a pool) have their own files; this
table holds the moments in the life of one task.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from helpers import traps
from helpers.traps import DEATHS, EXCEPTIONS, ODD_EXCEPTIONS, Boom, Odd, Trap
from schwimmbad_go.error import PicklingError, RemoteError, TaskExit, TaskInterrupt, UnpicklingError, WorkerLost

TASKS = 12
BAD = 5
GOOD = [n * n for n in range(TASKS)]


@dataclass(frozen=True)
class Cell:
    """One entry of the table.

    `errors`: any of these is right. `index`: the error must name task BAD. `remote`: it must carry the worker's traceback.
    `in_place`: with return_exceptions it stands in the task's place; otherwise it is raised even then.
    """

    moment: str
    column: str
    errors: tuple[type[BaseException], ...]
    index: bool = True
    remote: bool = True
    in_place: bool = True

    def __str__(self) -> str:
        return f"{self.moment}-{self.column}".replace(" ", "_")

    def work(self) -> tuple[Callable[[Any], Any], Sequence[Any]]:
        """The function and the tasks; made anew for each map, since traps are used up."""
        home = os.getpid()
        plain = list(range(TASKS))

        def with_trap(moment: str) -> list[Any]:
            return [Trap(moment, self.column, n) if n == BAD else n for n in plain]

        away = {
            "inside the task": partial(traps.fail_inside, self.column, home, BAD),
            "result pickled": partial(traps.trap_as_result, "pickled away", self.column, home, BAD),
            "result rebuilt": partial(traps.trap_as_result, "rebuilt at home", self.column, home, BAD),
            "exception pickled": partial(traps.trap_as_error, "pickled away", self.column, home, BAD),
            "exception rebuilt": partial(traps.trap_as_error, "rebuilt at home", self.column, home, BAD),
            "exception never rebuilds": partial(traps.trap_as_error, "rebuilt away", self.column, home, BAD),
        }
        if self.moment == "function pickled":
            return Trap("pickled at home", self.column), plain
        if self.moment == "function rebuilt":
            return Trap("rebuilt away", self.column), plain
        if self.moment == "task pickled":
            return traps.value_of, with_trap("pickled at home")
        if self.moment == "task rebuilt":
            return traps.value_of, with_trap("rebuilt away")
        return away[self.moment], plain


# What a BaseException in the worker's own machinery (pickling, unpickling) becomes is free within these.
STOPS: dict[str, tuple[type[BaseException], ...]] = {
    "exception": (), "base": (Odd,), "exit": (TaskExit,), "interrupt": (TaskInterrupt,),
}
OWN: dict[str, type[BaseException]] = {
    "exception": Boom, "base": Odd, "exit": SystemExit, "interrupt": KeyboardInterrupt,
}


def cells() -> list[Cell]:
    found: list[Cell] = []

    # On the caller's own stack, what is no Exception is the caller's: his Ctrl-C, his sys.exit().
    for column in EXCEPTIONS:
        errors = (PicklingError, Boom) if column == "exception" else (OWN[column],)
        found.append(Cell("function pickled", column, errors, index=False, remote=False, in_place=False))
        found.append(Cell("task pickled", column, errors, index=column == "exception", remote=False, in_place=column == "exception"))
        for moment, instead in (("result rebuilt", (UnpicklingError,)), ("exception rebuilt", (UnpicklingError, RemoteError))):
            errors = instead if column == "exception" else (OWN[column], *instead)
            found.append(Cell(moment, column, errors, index=column == "exception", remote=False, in_place=column == "exception"))

    for column in EXCEPTIONS:
        unpickling, pickling = (UnpicklingError, *STOPS[column]), (PicklingError, *STOPS[column])
        found.append(Cell("function rebuilt", column, unpickling, index=False, in_place=False))
        found.append(Cell("task rebuilt", column, unpickling))
        found.append(Cell("result pickled", column, pickling))
        found.append(Cell("exception pickled", column, (RemoteError,)))
        found.append(Cell("exception never rebuilds", column, (RemoteError, UnpicklingError)))

    inside: dict[str, type[BaseException]] = {
        "exception": Boom, "base": Odd, "exit": TaskExit, "interrupt": TaskInterrupt,
        "unpicklable": RemoteError, "two arguments": RemoteError,
    }
    for column in (*EXCEPTIONS, *ODD_EXCEPTIONS):
        errors = (inside[column],) if column != "two arguments" else (RemoteError, UnpicklingError)
        found.append(Cell("inside the task", column, errors))

    for column in DEATHS:
        found.append(Cell("function rebuilt", column, (WorkerLost,), index=False, remote=False, in_place=False))
        for moment in ("task rebuilt", "inside the task", "result pickled", "exception pickled"):
            found.append(Cell(moment, column, (WorkerLost,), remote=False))
    return found


CELLS = cells()
BUILT_IN = {
    PicklingError: pickle.PicklingError, UnpicklingError: pickle.UnpicklingError, TaskExit: SystemExit,
    TaskInterrupt: KeyboardInterrupt,
}
