"""``python -m schwimmbad_go``: run an unchanged script on these pools, and look at the installation."""

from __future__ import annotations

import argparse
import importlib.machinery
import io
import multiprocessing
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from . import __version__, _alias
from ._cpus import affinity_count, cgroup_limit, cpu_count


def main(argv: Sequence[str] | None = None) -> int:
    """The command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; None means ``sys.argv[1:]``.

    Returns
    -------
    int
        Exit status. ``run`` returns 0 if the script came to its end; the script's own exceptions and
        ``sys.exit`` pass through, so that the status is the same as without us.
    """
    parser = argparse.ArgumentParser(
        prog="python -m schwimmbad_go", description="schwimmbad's pools on an engine written in Go"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    run = commands.add_parser("run", help="run a script in which 'import schwimmbad' gives this package")
    run.add_argument("script", help="path of the script")
    run.add_argument("args", nargs=argparse.REMAINDER, help="the script's own arguments")
    commands.add_parser("version", help="print the version")
    commands.add_parser("doctor", help="say what this installation can do here")
    options = parser.parse_args(argv)
    if options.command == "run":
        return run_script(options.script, options.args)
    if options.command == "version":
        print(__version__)
        return 0
    return doctor()


def run_script(script: str, args: Sequence[str]) -> int:
    """Run a script as ``python script args`` would, with the alias installed.

    Parameters
    ----------
    script : str
        Path of a Python source file.
    args : sequence of str
        Its ``sys.argv[1:]``.

    Returns
    -------
    int
        0, or 2 if the script cannot be read.

    Notes
    -----
    The script really is ``__main__``, and stays so until the interpreter ends: its functions pickle by
    reference, fork and spawn workers find them, and so do its ``atexit`` handlers. ``runpy`` would take its
    module away at the end.
    """
    path = os.path.abspath(script)
    try:
        with io.open_code(path) as source:
            text = source.read()
    except OSError as error:
        print(f"cannot run {script}: {error.strerror}", file=sys.stderr)
        return 2
    _alias.install()
    _alias.export(os.environ)
    module = ModuleType("__main__")
    # As the interpreter does for a script: no spec and no package. With our own spec, spawn would run this
    # file again.
    module.__file__ = path
    module.__spec__ = None
    module.__loader__ = importlib.machinery.SourceFileLoader("__main__", path)
    vars(module).update(__builtins__=__builtins__, __cached__=None)
    sys.modules["__main__"] = module
    sys.argv = [script, *args]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path(path).resolve().parent)  # `-m` put the working directory there
    # Where PYTHONPATH would have put it: spawned workers are given this list, whatever their PYTHONPATH says.
    sys.path.insert(1, _alias.path_entry())
    exec(compile(text, path, "exec", dont_inherit=True), vars(module))
    return 0


def doctor() -> int:
    """Print what this installation can do here; 1 if worker processes are out of reach, else 0."""
    libraries = engine_libraries()
    limit = cgroup_limit()
    rows = {
        "schwimmbad_go": f"{__version__} in {Path(__file__).parent}",
        "python": f"{platform.python_version()} ({platform.python_implementation()}), {sys.executable}",
        "platform": platform.platform(),
        "engine library": ", ".join(map(str, libraries)) or "MISSING: 'pip install .' builds it",
        "start methods": ", ".join(multiprocessing.get_all_start_methods()),
        "cpus": f"{cpu_count()} usable (affinity {affinity_count()}, cgroup {limit or 'without limit'}, "
        f"machine {os.cpu_count()})",
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")
    return 0 if libraries else 1


def engine_libraries() -> list[Path]:
    """The engine's shared libraries beside this file; found, not loaded."""
    beside = Path(__file__).with_name("_lib")
    return sorted(path for path in beside.glob("*") if path.suffix in (".so", ".dylib"))


if __name__ == "__main__":
    sys.exit(main())
