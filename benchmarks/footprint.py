"""What a pool weighs: start-up, memory and idle CPU, each contender alone in a fresh interpreter.

`python footprint.py KEY SECONDS` prints one line of JSON. Alone, because forked workers share the pages of
whatever their parent has loaded, and because an idle master's CPU cannot be divided between several pools.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

WORKERS = 2


def probe(key: str, seconds: float) -> dict[str, float]:
    import contenders
    import measure
    import tasks

    start = time.perf_counter()
    contender = contenders.make(key)  # imports the pool's package
    imported = time.perf_counter()
    contender.open(WORKERS)
    contender.map(tasks.square, contender.adapt(list(range(16))))
    mapped = time.perf_counter()
    pids = measure.worker_pids(contender, WORKERS)
    sizes = [measure.memory(pid) for pid in pids]
    before = time.process_time(), sum(map(measure.cpu_time, pids))
    time.sleep(seconds)
    master = (time.process_time() - before[0]) / seconds
    workers = (sum(map(measure.cpu_time, pids)) - before[1]) / seconds / WORKERS
    start_close = time.perf_counter()
    contender.close()
    return {
        "import": imported - start,
        "open": mapped - imported,
        "close": time.perf_counter() - start_close,
        "rss": statistics.mean(rss for rss, _ in sizes),
        "pss": statistics.mean(pss for _, pss in sizes),
        "idle-master": master,
        "idle-workers": workers,
    }


# key of the probe: title, quantity, absolute values instead of ratios
ROWS = {
    "import": ("fresh process: import of the pool's package", "time", True),
    "open": ("fresh process: 2 workers + first map", "time", False),
    "close": ("fresh process: stop 2 workers", "time", False),
    "rss": ("memory per worker, RSS", "bytes", True),
    "pss": ("memory per worker, PSS", "bytes", True),
    "idle-workers": ("idle CPU per worker", "share", True),
    "idle-master": ("idle CPU of the master", "share", True),
}


def rows(keys: Sequence[str], rounds: int, seconds: float) -> list:
    """The footprint rows of those contenders, alternated like everything else."""
    from measure import Cell, Row

    cells = {name: {key: Cell() for key in keys} for name in ROWS}
    for number in range(rounds):
        for key in keys:
            command = [sys.executable, str(Path(__file__)), key, str(seconds)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120)
            if done.returncode != 0:
                for name in ROWS:
                    cells[name][key] = Cell(error=f"exit code {done.returncode}")
                continue
            for name, value in json.loads(done.stdout).items():
                cells[name][key].default.samples[number] = value
    return [Row(name, title, cells[name], quantity=q, absolute=a) for name, (title, q, a) in ROWS.items()]


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1], float(sys.argv[2]))))
