"""A C program opens a pool whose workers are itself, maps, loses a worker, closes."""

from __future__ import annotations

import subprocess
from pathlib import Path

from .parse import compile_c


def test_c_program_is_master_and_worker(tmp_path: Path) -> None:
    program = compile_c(Path(__file__).with_name("cpool.c"), tmp_path / "cpool")
    for _ in range(3):
        done = subprocess.run([program], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("99999 tasks, 1 lost with its worker, ")


def test_header_compiles_alone_and_twice(tmp_path: Path) -> None:
    source = tmp_path / "twice.c"
    source.write_text('#include "schwimmbad.h"\n#include "schwimmbad.h"\nint main(void) { return swg_abi() != SWG_ABI; }\n')
    program = compile_c(source, tmp_path / "twice")
    assert subprocess.run([program], timeout=60).returncode == 0
