"""``python -m schwimmbad_go`` and ``schwimmbad-go``: run an unchanged script on these pools, and look at the installation.

Further commands are those of the program in ``_bin``, which is there in wheels: it takes this process's place.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from . import __version__, _alias, _program

#: What the program does, in the words of its help.
PROGRAM_COMMANDS = {
    "map": "map a function or a shell command over records",
    "venv": "make a virtual environment",
    "python": "run the embedded Python, in a program that has one",
    "mpi-env": "print the shell variables to build Go programs with MPI",
    "completion": "print the completion script for a shell",
}


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
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in PROGRAM_COMMANDS:
        return run_program(arguments)
    called = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(
        prog=called if called == "schwimmbad-go" else "python -m schwimmbad_go",
        description="schwimmbad's pools on an engine written in Go",
        epilog="further commands, where the program schwimmbad-go is a part of this installation: "
        + "; ".join(f"{name}: {text}" for name, text in PROGRAM_COMMANDS.items()),
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    run = commands.add_parser("run", help="run a script in which 'import schwimmbad' gives this package")
    run.add_argument("script", help="path of the script")
    run.add_argument("args", nargs=argparse.REMAINDER, help="the script's own arguments")
    commands.add_parser("version", help="print the version")
    doctor = commands.add_parser("doctor", help="say what works here, and what to do about what does not")
    doctor.add_argument("--json", action="store_true", help="as a JSON list")
    doctor.add_argument("--selftest", action="store_true", help="also run a small map over every pool")
    doctor.add_argument("--python-only", action="store_true", help=argparse.SUPPRESS)  # the program asks, and adds its own
    options = parser.parse_args(arguments)
    if options.command == "run":
        return run_script(options.script, options.args)
    if options.command == "version":
        print(__version__)
        return 0
    if _program.path().is_file() and not options.python_only:
        return run_program(arguments)
    from . import _doctor

    return _doctor.report(_doctor.examine() + (_doctor.selftest() if options.selftest else []), options.json)


def run_program(arguments: Sequence[str]) -> int:
    """Put the program in this process's place, with this Python as the one that it uses; 1 if it is not there."""
    program = _program.path()
    if not program.is_file():
        print(
            f"schwimmbad-go {arguments[0]}: this installation has no {program}: wheels contain it, and 'go install "
            "github.com/schwimmbad-go/schwimmbad-go/cmd/schwimmbad-go@latest' builds one with an embedded Python",
            file=sys.stderr,
        )
        return 1
    os.environ.setdefault("SCHWIMMBAD_GO_PYTHON", sys.executable)
    sys.stdout.flush()
    os.execv(program, ["schwimmbad-go", *arguments])


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


if __name__ == "__main__":
    sys.exit(main())
