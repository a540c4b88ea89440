"""What ``schwimmbad-go map`` calls in workers: a record's bytes to a value, the user's function, its result to bytes.

The command cuts its input into records and puts results out without a look at what is in them, so that numbers, NaN and long integers
are what Python's own ``json`` makes of them.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import importlib.util
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

__all__ = ["caller", "find"]

_DECODER = json.JSONDecoder()
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=lambda value: _plain(value))
_ASCII_ENCODER = json.JSONEncoder(separators=(",", ":"), default=lambda value: _plain(value))


def caller(target: str, read: str, write: str, call: str = "value") -> Callable[[bytes], bytes]:
    """The function that workers map over records.

    From here on what tasks print goes to standard error: standard output carries the results.

    Parameters
    ----------
    target : str
        The user's function, see `find`.
    read, write : str
        What records and results are: ``"json"``, ``"text"``, ``"msgpack"``; results also ``"row"``, see `_encode_row`.
    call : str
        ``"value"``: a record is the function's only argument; ``"list"``: the list of its arguments; ``"names"``: a mapping of its
        keyword arguments.

    Returns
    -------
    callable
        Takes and returns bytes. Raises what the function raises, and TypeError for a result that has no such form.

    Raises
    ------
    ImportError, AttributeError, TypeError
        As `find`.
    """
    sys.stdout.flush()
    os.dup2(2, 1)
    function, decode, encode = find(target), _DECODERS[read], _ENCODERS[write]
    if call == "list":
        evaluate: Callable[[Any], Any] = lambda value: function(*value)  # noqa: E731 - two lines of def say less
    elif call == "names":
        evaluate = lambda value: function(**value)  # noqa: E731
    else:
        evaluate = function
    return lambda record: encode(evaluate(decode(record)))


def find(target: str) -> Callable[..., Any]:
    """The function that a command line names.

    Parameters
    ----------
    target : str
        ``module:function`` or ``path/to/file.py:function``, where the function may be dotted (``module:Class.method``). Modules are looked
        for in the working directory first, as by ``python -m``.

    Raises
    ------
    ValueError
        There is no colon, or nothing before or behind it.
    ImportError, AttributeError, TypeError
        There is no such module; no such name in it; what it names cannot be called.
    """
    module_name, _, name = target.rpartition(":")
    if not module_name or not name:
        raise ValueError(f"{target!r} names no function: write module:function or file.py:function")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    value: Any = _file(module_name) if module_name.endswith(".py") else importlib.import_module(module_name)
    for part in name.split("."):
        value = getattr(value, part)
    if not callable(value):
        raise TypeError(f"{target} is no function, but a {type(value).__name__}")
    return value  # type: ignore[no-any-return]


def _file(name: str) -> Any:
    """The module in a file. Its directory is searched for the modules that it imports, as Python does for a script."""
    path = Path(name).resolve()
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # so that its classes can be pickled
    try:
        spec.loader.exec_module(module)
    except BaseException:  # the user's code, Ctrl-C in it too; raised on: a half-made module must not be found later
        del sys.modules[path.stem]
        raise
    return module


def _decode_json(record: bytes) -> Any:
    text = record.decode()  # json.loads guesses the encoding, which takes longer than short records do
    try:
        value, end = _DECODER.raw_decode(text)  # decode() looks for spaces around the value: 0.4 us, twice what a number takes
    except json.JSONDecodeError:
        end = -1
    return value if end == len(text) else _DECODER.decode(text)


def _encode_json(value: Any) -> bytes:
    kind = type(value)
    if kind is float and math.isfinite(value):  # as the encoder would, in a third of its time
        return repr(value).encode()
    if kind is int:
        return b"%d" % value
    try:
        return _ENCODER.encode(value).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot hold
        return _ASCII_ENCODER.encode(value).encode()


def _encode_row(value: Any) -> bytes:
    """A row of a table: column names and their texts. A mapping has names, a sequence numbers its columns, anything else is one."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        names, cells = [str(key) for key in value], list(value.values())
    elif isinstance(value, (list, tuple)):
        names, cells = [str(i) for i in range(len(value))], list(value)
    else:
        names, cells = ["result"], [value]
    return _encode_json([names, ["" if c is None else c if isinstance(c, str) else _encode_json(c).decode() for c in cells]])


def _plain(value: Any) -> Any:
    """What JSON has no word for, in the nearest form: arrays and NumPy's numbers, sets, dates, paths, dataclasses."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON: return numbers, strings, lists or dicts")


def _encode_text(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    return str(value).encode(errors="surrogateescape")


def _decode_text(record: bytes) -> str:
    return record.decode(errors="surrogateescape")


def _decode_msgpack(record: bytes) -> Any:
    from . import _msgpack  # only where it is asked for

    (value,) = _msgpack.unpack(record)
    return value


def _encode_msgpack(value: Any) -> bytes:
    from . import _msgpack

    try:
        return bytes(_msgpack.pack([_plain_msgpack(value)])[0])
    except TypeError:
        raise TypeError(f"a {type(value).__name__} cannot be written as msgpack: return numbers, strings, bytes, lists or dicts") from None


def _plain_msgpack(value: Any) -> Any:
    """Arrays as lists: the extension for arrays is for Go alone, and other readers of the output do not know it."""
    if isinstance(value, dict):
        return {key: _plain_msgpack(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_msgpack(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


_DECODERS: dict[str, Callable[[bytes], Any]] = {"json": _decode_json, "text": _decode_text, "msgpack": _decode_msgpack}
_ENCODERS: dict[str, Callable[[Any], bytes]] = {"json": _encode_json, "text": _encode_text, "msgpack": _encode_msgpack, "row": _encode_row}
