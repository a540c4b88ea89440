"""`schwimmbad-go doctor`: the program's part; tests/test_doctor.py has Python's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import schwimmbad_go
from helpers.program import Program

INSTALLED = {"PYTHONPATH": str(Path(schwimmbad_go.__file__).parents[1])}


def doctor(program: Program, folder: Path, *args: str, **variables: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = program("doctor", "--json", *args, cwd=folder, variables=variables)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    return done.returncode, {finding["name"]: finding for finding in found if finding["name"] != "on PATH"}


def test_all_is_well(program: Program, tmp_path: Path) -> None:
    code, found = doctor(program, tmp_path, "--python", sys.executable, **INSTALLED)
    assert code == 0
    assert "Python package " + schwimmbad_go.__version__ in found["program"]["value"]
    assert sys.executable in found["Python for scripts"]["value"]
    assert found["engine for scripts"]["value"].startswith("the library ")
    assert found["cache, $SCHWIMMBAD_GO_CACHE"]["value"].startswith(str(program.cache))
    assert found["engine"]["status"] == "ok" and "usable" in found["cpus"]["value"]  # Python's part


def test_without_the_package(program: Program, tmp_path: Path) -> None:
    """On the embedded Python, by the engine in the program, every pool that it can serve passes the self-test."""
    code, found = doctor(program, tmp_path, "--python", "embedded", "--selftest")
    assert code == 0
    assert found["engine for scripts"]["value"].startswith("this program, beside the script")
    assert found["selftest MultiPool(2)"]["status"] == "ok"


def test_what_is_broken(program: Program, tmp_path: Path) -> None:
    code, found = doctor(program, tmp_path, PATH=str(tmp_path), SCHWIMMBAD_GO_PYTHON="/nowhere")
    assert code == 1 and "/nowhere" in found["Python for scripts"]["value"] and found["Python for scripts"]["status"] == "broken"
    code, found = doctor(program, tmp_path, SCHWIMMBAD_GO_CACHE="/proc/nowhere", SCHWIMMBAD_GO_PYTHON="/nowhere")
    assert code == 1 and found["cache, $SCHWIMMBAD_GO_CACHE"]["status"] == "broken"


def test_a_damaged_python(program: Program, tmp_path: Path) -> None:
    """It is told by doctor; and one that does not start any more is unpacked anew by whoever needs it."""
    assert program("python", "-c", "pass", cwd=tmp_path).ok() == ""
    (entry,) = [path for path in program.cache.glob("python-*") if path.is_dir()]
    copy = tmp_path / "cache" / entry.name
    copy.parent.mkdir()
    subprocess.run(["cp", "-al", entry, copy], check=True)  # links: what is spoilt must be replaced first
    module = copy / "py" / "lib" / "python3.14" / "encodings" / "utf_8.py"
    for spoilt in (module, *(module.parent / "__pycache__").glob("utf_8.*")):
        spoilt.unlink()
        spoilt.write_text("")
    variables = {"SCHWIMMBAD_GO_CACHE": str(copy.parent)}
    code, found = doctor(program, tmp_path, "--python", sys.executable, **variables)
    assert code == 1 and "utf_8" in found["embedded Python"]["value"] and "rm -r" in found["embedded Python"]["advice"]
    assert program("python", "-c", "print(1)", cwd=tmp_path, variables=variables).ok() == "1\n"
    code, found = doctor(program, tmp_path, "--python", sys.executable, **variables)
    assert code == 0 and found["embedded Python"]["status"] == "ok"
