"""The import alias: ``schwimmbad`` becomes another name of this package.

Libraries import ``schwimmbad`` themselves (emcee does), so a script under the alias must find one package
under both names: ``schwimmbad.serial`` is the same module object as ``schwimmbad_go.serial``. Two copies
would break ``isinstance``, pickling and module state. Nothing named ``schwimmbad`` is ever installed.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from types import ModuleType

__all__ = ["export", "install", "installed", "path_entry"]

ALIAS = "schwimmbad"
REAL = __name__.rpartition(".")[0]


def install() -> None:
    """Make ``import schwimmbad`` give this package, in this process. Repeatable.

    Raises
    ------
    ImportError
        If another ``schwimmbad`` has already been imported: its classes are in use and cannot be exchanged.

    Notes
    -----
    Forked children inherit it. Children that start a new interpreter need `export`.
    """
    present = sys.modules.get(ALIAS)
    if present is not None and present is not sys.modules[REAL]:
        raise ImportError(
            f"another {ALIAS} is already imported, from {getattr(present, '__file__', 'an unknown place')}; "
            f"install the alias before anything imports {ALIAS}"
        )
    if not installed():
        sys.meta_path.insert(0, _AliasFinder())  # first: a real schwimmbad may be on the path


def installed() -> bool:
    """Whether `install` has been called in this process or before it was forked."""
    return any(type(finder) is _AliasFinder for finder in sys.meta_path)


def path_entry() -> str:
    """A directory which, standing in PYTHONPATH, installs the alias at the first ``import schwimmbad``."""
    return str(Path(__file__).with_name("_alias_path"))


def export(environ: MutableMapping[str, str]) -> None:
    """Put `path_entry` in front of PYTHONPATH, for children that start a new interpreter. Repeatable.

    Those are workers by ``spawn`` or ``forkserver``, and a script's own subprocesses.

    Parameters
    ----------
    environ : mapping
        Changed in place; ``os.environ`` for all children of this process.
    """
    rest = [entry for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if path_entry() not in rest:
        environ["PYTHONPATH"] = os.pathsep.join([path_entry(), *rest])


class _AliasFinder(importlib.abc.MetaPathFinder):
    """Finds ``schwimmbad`` and ``schwimmbad.X``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != ALIAS and not fullname.startswith(ALIAS + "."):
            return None
        real = REAL + fullname[len(ALIAS) :]
        try:
            found = importlib.util.find_spec(real)
        except ModuleNotFoundError:
            found = None
        if found is None:
            return None
        return importlib.machinery.ModuleSpec(
            fullname,
            _AliasLoader(real),
            origin=found.origin,
            is_package=found.submodule_search_locations is not None,
        )


class _AliasLoader(importlib.abc.Loader):
    """Gives the existing module instead of a new one."""

    def __init__(self, real: str) -> None:
        self._real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._real)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has just written the alias's spec into the module. Left there, relative imports
        # inside the package would warn that __package__ and __spec__ disagree, and importlib.reload would
        # reload this loader.
        module.__spec__ = self._spec
