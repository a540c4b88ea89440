"""Functions on their way to a worker: by reference where the worker has the very same object, by value otherwise.

A forked worker has everything that existed at the fork. A reference to a definition of ``__main__`` is right there as
long as the name still means what it meant then; a function defined or redefined later, a lambda or a closure
travels by value: its code, and for globals the worker's own module, so that what an initializer has set there is
seen. A worker that was started as a fresh program has no ``__main__`` of the user's: whatever refers to it goes by
value through cloudpickle or dill.
"""

from __future__ import annotations

import copyreg
import importlib
import io
import marshal
import pickle
import reprlib
import sys
import types
from collections.abc import Callable
from typing import Any, TypeAlias

from . import error as _error
from ._layout import PICKLE
from ._payload import OUT_OF_BAND, Encoded

_DEFINITIONS = (types.FunctionType, type)
Reducers: TypeAlias = "dict[type, Callable[[Any], Any]]"


class Snapshot:
    """What the names of ``__main__`` meant when workers were forked.

    The objects are held, so that an id cannot be reused. A worker forked later (after a death) may know other
    definitions under the same name: such names count as changed from then on.
    """

    def __init__(self) -> None:
        self.names = _definitions()
        self.mixed: set[str] = set()

    def again(self) -> None:
        """Another worker has been forked."""
        now = _definitions()
        for name in self.names.keys() | now.keys():
            if self.names.get(name) is not now.get(name):
                self.mixed.add(name)

    def changed(self) -> set[str]:
        """Names of definitions that some worker does not know as they are now."""
        names = self.names
        late = {n for n, v in _main_items() if isinstance(v, _DEFINITIONS) and names.get(n) is not v}
        return late | self.mixed if self.mixed else late


def _main_items() -> list[tuple[str, Any]]:
    main = sys.modules.get("__main__")
    return list(vars(main).items()) if main is not None else []


def _definitions() -> dict[str, Any]:
    return {n: v for n, v in _main_items() if isinstance(v, _DEFINITIONS)}


class Encoder:
    """Pickles functions and tasks for the workers of one pool.

    Parameters
    ----------
    snapshot : Snapshot or None
        None: the workers do not share this process's ``__main__``.
    reducers : dict, optional
        Reducers by exact type, as in a pickler's ``dispatch_table``, for what is pickled here.
    """

    def __init__(self, snapshot: Snapshot | None, reducers: Reducers | None = None) -> None:
        self.snapshot = snapshot
        self.reducers = reducers

    def encode(self, obj: Any, plain: Callable[[Any], Encoded], what: str | Callable[..., Any]) -> Encoded:
        """Encode `obj`; `what` names it in errors: words, or the function itself, whose repr may be as long as the data it
        carries and is made only then."""
        try:
            encoded = plain(obj) if self.reducers is None else self._reduced(obj)
        except Exception as error:  # pickling runs user code, and C pickle raises several types for the same cause
            try:
                return self.by_value(obj)
            except Exception as second:
                raise unpicklable(what, error, second) from error
        if encoded[0] == PICKLE and b"__main__" in encoded[1] and self._stale(encoded[1]):
            try:
                return self.by_value(obj)
            except Exception as error:
                raise unpicklable(what, error, error) from error
        return encoded

    def _stale(self, data: bytes) -> bool:
        """Whether the pickle refers to something of ``__main__`` that the workers do not know as it is now. A name that
        occurs by chance costs time, not correctness."""
        if self.snapshot is None:
            return True
        return any(name.encode() in data for name in self.snapshot.changed())

    def is_reference(self, func: types.FunctionType, data: Any) -> bool:
        """Whether `data` is just the name of a function: no state in it can change from map to map."""
        return len(data) < 1024 and importable(func) and self.snapshot is not None and not self._stale_name(func)

    def _stale_name(self, func: types.FunctionType) -> bool:
        return func.__module__ == "__main__" and (
            self.snapshot is None or func.__qualname__.partition(".")[0] in self.snapshot.changed()
        )

    def by_value(self, obj: Any) -> Encoded:
        """Pickle with definitions that the workers lack included."""
        large: list[memoryview] = []
        return PICKLE, _dump(obj, self.snapshot, large, self.reducers), large

    def _reduced(self, obj: Any) -> Encoded:
        large: list[memoryview] = []
        out = io.BytesIO()
        pickler = pickle.Pickler(out, 5, buffer_callback=_buffers(large))
        pickler.dispatch_table = {**copyreg.dispatch_table, **(self.reducers or {})}
        pickler.dump(obj)
        return PICKLE, out.getvalue(), large


class _Path:
    """Carries sys.path to a worker: the module it lacks may lie where the path has been extended to since."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _extend_path, (list(sys.path),)


def _extend_path(path: list[str]) -> None:
    sys.path += [entry for entry in path if entry not in sys.path]
    importlib.invalidate_caches()


def with_path(encoder: Encoder, func: Any) -> Encoded:
    """A function for a worker that could not read it, or its tasks: sys.path first, then the function, by value where
    that is possible. The worker takes the second of the pair."""
    try:
        return encoder.by_value((_Path(), func))
    except Exception:  # a reference worked for the pickler: whether the worker can follow it now will show
        large: list[memoryview] = []
        return PICKLE, pickle.dumps((_Path(), func), 5), large


def encode_by_value(obj: Any) -> Encoded:
    """The worker's own way back for results that do not pickle plainly."""
    large: list[memoryview] = []
    return PICKLE, _dump(obj, None, large), large


def unpicklable(what: str | Callable[..., Any], error: Exception, second: Exception) -> _error.PicklingError:
    """The error that says what could not be pickled and what to do."""
    if not isinstance(what, str):
        name = getattr(what, "__qualname__", None)
        what = f"the function {getattr(what, '__module__', '?')}.{name}" if name else f"the function {reprlib.repr(what)}"
    text = f"{what} cannot be pickled: {type(error).__name__}: {error}"
    if second is not error:
        text += f"; by value: {type(second).__name__}: {second}"
    if _library() is None:
        text += (
            ". Define it at the top level of a module, or install cloudpickle (pip install schwimmbad-go[cloudpickle]) "
            "so that local classes can travel"
        )
    return _error.PicklingError(text)


def _library() -> Any:
    """cloudpickle, else dill, else the cloudpickle that joblib brings along, else None."""
    for name in ("cloudpickle", "dill", "joblib.externals.cloudpickle"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _buffers(large: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    def keep_small(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < OUT_OF_BAND:
            return True
        large.append(raw)
        return False

    return keep_small


def _dump(obj: Any, snapshot: Snapshot | None, large: list[memoryview], reducers: Reducers | None = None) -> bytes:
    library = _library()
    out = io.BytesIO()
    if library is not None and library.__name__ == "dill":
        return _dill(library, obj, snapshot)
    base = pickle.Pickler if library is None else library.Pickler
    _pickler(base, snapshot, reducers)(out, 5, buffer_callback=_buffers(large)).dump(obj)
    return out.getvalue()


def _dill(dill: Any, obj: Any, snapshot: Snapshot | None) -> bytes:
    """dill writes functions by value itself; our own reducer comes first where workers share ``__main__``."""
    if snapshot is not None:
        try:
            out = io.BytesIO()
            _pickler(pickle.Pickler, snapshot)(out, 5).dump(obj)
            return out.getvalue()
        except Exception:  # a local class or the like: dill's turn, whose own error counts
            pass
    data: bytes = dill.dumps(obj, protocol=5, byref=False, recurse=True)
    return data


def _pickler(base: Any, snapshot: Snapshot | None, reducers: Reducers | None = None) -> Any:
    """A pickler class that sends functions by value where a reference would not do."""
    changed = snapshot.changed() if snapshot is not None else None

    class ByValue(base):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if changed is not None and isinstance(obj, _DEFINITIONS):
                if _known(obj, changed):
                    return NotImplemented  # a plain reference
                if type(obj) is types.FunctionType:
                    return _reduce_function(obj, changed)
                if base is pickle.Pickler:
                    raise pickle.PicklingError(
                        f"class {obj.__qualname__} was defined or changed after the workers were forked"
                    )
            if hasattr(super(), "reducer_override"):
                return super().reducer_override(obj)
            if type(obj) is types.FunctionType and (obj.__module__ == "__main__" or not importable(obj)):
                return _reduce_function(obj, set(), at_home=False)
            if isinstance(obj, type) and obj.__module__ == "__main__":
                raise pickle.PicklingError(f"class {obj.__qualname__} of __main__ is not known on the other side")
            return NotImplemented

    if reducers is not None:  # of the class: the pickler looks while it is made
        ByValue.dispatch_table = {**getattr(base, "dispatch_table", copyreg.dispatch_table), **reducers}
    return ByValue


def importable(obj: Any) -> bool:
    """Whether the name of a function or class leads to it."""
    module = sys.modules.get(getattr(obj, "__module__", None) or "")
    if module is None:
        return False
    found: Any = module
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is obj


def _known(obj: Any, changed: set[str]) -> bool:
    """Whether a forked worker finds this very definition by its name."""
    if not importable(obj):
        return False
    return obj.__module__ != "__main__" or obj.__qualname__.partition(".")[0] not in changed


def _reduce_function(func: types.FunctionType, changed: set[str], at_home: bool = True) -> tuple[Any, ...]:
    """A function as its code; what it closes over and what it needs beside comes as state, after the function itself
    is known to the pickler, so that it may refer to itself."""
    code = func.__code__
    module = func.__module__ if at_home and _at_home(func) else None
    state = {
        "closure": [_cell_value(cell) for cell in func.__closure__ or ()],
        "defaults": func.__defaults__,
        "kwdefaults": func.__kwdefaults__,
        "dict": func.__dict__ or None,
        "doc": func.__doc__,
        "module": func.__module__,
        "globals": _late_globals(func, changed) if module else _all_globals(func),
    }
    new = (marshal.dumps(code), module, func.__name__, func.__qualname__, len(code.co_freevars))
    return _make_function, new, state, None, None, _fill_function


def _at_home(func: types.FunctionType) -> bool:
    """Whether the function's globals are those of its module, not a namespace of exec()."""
    module = sys.modules.get(func.__module__ or "")
    return module is not None and vars(module) is func.__globals__


def _all_globals(func: types.FunctionType) -> dict[str, Any]:
    """Every global that a function without a module names."""
    names = func.__globals__
    return {
        n: _Module(names[n].__name__) if isinstance(names[n], types.ModuleType) else names[n]
        for n in set(_names(func.__code__))
        if n in names
    }


class _Empty:
    """An unset closure cell."""

    def __reduce__(self) -> str:
        return "_EMPTY"


_EMPTY = _Empty()


def _cell_value(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY


def _late_globals(func: types.FunctionType, changed: set[str]) -> dict[str, Any]:
    """Globals the function names that a worker lacks: definitions that are new or changed, modules, and whatever is set
    now. The worker takes of the last kind only what it has not set itself."""
    names = set(_names(func.__code__))
    found = {}
    for name in names:
        if name in func.__globals__:
            value = func.__globals__[name]
            if isinstance(value, types.ModuleType):
                found[name] = _Module(value.__name__)
            elif func.__module__ == "__main__" and (name in changed or not isinstance(value, _DEFINITIONS)):
                found[name] = value
    return {n: v for n, v in found.items() if n in changed or isinstance(v, _Module) or _small(v)}


def _small(value: Any) -> bool:
    """Data globals travel along only where they weigh nothing: they are a convenience (a constant set after the pool was
    made), not a second payload."""
    return isinstance(value, (int, float, complex, str, bytes, bool, type(None))) and len(repr(value)) < 256


_SHIPPED: set[tuple[str, str]] = set()  # in a worker: globals that came with a function


class _Module:
    """A module to import in the worker."""

    def __init__(self, name: str) -> None:
        self.name = name


def _names(code: types.CodeType) -> list[str]:
    names = list(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names += _names(const)
    return names


def _make_function(code: bytes, module: str | None, name: str, qualname: str, cells: int) -> types.FunctionType:
    found = sys.modules.get(module or "")
    if found is None and module:
        try:
            found = importlib.import_module(module)
        except ImportError:
            found = None  # its globals then come with it
    names = vars(found) if found is not None else {"__builtins__": __builtins__, "__name__": module or "__main__"}
    closure = tuple(types.CellType() for _ in range(cells))
    func = types.FunctionType(marshal.loads(code), names, name, None, closure)
    func.__qualname__ = qualname
    return func


def _fill_function(func: types.FunctionType, state: dict[str, Any]) -> None:
    for cell, value in zip(func.__closure__ or (), state["closure"], strict=True):
        if value is not _EMPTY:
            cell.cell_contents = value
    func.__module__ = state["module"]
    func.__defaults__ = state["defaults"]
    func.__kwdefaults__ = state["kwdefaults"]
    func.__doc__ = state["doc"]
    if state["dict"]:
        func.__dict__.update(state["dict"])
    for name, value in state["globals"].items():
        if isinstance(value, _Module):
            if name not in func.__globals__:
                func.__globals__[name] = importlib.import_module(value.name)
        elif isinstance(value, _DEFINITIONS) or name not in func.__globals__ or (func.__module__, name) in _SHIPPED:
            # What the worker has set itself (an initializer, say) stays; what came this way before is brought up to date.
            _SHIPPED.add((func.__module__, name))
            func.__globals__[name] = value
