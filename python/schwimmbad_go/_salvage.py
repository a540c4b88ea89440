"""Results of a chunk, one of which cannot be rebuilt: which one, and the others all the same.

Only on the way of errors, so it may be slow: Python's own unpickler, with every step that runs user code guarded. What
fails becomes a broken piece; the results that contain one are then found by pickling each of them again.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, ClassVar

from . import error as _error


class _Broken:
    """Stands for what could not be rebuilt. It takes every further step of the unpickler without complaint."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *_: Any, **__: Any) -> _Broken:
        return self

    def __setstate__(self, _: Any) -> None:
        return

    def append(self, _: Any) -> None:
        """As a list that is being filled."""

    def extend(self, _: Any) -> None:
        """As a list that is being filled."""

    def __setitem__(self, _: Any, __: Any) -> None:
        return

    def __reduce__(self) -> tuple[Any, ...]:
        raise _Found(self.error)


class _Found(Exception):
    """A broken piece was met while pickling."""


class _Unpickler(pickle._Unpickler):
    """Guards what runs user code: finding classes, calling them, setting state."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return super().find_class(module, name)
        except BaseException as error:
            return _Broken(error)


def _guarded(opcode: bytes, operands: int) -> None:
    """Replace a step by one that leaves a broken piece on the stack when it fails."""
    original = pickle._Unpickler.dispatch[opcode[0]]

    def step(self: Any) -> None:
        before = list(self.stack[-operands:])
        depth = len(self.stack) - operands
        if isinstance(before[0], _Broken):
            self.stack[depth:] = [before[0]]
            return
        try:
            original(self)
        except BaseException as error:
            self.stack[depth:] = [_Broken(error)]

    _Unpickler.dispatch[opcode[0]] = step


_guarded(pickle.REDUCE, 2)
_guarded(pickle.NEWOBJ, 2)
_guarded(pickle.NEWOBJ_EX, 3)
_guarded(pickle.BUILD, 2)


def results(data: bytes, buffers: list[Any], first: int) -> list[Any]:
    """The results in a pickled list; an `UnpicklingError` record stands for each that cannot be rebuilt."""
    from . import _errors

    values = _Unpickler(io.BytesIO(data), buffers=buffers).load()
    for i, value in enumerate(values):
        try:
            pickle.dumps(value, 5)
        except _Found as found:
            why = found.args[0]
            error = _error.UnpicklingError(
                f"the result of task {first + i} cannot be rebuilt here: {type(why).__name__}: {why}", index=first + i
            )
            values[i] = _errors.Failed(_errors.make_record(error, skip=0))
        except BaseException:  # it does not pickle a second time, but it did arrive
            continue
    return list(values)
