"""docs/CLI.md tells the truth: its sessions run as they are printed, one after the other in one directory."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from helpers.program import Program

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "CLI.md"


def test_sessions(program: Program, tmp_path: Path) -> None:
    text = MANUAL.read_text()
    files = re.findall(r"^<!-- test: (\w+\.\w+) -->\n```\w*\n(.*?)^```$", text, re.M | re.S)
    for name, content in files:
        (tmp_path / name).write_text(content)
    sessions = re.findall(r"^<!-- test: program -->\n```\n(.*?)^```$", text, re.M | re.S)
    assert len(files) >= 1 and len(sessions) >= 2
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "schwimmbad-go").symlink_to(program.path)
    environment = program.environment("manual")
    environment["PATH"] = f"{tmp_path / 'bin'}:{environment['PATH']}"
    for session in sessions:
        for command, said in re.findall(r"^\$ (.*(?:\\\n.*)*)\n((?:[^$].*\n)*)", session, re.M):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=100,
            )
            assert done.stdout == said, command


def test_every_command_has_its_part(program: Program, tmp_path: Path) -> None:
    """And nothing is told of a command that is not there."""
    said = program("--help", cwd=tmp_path).ok()
    commands = set(re.findall(r"^  ([a-z-]+) {2,}\S", said.partition("Available Commands:")[2].partition("Flags:")[0], re.M)) - {"help"}
    headings = set(re.findall(r"`([a-z-]+)`", " ".join(re.findall(r"^## (.*)$", MANUAL.read_text(), re.M)))) - {"schwimmbad-go"}
    assert commands == headings
