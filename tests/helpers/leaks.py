"""Counts what a pool may leave behind: processes, threads, descriptors, shared memory.

Linux only: everything is read from /proc. Processes are found in two ways, because neither finds all: by descent (a worker
forked from the test) and by a marker in the environment (anything started by exec, even after its parent is gone).
"""

from __future__ import annotations

import gc
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MARK = "SCHWIMMBAD_GO_TEST_MARK"

# Started once per interpreter by the standard library and kept until it exits; no pool can end them.
STDLIB_HELPERS = re.compile(rb"multiprocess(ing)?[./](forkserver|resource_tracker|semaphore_tracker)")


def parents() -> dict[int, tuple[int, str]]:
    """pid -> (parent's pid, state letter) of every process, zombies included."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path("/proc", name, "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended while we looked
            state, parent = stat.rpartition(")")[2].split()[:2]
            found[int(name)] = (int(parent), state)
    return found


def _read(pid: int, what: str) -> bytes:
    try:
        return Path("/proc", str(pid), what).read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def is_stdlib_helper(pid: int, parent: int) -> bool:
    """The server itself, not a worker that it forked (which has the same command line)."""
    line = _read(pid, "cmdline")
    return bool(STDLIB_HELPERS.search(line)) and not STDLIB_HELPERS.search(_read(parent, "cmdline"))


def descendants(root: int) -> set[int]:
    """Children, grandchildren and so on of `root`, without the standard library's helpers."""
    table = parents()
    family = {root}
    while True:
        more = {pid for pid, (parent, _) in table.items() if parent in family} - family
        if not more:
            break
        family |= more
    return {pid for pid in family - {root} if not is_stdlib_helper(pid, table[pid][0])}


def marked(mark: str) -> set[int]:
    """Every live process that was started with `mark` in its environment, wherever it hangs in the tree."""
    needle = f"{MARK}={mark}".encode()
    return {pid for pid, (_, state) in parents().items() if state != "Z" and needle in _read(pid, "environ")}


def alive(pid: int) -> bool:
    """True unless the process is gone, or is a zombie that only waits to be reaped."""
    return parents().get(pid, (0, "Z"))[1] not in "ZX"


def descriptors() -> Counter[str]:
    """What this process holds open, by target; inode numbers are cut off, since they never come back."""
    found: Counter[str] = Counter()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor of listdir itself
        found[re.sub(r"\[\d+\]", "", target)] += 1
    return found


def shared_mappings() -> Counter[str]:
    """Mapped shared memory. (Names in /dev/shm are not counted: other programs come and go there.)"""
    found: Counter[str] = Counter()
    with open("/proc/self/maps") as f:
        for line in f:
            name = line.split(None, 5)[5].strip() if len(line.split(None, 5)) > 5 else ""
            if "memfd:" in name or name.startswith("/dev/shm"):
                found[name] += 1
    return found


@dataclass(frozen=True)
class Snapshot:
    children: frozenset[int]
    threads: frozenset[threading.Thread]
    descriptors: Counter[str]
    mappings: Counter[str]

    def excess(self, earlier: Snapshot) -> list[str]:
        """What is there now and was not there before, as sentences."""
        found = []
        table = parents()
        for pid in sorted(self.children - earlier.children):
            line = _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
            found.append(f"process {pid} (parent, state {table.get(pid)}): {line[:150]}")
        found += [f"thread {t.name}" for t in self.threads - earlier.threads]
        found += [f"{n} descriptor(s) {name}" for name, n in (self.descriptors - earlier.descriptors).items()]
        found += [f"{n} mapping(s) {name}" for name, n in (self.mappings - earlier.mappings).items()]
        return found


def snapshot() -> Snapshot:
    return Snapshot(
        children=frozenset(descendants(os.getpid())),
        threads=frozenset(threading.enumerate()),
        descriptors=descriptors(),
        mappings=shared_mappings(),
    )


def poll(condition: Callable[[], bool], limit: float) -> float:
    """Seconds until `condition()` held, at most `limit` (plus one look); the caller judges the number."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > limit:
            return float("inf")
        time.sleep(0.002)  # between looks at /proc only: nothing is raced
    return time.monotonic() - start


@contextmanager
def nothing_left(limit: float = 1.0) -> Iterator[Snapshot]:
    """Everything the block opened is gone `limit` seconds after its end at the latest."""
    gc.collect()
    before = snapshot()
    yield before
    gc.collect()
    if not snapshot().excess(before):
        return
    poll(lambda: not snapshot().excess(before), limit)
    left = snapshot().excess(before)
    assert not left, f"left behind after {limit} s: " + "; ".join(left)
