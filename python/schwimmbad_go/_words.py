"""Lists of numbers as 64-bit words, by a small library in C (``pyshim/words/words.c``).

What the standard library offers checks the types in one pass and converts in another, at 20 ns per number and more; the
library does both in 3 to 4. It is loaded with the first long list of numbers. Where there is none (an engine embedded in a
program, a Python without the C API of CPython) the caller's slower way gives the same bytes.
"""

from __future__ import annotations

import ctypes
import sys
import warnings
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

# In the order of `api` in words.c.
API: Final = (
    "PyLong_AsLongLongAndOverflow", "PyFloat_AsDouble", "PyList_Size", "PyList_GetItem", "PyBytes_FromStringAndSize",
    "PyBytes_AsString", "Py_IncRef", "Py_DecRef",
)  # fmt: skip
Pack = Callable[[list[Any], int, int, type], "bytes | None"]
_INT32: Final = 1 << 31

_loaded: tuple[Pack, Pack] | None = None


def pack(values: list[Any], first: int, count: int, kind: type) -> bytes | None:
    """The words of a long run of numbers of type `kind`: int, float or `numpy.float64`. None if one is of another type or does not fit,
    or where pickling would be as fast."""
    global _loaded
    if _loaded is None:
        path = library_path()
        try:
            _loaded = load(path) or (ints, floats)
        except (OSError, AttributeError) as error:
            text = f"{path} does not load, so that numbers take longer: {error}. Reinstall schwimmbad-go"
            warnings.warn(text, RuntimeWarning, stacklevel=1)
            _loaded = ints, floats
    return _loaded[kind is not int](values, first, count, kind)


def ints(values: list[Any], first: int, count: int, kind: type) -> bytes | None:
    """Without the library; then pickling is as fast if the ints need 32 bits, as the last of them tells."""
    last = values[first + count - 1]
    if type(last) is not int or -_INT32 <= last < _INT32:
        return None
    part = values[first : first + count]
    if list(map(type, part)).count(int) < count:
        return None
    np = sys.modules.get("numpy")
    try:
        return array("q", part).tobytes() if np is None else np.fromiter(part, np.int64, count).tobytes()
    except OverflowError:
        return None


def floats(values: list[Any], first: int, count: int, kind: type) -> bytes | None:
    """Without the library."""
    part = values[first : first + count]
    return array("d", part).tobytes() if set(map(type, part)) == {kind} else None


def library_path() -> Path:
    """Where the library lies, if this installation has it."""
    suffix = "dylib" if sys.platform == "darwin" else "so"
    return Path(__file__).with_name("_lib") / f"libschwimmbad_words.{suffix}"


def load(path: Path) -> tuple[Pack, Pack] | None:
    """The library's functions for ints and for floats, None where they are not to be had: ``(values, first, count, type)`` to bytes,
    or to None unless all values are of that very type and fit. Raises OSError or AttributeError where the file is broken."""
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()  # else another thread could change the list meanwhile
    if sys.implementation.name != "cpython" or not has_gil or not path.exists():
        return None
    lib = ctypes.PyDLL(str(path))
    functions = (ctypes.c_void_p * len(API))(*(ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value for name in API))
    lib.swg_words_bind.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, *(ctypes.py_object,) * 3)
    sample = [1, 1.0, "", (), [], None, object()]
    # The type is the last member of the object's head, also in builds without the GIL, whose head is longer.
    offset = object.__basicsize__ - ctypes.sizeof(ctypes.c_void_p)
    if not lib.swg_words_bind(functions, offset, None, sample, list(map(type, sample))):
        return None
    arguments = (ctypes.py_object, ctypes.c_ssize_t, ctypes.c_ssize_t, ctypes.py_object)
    for function in (lib.swg_words_ints, lib.swg_words_floats):
        function.restype, function.argtypes = ctypes.py_object, arguments
    return lib.swg_words_ints, lib.swg_words_floats
