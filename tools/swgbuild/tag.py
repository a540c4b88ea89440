"""The platform in a wheel's name: a promise about machines that this build has not seen."""

from __future__ import annotations

import os
import re
import shlex
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from .project import BuildError, machine
from .toolchain import Compiler


def platform_tag(compiler: Compiler | None, files: Iterable[Path]) -> str:
    """Platform tag of a wheel that holds these files.

    Parameters
    ----------
    compiler : Compiler or None
        What they were compiled with.
    files : iterable of Path
        The libraries and programs.

    Returns
    -------
    str
        $SWG_PLAT where it is set. Else, where the compiler was told to link for an old glibc (as zig from pip is:
        `-target x86_64-linux-gnu.2.17`) and the files need no newer one, that manylinux tag. Else the machine's plain tag, such as
        linux_x86_64, by which an index refuses the wheel.

    Raises
    ------
    BuildError
        $SWG_PLAT promises an older glibc than a file needs.
    """
    needed = {path.name: glibc_needed(path) for path in files}
    if chosen := os.environ.get("SWG_PLAT"):
        promised = re.match(r"manylinux_2_(\d+)_", chosen)
        for name, minor in needed.items():
            if promised and minor > int(promised[1]):
                raise BuildError(
                    f"SWG_PLAT={chosen}, but {name} needs glibc 2.{minor}: build with an older glibc, or with "
                    f"CC='zig cc -target {machine()}-linux-gnu.2.{promised[1]}'"
                )
        return chosen
    target = re.search(r"-target \w+-linux-gnu\.2\.(\d+)(\s|$)", shlex.join(compiler.command)) if compiler else None
    if target and max(needed.values(), default=0) <= int(target[1]):
        return f"manylinux_2_{target[1]}_{machine()}"
    system = sysconfig.get_platform().rpartition("-")[0]
    return re.sub(r"[-.]", "_", f"{system}-{machine()}")


def glibc_needed(path: Path) -> int:
    """N of the newest GLIBC_2.N among the version names in an ELF file; 0 where there is none, as in a static program."""
    return max((int(minor) for minor in re.findall(rb"\0GLIBC_2\.(\d+)", path.read_bytes())), default=0)
