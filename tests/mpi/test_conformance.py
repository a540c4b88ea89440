"""The suites that every pool has to pass, on MPIPool: they run inside a job, on rank 0."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import mpirun, scripts
from pools_under_test import MPI_KINDS, MPI_MODE

LIMIT = 110.0  # seconds for a job; it needs about 15
CALLS = ("conformance", "test_asyncresult.py", "test_functions.py", "test_threads.py", "test_payloads.py")
FAILURES = ("crash/test_moments.py", "crash/test_caller.py", "crash/test_start.py")
SOME = (*(f"conformance/test_{part}.py" for part in ("map", "options", "surface")), "crash/test_moments.py", "crash/test_start.py")

JOBS = [
    pytest.param("default", 3, CALLS + FAILURES, id="default"),
    pytest.param("messages", 3, CALLS + FAILURES, id="messages"),
    pytest.param("mixed", 3, CALLS + FAILURES, id="mixed"),
    pytest.param("isolate", 3, CALLS + FAILURES, id="isolate"),
    pytest.param("node", 2, SOME, id="node"),
    pytest.param("master", 2, SOME, id="master"),
]


@pytest.mark.timeout(LIMIT + 20)
@pytest.mark.parametrize("mode, ranks, suites", JOBS)
def test_suites(
    family: str, mode: str, ranks: int, suites: tuple[str, ...], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    report = tmp_path / "report.json"
    project = scripts.TESTS.parent
    arguments = [
        str(report), "-q", "-p", "no:cacheprovider", f"--rootdir={project}", "-c", str(project / "pyproject.toml"), "--color=no",
        "--tb=short", "--maxfail=10", "-o", "timeout=30", *(str(scripts.TESTS / name) for name in suites),
    ]  # fmt: skip
    env = {MPI_MODE: mode, **mpirun.SHARING.get(mode, {})}
    done = mpirun.run(family, ranks, scripts.TESTS / "mpi" / "job.py", *arguments, env=env, timeout=LIMIT)
    assert report.exists(), f"no test was run, exit code {done.returncode}\n{done}"
    found = json.loads(report.read_text())
    counts, skips = found["counts"], found["skips"]
    record_property("counts", counts)
    record_property("skips", skips)
    print(f"{family}, {mode}: {counts}", *(f"{n} skipped: {why}" for why, n in sorted(skips.items())), sep="\n  ")
    done.ok()
    assert counts.get("failed", 0) == 0, done
    assert counts["passed"] > 200, f"most of the suites were not run: {counts}"
    # Whatever does not apply to this pool says so in the registry, or in the test, by the pool's name.
    strange = [why for why in skips if not why.startswith((f"{MPI_KINDS[mode].name}: ", "could not import"))]
    assert not strange, strange
