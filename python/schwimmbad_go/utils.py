"""Splitting tasks into batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .decorators import deprecated_renamed_argument

__all__ = ["batch_tasks"]


@deprecated_renamed_argument("arr", "data", since="v0.4")
def batch_tasks(
    n_batches: int,
    n_tasks: int | None = None,
    data: Iterable[Any] | None = None,
    args: Iterable[Any] = (),
    start_idx: int = 0,
    include_idx: bool = True,
) -> list[Any]:
    """Split tasks into batches of nearly equal size, as index ranges or as slices of the data.

    Parameters
    ----------
    n_batches : int, >= 1
        Number of batches; more than there are tasks means one task per batch. Often ``pool.size``.
    n_tasks : int, >= 1, optional
        Number of tasks, to get index ranges ``(i, j)``. Either this or `data`.
    data : iterable, optional
        The tasks themselves, at least one; listed, so an array gives lists of its rows.
    args : iterable
        Added to every batch.
    start_idx : int
        Label of the first task: shifts the ranges and nothing else.
    include_idx : bool
        Whether a batch with `data` or `args` starts with its range.

    Returns
    -------
    list
        The batches; the first ``n_tasks % n_batches`` hold one task more. With ranges from `start_idx` on:

        =============== ============================ =======================
        given           ``include_idx=True``         ``include_idx=False``
        =============== ============================ =======================
        n_tasks         ``(i, j)``                   ``(i, j)``
        n_tasks, args   ``((i, j), *args)``          ``[*args]``
        data            ``((i, j), batch)``          ``batch``
        data, args      ``((i, j), batch, *args)``   ``[batch, *args]``
        =============== ============================ =======================

    Raises
    ------
    ValueError
        If neither or both of `n_tasks` and `data` are given, or nothing is to be split.
    TypeError
        If `data` is given under its old name ``arr`` as well, which alone is a DeprecationWarning.

    Notes
    -----
    schwimmbad sliced `data` with the shifted range, which lost the first `start_idx` tasks; this does not.
    """
    if (n_tasks is None) == (data is None):
        raise ValueError("you must pass one of n_tasks or data (not both)")
    args = tuple(args)
    items: list[Any] | None = None
    if data is not None:
        items = list(data)
        n_tasks = len(items)
    assert n_tasks is not None  # for the type checker: one of the two was given
    if n_batches <= 0 or n_tasks <= 0:
        raise ValueError("n_batches and n_tasks must be > 0")
    smaller, larger = divmod(n_tasks, min(n_batches, n_tasks))

    batches: list[Any] = []
    begin = 0
    while begin < n_tasks:
        end = begin + smaller + (len(batches) < larger)
        span = (begin + start_idx, end + start_idx)
        parts = args if items is None else (items[begin:end], *args)
        if not parts:
            batches.append(span)
        elif include_idx:
            batches.append((span, *parts))
        elif items is not None and not args:
            batches.append(parts[0])
        else:
            batches.append(list(parts))
        begin = end
    return batches
