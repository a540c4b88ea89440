"""Functions that a master in another language names: of a module, or in source text."""

from __future__ import annotations

import hashlib
import importlib
import linecache
import sys
import types
from collections.abc import Callable
from typing import Any


def function(spec: dict[str, Any]) -> Callable[[Any], Any]:
    """Find the function.

    Parameters
    ----------
    spec : dict
        ``module``: dotted name, or empty where ``source`` is the text of one; ``name``: the function's name there, dotted for one in a
        class; ``path``: directories to look in first; ``call``: what a task is to it, "value", "list" (its arguments) or "names"
        (its keyword arguments).

    Raises
    ------
    ImportError, AttributeError, TypeError
        It is not there; what it names cannot be called.
    """
    for entry in reversed(spec.get("path", ())):
        if entry not in sys.path:
            sys.path.insert(0, entry)
    module = _module_of(spec["source"]) if spec.get("source") else importlib.import_module(spec["module"])
    func: Any = module
    for part in spec["name"].split("."):
        func = getattr(func, part)
    if not callable(func):
        raise TypeError(f"{spec['module']}:{spec['name']} is no function, but a {type(func).__name__}")
    how = spec.get("call", "value")
    if how == "list":
        return lambda task: func(*task)
    if how == "names":
        return lambda task: func(**task)
    return func  # type: ignore[no-any-return]


def _module_of(source: str) -> types.ModuleType:
    """The module of a source text, run once per worker."""
    name = "_schwimmbad_go_" + hashlib.sha256(source.encode()).hexdigest()[:16]
    module = sys.modules.get(name)
    if module is None:
        file = f"<{name}>"
        code = compile(source, file, "exec")
        module = types.ModuleType(name)
        # Tracebacks show its lines, and classes that it defines find their module.
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        sys.modules[name] = module
        try:
            exec(code, vars(module))
        except BaseException:  # the user's code, Ctrl-C in it too; raised on: a half-made module must not be found later
            del sys.modules[name]
            raise
    return module
