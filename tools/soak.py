#!/usr/bin/env python3
"""Run random maps over MultiPools for a while, with crashes, kills, time limits and threads, and check every result.

    python tools/soak.py --minutes 30 [--seed N]

Each round opens a pool (start method, size, tasks per worker at random), lets some threads call its methods at once while another
thread kills workers from outside, closes it, and looks for what was left behind. What each task must give is known beforehand; only
the tasks that an outside kill hit may be lost beside, at most one per kill. The test suite runs ten seconds of it (tests/test_soak.py).

Prints a line per round and the totals; exits 1, with the seed, at the first wrong result, and with all stacks if a call hangs.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from schwimmbad_go import MultiPool
from schwimmbad_go.error import TaskTimeout, WorkerLost

HANG = 90  # seconds a round may take without any call returning
LIMIT = 2.0  # seconds per task, where there is a limit: far above what a task takes on a busy machine
SIZES = (0, 10, 1000, 70_000, 600_000)  # of a result; beyond some 100 kB it travels outside the pickle


class Task(NamedTuple):
    index: int
    action: str
    value: int
    marker: str  # a file: "once" crashes where it does not exist yet


def work(task: Task) -> Any:
    """What runs in the workers."""
    index, action, value, marker = task
    if action == "raise":
        raise ValueError(index)
    if action == "exit":
        os._exit(3)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "hang":
        time.sleep(600)
    if action == "once":
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return index * 7 + value
        os._exit(4)
    if action == "nap":
        time.sleep(value / 1e4)
    if action == "big":
        return bytearray([index % 251]) * SIZES[value % len(SIZES)]
    return index * 7 + value


def work_star(*fields: Any) -> Any:
    return work(Task(*fields))


class Wrong(Exception):
    """A result that must not be."""


class Round:
    """One pool and what happens to it."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.random = rnd = random.Random(seed)
        self.directory = directory
        method = rnd.choice(("fork",) * 8 + ("forkserver", "spawn"))
        options = {"processes": rnd.randrange(1, 5), "maxtasksperchild": rnd.choice((None, None, None, 3, 50)), "start_method": method}
        self.what = ", ".join(f"{k}={v}" for k, v in options.items())
        self.pool = MultiPool(**options)
        self.counts: Counter[str] = Counter()
        self.kills = self.hit = 0
        self.killing = rnd.random() < 0.4
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.errors: list[BaseException] = []
        self.markers = 0

    def tasks(self, rnd: random.Random, fatal: bool) -> list[Task]:
        """Mostly plain tasks, some odd ones; without `fatal` none that fails."""
        n = rnd.choice((0, 1, 2, 5, 16, 100, 1000))
        actions = ["plain"] * 60 + ["nap"] * (4 if n < 500 else 0) + ["big"] * (4 if n < 500 else 0)
        if fatal:
            actions += ["raise"] * 2 + (["exit", "kill"] if n < 500 else [])
        chosen = [rnd.choice(actions) for _ in range(n)]
        with self.lock:
            first = self.markers
            self.markers += n
        return [Task(i, action, rnd.randrange(1000), str(self.directory / f"{first + i}")) for i, action in enumerate(chosen)]

    def check(self, task: Task, got: Any, retries: int = 0) -> None:
        """Compare one result with what it must be."""
        if isinstance(got, WorkerLost):
            if got.index != task.index:
                raise Wrong(f"{task}: lost as task {got.index}")
            if task.action in ("exit", "kill") or task.action == "once" and not retries:
                return
            with self.lock:
                self.hit += 1
                if self.hit > self.kills:
                    raise Wrong(f"{task}: {got!r}; {self.hit} such tasks, {self.kills} kills from outside")
            return
        if task.action == "raise":
            good = type(got) is ValueError and got.args == (task.index,)
        elif task.action == "hang":
            good = type(got) is TaskTimeout and got.index == task.index
        elif task.action in ("exit", "kill"):
            good = False
        elif task.action == "big":
            good = got == bytearray([task.index % 251]) * SIZES[task.value % len(SIZES)]
        else:
            good = got == task.index * 7 + task.value
        if not good:
            raise Wrong(f"{task}: {str(got)[:200]!r}")

    def check_all(self, tasks: list[Task], results: Iterable[Any], retries: int = 0) -> None:
        listed = list(results)
        if len(listed) != len(tasks):
            raise Wrong(f"{len(listed)} results of {len(tasks)} tasks")
        for task, got in zip(tasks, listed, strict=True):
            self.check(task, got, retries)
        self.counts["tasks"] += len(tasks)

    # ---- one call each ---------------------------------------------------------------------------------------

    def call_map(self, rnd: random.Random) -> None:
        tasks = self.tasks(rnd, True)
        chunksize = rnd.choice((None, None, 1, 3, 1000))
        self.check_all(tasks, self.pool.map(work, tasks, chunksize=chunksize, return_exceptions=True))

    def call_raising_map(self, rnd: random.Random) -> None:
        tasks = self.tasks(rnd, True)
        bad = [t for t in tasks if t.action in ("raise", "exit", "kill")]
        try:
            results = self.pool.map(work, tasks)
        except (ValueError, WorkerLost) as error:
            index = error.index if isinstance(error, WorkerLost) else error.args[0]
            self.check(tasks[index], error)
        else:
            if bad:
                raise Wrong(f"{bad[0]} did not raise")
            self.check_all(tasks, results)

    def call_retries(self, rnd: random.Random) -> None:
        tasks = self.tasks(rnd, False)
        for i in rnd.sample(range(len(tasks)), min(2, len(tasks))):
            tasks[i] = tasks[i]._replace(action="once")
        self.check_all(tasks, self.pool.map(work, tasks, retries=1, return_exceptions=True), 1)

    def call_limit(self, rnd: random.Random) -> None:
        tasks = self.tasks(rnd, True)[:20]
        if tasks and rnd.random() < 0.3:
            i = rnd.randrange(len(tasks))
            tasks[i] = tasks[i]._replace(action="hang")
        self.check_all(tasks, self.pool.map(work, tasks, timeout=LIMIT, return_exceptions=True))

    def call_starmap(self, rnd: random.Random) -> None:
        tasks = self.tasks(rnd, True)
        self.check_all(tasks, self.pool.starmap(work_star, tasks, return_exceptions=True))

    def call_imap(self, rnd: random.Random) -> None:
        tasks = self.tasks(rnd, True)
        self.check_all(tasks, self.pool.imap(work, iter(tasks), return_exceptions=True))

    def call_abandoned_imap(self, rnd: random.Random) -> None:
        tasks = self.tasks(rnd, False)
        results = self.pool.imap(work, iter(tasks), return_exceptions=True)
        for task, got in zip(tasks[:3], results, strict=False):
            self.check(task, got)

    def call_unordered(self, rnd: random.Random) -> None:
        tasks = [t for t in self.tasks(rnd, False) if t.action != "big"]
        want = Counter(t.index * 7 + t.value for t in tasks)
        got = list(self.pool.imap_unordered(work, iter(tasks), retries=9))
        if Counter(got) != want:
            raise Wrong("imap_unordered gave other results")

    def call_async(self, rnd: random.Random) -> None:
        several = [self.tasks(rnd, True) for _ in range(rnd.randrange(1, 5))]
        waiting = [self.pool.map_async(work, tasks, return_exceptions=True) for tasks in several]
        for tasks, result in zip(several, waiting, strict=True):
            self.check_all(tasks, result.get(HANG))

    def call_broadcast(self, rnd: random.Random) -> None:
        if self.killing:  # what a kill does to it is not known beforehand
            return
        pids = self.pool.broadcast(os.getpid)
        if len(set(pids)) != self.pool.size:
            raise Wrong(f"broadcast on {self.pool.size} workers ran in {pids}")

    # ---- the round -------------------------------------------------------------------------------------------

    def caller(self, seed: int, until: float) -> None:
        rnd = random.Random(seed)
        calls = [name for name in dir(self) if name.startswith("call_")]
        try:
            while time.monotonic() < until and not self.errors:
                name = rnd.choice(calls)
                try:
                    getattr(self, name)(rnd)
                except WorkerLost as error:
                    # Kills that hit workers before they are ready, several in a row: the pool gives up, and the next call tries anew.
                    if not self.killing or error.index is not None or "before they are ready" not in str(error):
                        raise
                    self.counts["starts given up"] += 1
                self.counts["calls"] += 1
                faulthandler.dump_traceback_later(HANG, exit=True)
        except BaseException as error:  # told by the main thread
            self.errors.append(error)

    def killer(self) -> None:
        rnd = random.Random(self.random.random())
        engine = self.pool._runner.engine
        while not self.stop.wait(rnd.random() / 5):
            with self.lock:  # counted before anyone can miss a task
                self.kills += 1
            # By place, not by pid: the engine signals through a descriptor, so never a stranger with the same pid.
            engine.check(engine.lib.swg_kill(engine.handle, rnd.randrange(self.pool.size), signal.SIGKILL))

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self.caller, args=(self.random.random(), until)) for _ in range(self.random.choice((1, 1, 2, 4)))
        ]
        killer = threading.Thread(target=self.killer)
        for thread in threads:
            thread.start()
        if self.killing:
            killer.start()
        for thread in threads:
            thread.join()
        self.stop.set()
        if self.killing:
            killer.join()
        if self.errors or self.random.random() < 0.5:
            self.pool.terminate()
        else:
            self.pool.close()
        self.pool.join()
        if self.errors:
            raise self.errors[0]


def left_behind() -> tuple[int, int, int]:
    """Descriptors, threads and children of this process."""
    gc.collect()
    children = sum(len(Path("/proc/self/task", t, "children").read_text().split()) for t in os.listdir("/proc/self/task"))
    return len(os.listdir("/proc/self/fd")), threading.active_count(), children


def soak(seconds: float, seed: int) -> int:
    """Run rounds for so long; returns the number of calls."""
    end = time.monotonic() + seconds
    total: Counter[str] = Counter()
    rnd = random.Random(seed)
    MultiPool(1).terminate()  # the first pool loads what stays
    before = left_behind()
    with tempfile.TemporaryDirectory() as scratch:
        while time.monotonic() < end:
            faulthandler.dump_traceback_later(HANG, exit=True)
            directory = Path(scratch, str(total["rounds"]))
            directory.mkdir()
            one = Round(rnd.getrandbits(32), directory)
            total["rounds"] += 1
            try:
                one.run(min(rnd.uniform(0.5, 4), max(end - time.monotonic(), 0.3)))
            except BaseException:
                print(f"round {total['rounds']} of seed {seed}: {one.what}, {one.kills} kills", flush=True)
                raise
            total.update(one.counts)
            total["kills"] += one.kills
            print(f"{one.what}: {one.counts['calls']} calls, {one.counts['tasks']} tasks, {one.kills} kills", flush=True)
            if (after := left_behind()) != before:
                raise Wrong(f"descriptors, threads, children: {before} before, {after} after ({one.what})")
    faulthandler.cancel_dump_traceback_later()
    print(", ".join(f"{n} {name}" for name, n in sorted(total.items())))
    return total["calls"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    return 0 if soak(options.minutes * 60, options.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
