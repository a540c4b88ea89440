"""Build hook of pip: puts the Go engine into the wheel, and names the wheel for its platform."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# The build backend does not put the source tree on sys.path.
sys.path.insert(0, str(Path(__file__).parent))

from swgbuild.build import build
from swgbuild.project import PACKAGE
from swgbuild.requirements import requirements
from swgbuild.tag import platform_tag


class GoBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the libraries, their header, the command and _build_info.py to the wheel; an editable install gets them in the source tree.

    Libraries for an MPI whose header is not here are left out, with a note.
    """

    PLUGIN_NAME = "custom"
    _scratch: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """Go and a C compiler as pip packages, each only where this machine has none."""
        return requirements(Path(self.root))

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if version == "editable":
            made = build(root / PACKAGE, root)
        else:
            self._scratch = tempfile.TemporaryDirectory(prefix="schwimmbad-go-wheel-")
            made = build(Path(self._scratch.name), root)
            build_data["force_include"] |= {str(path): f"schwimmbad_go/{inside}" for inside, path in made.files.items()}
        for name, reason in made.skipped.items():  # shown by pip -v; the installed package keeps it in _build_info.py
            self.app.display_warning(f"no {name} library: {reason}")
        build_data["pure_python"] = False
        # py3-none: the library is reached by ctypes, so one wheel serves every Python of the platform.
        compiled = [path for inside, path in made.files.items() if Path(inside).suffix != ".py"]
        build_data["tag"] = f"py3-none-{platform_tag(made.compiler, compiled)}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._scratch is not None:
            self._scratch.cleanup()
