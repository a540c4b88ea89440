"""Arrays on their way to joblib's workers.

joblib writes arrays above ``max_nbytes`` into a file, which workers map read-only. Here they lie in the shared memory of the pool,
once for all tasks that have them, and arrive read-only as well: a task that could write into one would change what later
tasks see. Arrays that the caller has mapped from a file are mapped by workers, too.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Callable
from pickle import PickleBuffer
from typing import Any

from ._functions import Encoder, Snapshot
from ._joblib_task import mapped, read_only
from ._payload import OUT_OF_BAND


class BatchEncoder(Encoder):
    """Pickles batches of calls.

    Parameters
    ----------
    snapshot : Snapshot or None
        See `Encoder`.
    max_nbytes : int or None
        Arrays above it [bytes] arrive read-only; None: no array does.
    files : bool
        Workers see the files of this machine.
    """

    def __init__(self, snapshot: Snapshot | None, max_nbytes: int | None, files: bool) -> None:
        super().__init__(snapshot, {})
        self.reduce = _reducer(max_nbytes, files)

    def encode(self, obj: Any, plain: Any, what: Any) -> Any:
        """See `Encoder`."""
        np = sys.modules.get("numpy")
        if np is not None and not self.reducers:  # numpy may have been loaded meanwhile, and then there may be arrays
            self.reducers = {np.ndarray: self.reduce, np.memmap: self.reduce}
        return super().encode(obj, plain, what)


def _reducer(max_nbytes: int | None, files: bool) -> Callable[[Any], Any]:
    limit = sys.maxsize if max_nbytes is None else max_nbytes

    def reduce(array: Any) -> Any:
        nbytes = array.nbytes
        if array.base is not None:
            found = _in_file(array, files)
            if found is not None:
                return found
        flags = array.flags
        if array.dtype.hasobject or (nbytes <= limit and (flags.writeable or nbytes < OUT_OF_BAND)):
            return array.__reduce_ex__(5)
        if not (flags.c_contiguous or flags.f_contiguous):
            array = array.copy()
            flags = array.flags
        order = "C" if flags.c_contiguous else "F"
        return read_only, (PickleBuffer(_frozen(array)), array.dtype, array.shape, order)

    return reduce


def _frozen(array: Any) -> Any:
    import numpy as np

    view = array.view(np.ndarray).reshape(-1, order="A").view(np.uint8)
    view.flags.writeable = False
    return view


def _in_file(array: Any, files: bool) -> Any:
    """How to map an array that lies in a mapped file; None if it does not, or if the file does not have what the array has."""
    import numpy as np

    root = array
    while not isinstance(root.base, mmap.mmap):
        root = root.base
        if not isinstance(root, np.ndarray):
            return None
    if not isinstance(root, np.memmap) or root.filename is None or array.dtype.hasobject or array.size == 0:
        return None
    # What was changed under "c" is in this process only. Elsewhere the file itself may not be there; but who maps it for writing
    # wants what tasks write, and has to see to it.
    if root.mode == "c" or not files and root.mode == "r":
        return None
    low, high = np.lib.array_utils.byte_bounds(array) if hasattr(np.lib, "array_utils") else np.byte_bounds(array)  # type: ignore[attr-defined]
    if low != array.__array_interface__["data"][0]:  # a stride is negative: sent as it is
        return None
    offset = low - root.__array_interface__["data"][0] + root.offset
    flags = array.flags
    contiguous = flags.c_contiguous or flags.f_contiguous
    order = "F" if flags.f_contiguous and not flags.c_contiguous else "C"
    mode = "r" if root.mode == "r" else "r+"
    strides = None if contiguous else array.strides
    return mapped, (str(root.filename), mode, offset, array.dtype, array.shape, strides, high - low, order)
