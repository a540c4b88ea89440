"""Build hook of pip: puts the Go engine into the wheel, and names the wheel for its platform."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def _load_gobuild() -> ModuleType:
    """By path: the build backend does not put the source tree on sys.path."""
    path = Path(__file__).with_name("gobuild.py")
    spec = importlib.util.spec_from_file_location("schwimmbad_gobuild", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


gobuild = _load_gobuild()


class GoBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the libraries, their header and _build_info.py to the wheel; an editable install gets them in the source tree.

    Libraries for an MPI whose header is not here are left out, with a note.
    """

    PLUGIN_NAME = "custom"
    _scratch: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """Go and a C compiler as pip packages, each only where this machine has none."""
        return list(gobuild.requirements(Path(self.root)))

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if version == "editable":
            made = gobuild.build(root / gobuild.PACKAGE, root)
        else:
            self._scratch = tempfile.TemporaryDirectory(prefix="schwimmbad-go-wheel-")
            made = gobuild.build(Path(self._scratch.name), root)
            build_data["force_include"] |= {str(path): f"schwimmbad_go/{inside}" for inside, path in made.files.items()}
            for inside, path in made.files.items():
                if inside.endswith(".so"):
                    _refuse_false_promise(platform_tag(), path)
        for name, reason in made.skipped.items():  # shown by pip -v; the installed package keeps it in _build_info.py
            self.app.display_warning(f"no {name} library: {reason}")
        build_data["pure_python"] = False
        # py3-none: the library is reached by ctypes, so one wheel serves every Python of the platform.
        build_data["tag"] = f"py3-none-{platform_tag()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._scratch is not None:
            self._scratch.cleanup()


def platform_tag() -> str:
    """$SWG_PLAT for release builds (such as manylinux_2_17_x86_64), else this machine's plain tag (linux_x86_64)."""
    if chosen := os.environ.get("SWG_PLAT"):
        return chosen
    system = sysconfig.get_platform().rpartition("-")[0]
    return re.sub(r"[-.]", "_", f"{system}-{gobuild.machine()}")


def _refuse_false_promise(tag: str, library: Path) -> None:
    """A manylinux tag promises a glibc; the version names in the library say which one it really needs."""
    promised = re.match(r"manylinux_2_(\d+)_", tag)
    needed = max((int(minor) for minor in re.findall(rb"\0GLIBC_2\.(\d+)", library.read_bytes())), default=0)
    if promised and needed > int(promised[1]):
        raise gobuild.BuildError(
            f"SWG_PLAT={tag}, but {library.name} needs glibc 2.{needed}: build with an older glibc, or with "
            f"CC='zig cc -target {gobuild.machine()}-linux-gnu.2.{promised[1]}'"
        )
