#!/usr/bin/env python3
"""Find Go and a C compiler and build the C shared libraries of schwimmbad-go.

    python tools/gobuild.py --inplace        build into python/schwimmbad_go, as an editable install does; with --require-mpi
                                             it is an error if the header of an MPI is missing
    python tools/gobuild.py --requirements   what pip must install before a build works here; nothing when all is there
    python tools/gobuild.py --missing-mpi    MPI families whose header is not found here
    python tools/gobuild.py --tools          shell assignments GO=... CC=... for dev.sh
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time

from swgbuild.build import build
from swgbuild.mpi import missing_mpi
from swgbuild.project import PACKAGE, ROOT, BuildError
from swgbuild.requirements import requirements
from swgbuild.toolchain import find_compiler, find_go


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--inplace", action="store_true", help="build into python/schwimmbad_go")
    action.add_argument("--requirements", action="store_true", help="print what pip must install before a build works")
    action.add_argument("--missing-mpi", action="store_true", help="print the MPI families whose mpi.h is not found")
    action.add_argument("--tools", action="store_true", help="print shell assignments GO and CC")
    parser.add_argument("--require-mpi", action="store_true", help="with --inplace: fail where the library for an MPI cannot be built")
    options = parser.parse_args()
    try:
        if options.requirements:
            print("\n".join(requirements()))
        elif options.missing_mpi:
            print("\n".join(missing_mpi()))
        elif options.tools:
            print(f"GO={shlex.quote(find_go().path)}\nCC={shlex.quote(shlex.join(find_compiler().command))}")
        else:
            build_in_place(options.require_mpi)
    except BuildError as error:
        print(f"gobuild: {error}", file=sys.stderr)
        return 1
    return 0


def build_in_place(require_mpi: bool) -> None:
    """Build into the source tree and say what was made, and what was left out."""
    start = time.monotonic()
    made = build(ROOT / PACKAGE, require_mpi=require_mpi)
    for inside, path in made.files.items():
        print(f"gobuild: {PACKAGE / inside}  {path.stat().st_size / 1e6:.2f} MB")
    for name, reason in made.skipped.items():
        print(f"gobuild: no {name} library: {reason}")
    print(f"gobuild: {find_go().version}, {made.compiler.version if made.compiler else 'no C'}, {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    raise SystemExit(main())
