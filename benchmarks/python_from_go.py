#!/usr/bin/env python3
"""Python functions mapped from Go, beside Python's own MultiPool on the same work, in turns.

    python benchmarks/python_from_go.py [--workers N] [--rounds N]

Each row: median seconds of both, and the median of the ratios of neighbouring turns. The goal is at most 1.2.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "pythonfromgo"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    sys.path.insert(0, str(FOLDER))
    import numpy as np
    import tasks
    from schwimmbad_go import MultiPool

    numbers = [float(i) for i in range(10_000)]
    bodies = [{"name": f"body {i}", "mass": float(i), "position": [1.0, 2.0, 3.0]} for i in range(1000)]
    points = [{"name": f"point {i}", "position": np.array([1.0, 2.0, float(i)])} for i in range(1000)]
    events = [
        {"id": i, "open": i % 2 == 0, "tags": {"run": f"r{i % 7}", "site": "north"}, "hits": [{"x": j, "y": -j} for j in range(5)]}
        for i in range(1000)
    ]
    arrays = [np.arange(100_000.0) for _ in range(32)]
    work = {
        "16 floats": (tasks.root, numbers[:16]),
        "10000 floats": (tasks.root, numbers),
        "10000 tasks of 10 us": (tasks.spin, numbers),
        "1000 records": (tasks.move, bodies),
        "1000 records with arrays": (tasks.shift, points),
        "1000 nested records": (tasks.turn, events),
        "32 arrays of 800 kB": (tasks.total, arrays),
        "32 arrays, there & back": (tasks.double, arrays),
    }
    with tempfile.TemporaryDirectory() as folder, MultiPool(options.workers) as pool:
        program = Path(folder, "pythonfromgo")
        subprocess.run([os.environ.get("GO", "go"), "build", "-o", program, "./benchmarks/pythonfromgo"], cwd=HERE.parent, check=True)
        with subprocess.Popen(
            [program, str(options.workers), str(FOLDER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "SCHWIMMBAD_GO_PYTHON": sys.executable},
        ) as go:  # fmt: skip
            assert go.stdin is not None and go.stdout is not None
            print(f"{'work':26} {'MultiPool':>12} {'from Go':>12} {'ratio':>7}")
            for name, (function, given) in work.items():
                python, from_go = [], []
                for turn in range(options.rounds + 3):
                    began = time.perf_counter()
                    pool.map(function, given)
                    middle = time.perf_counter()
                    go.stdin.write(name + "\n")
                    go.stdin.flush()
                    answer = float(go.stdout.readline())
                    if turn >= 3:  # the engines have learnt by then how long the tasks take
                        python.append(middle - began)
                        from_go.append(answer)
                ratio = statistics.median(g / p for g, p in zip(from_go, python))
                ms = [f"{1e3 * statistics.median(times):9.3f} ms" for times in (python, from_go)]
                print(f"{name:26} {ms[0]} {ms[1]} {ratio:7.2f}", flush=True)


if __name__ == "__main__":
    main()
