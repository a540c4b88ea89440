"""Deprecation of argument names, with the interface that schwimmbad took over from astropy."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

__all__ = ["deprecated_renamed_argument"]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class _Rename:
    """One old name, and what to do when a caller uses it."""

    old: str
    new: str | None
    since: Any
    in_kwargs: bool
    relax: bool
    pending: bool
    message: str

    def position(self, function: Callable[..., Any]) -> int | None:
        """Place of the argument in a call of `function`; None if it can only be given by name."""
        if self.in_kwargs:
            return None
        parameters = inspect.signature(function).parameters
        name = self.old if self.new is None else self.new
        if name not in parameters:
            raise TypeError(
                f'"{name}" is no argument of {function.__qualname__}; '
                "if it travels in **kwargs, set arg_in_kwargs=True"
            )
        kind = parameters[name].kind
        if kind is inspect.Parameter.KEYWORD_ONLY:
            return None
        if kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            raise TypeError(f'cannot rename "{name}": it is {kind.description}')
        return list(parameters).index(name)

    def text(self, alternative: str) -> str:
        """The warning."""
        if self.message:
            return self.message
        text = f'"{self.old}" was deprecated in version {self.since} and will be removed in a future version.'
        if self.new is not None:
            return f'{text} Use argument "{self.new}" instead.'
        return f"{text}\n        Use {alternative} instead." if alternative else text


def deprecated_renamed_argument(
    old_name: str | Sequence[str],
    new_name: str | Sequence[str | None] | None,
    since: Any,
    arg_in_kwargs: bool | Sequence[bool] = False,
    relax: bool | Sequence[bool] = False,
    pending: bool | Sequence[bool] = False,
    warning_type: type[Warning] = DeprecationWarning,
    alternative: str = "",
    message: str | Sequence[str] = "",
) -> Callable[[Callable[P, R]], Callable[..., R]]:
    """Decorator for a function one of whose arguments got a new name, in its old place, or is about to go.

    Parameters
    ----------
    old_name : str, or sequence of str
        The name that callers should stop using.
    new_name : str or None, or sequence of them
        What it is called now; None if the argument will go without a successor.
    since : str or number, or sequence of them
        The version that deprecated it.
    arg_in_kwargs : bool or sequence of bool
        The function receives the argument through ``**kwargs``.
    relax : bool or sequence of bool
        Given under both names, the new one wins with a UserWarning instead of a TypeError.
    pending : bool or sequence of bool
        Accept the old name, but do not warn yet.
    warning_type : type
        Category of the warning; its stack level is the caller's line.
    alternative : str
        What to use instead of an argument without successor; part of the warning.
    message : str or sequence of str
        Replaces the text of the warning.

    Returns
    -------
    callable
        The decorator. The decorated function raises TypeError ``cannot specify both "old" and "new".`` when
        it is given both, unless `relax`.

    Raises
    ------
    TypeError
        While decorating: the function has no such argument, or it is variadic or positional-only.
    """
    renames = _renames(old_name, new_name, since, arg_in_kwargs, relax, pending, message)

    def decorator(function: Callable[P, R]) -> Callable[..., R]:
        positions = [rename.position(function) for rename in renames]

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> R:
            for rename, position in zip(renames, positions, strict=True):
                by_position = position is not None and len(args) > position
                if rename.old not in kwargs and not (rename.new is None and by_position):
                    continue
                if not rename.pending:
                    warnings.warn(rename.text(alternative), warning_type, stacklevel=2)
                if rename.new is None or rename.old not in kwargs:
                    continue
                value = kwargs.pop(rename.old)
                if not by_position and rename.new not in kwargs:
                    kwargs[rename.new] = value
                elif rename.relax and not rename.pending:
                    both = f'"{rename.old}" and "{rename.new}" keywords were set. Using the value of '
                    warnings.warn(f'{both}"{rename.new}".', UserWarning, stacklevel=2)
                elif not rename.pending:
                    raise TypeError(f'cannot specify both "{rename.old}" and "{rename.new}".')
            return function(*args, **kwargs)

        return wrapper

    return decorator


def _renames(old_name: str | Sequence[str], *options: Any) -> list[_Rename]:
    """One `_Rename` per old name; options that are not sequences count for all."""
    if isinstance(old_name, str):
        return [_Rename(old_name, *options)]
    columns = [
        option if isinstance(option, (list, tuple)) else [option] * len(old_name) for option in options
    ]
    return [_Rename(*row) for row in zip(old_name, *columns, strict=True)]
