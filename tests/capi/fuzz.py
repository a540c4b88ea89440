"""Random calls of the C interface: `fuzz.py SEED CALLS`. Exits 0 if each gave a count or a known code, and not "internal".

Pointers are always valid: C cannot tell a wrong one. No process is named but children made here, since the engine kills what
it was told is a worker. Waiting is bounded to milliseconds.
"""

from __future__ import annotations

import ctypes
import random
import subprocess
import sys
from typing import Any

from schwimmbad_go import _engine
from schwimmbad_go import _layout as L

rnd = random.Random(int(sys.argv[1]))
lib = _engine.library()
BUFFER = ctypes.create_string_buffer(4096)
child = subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
handles: list[int] = [0, -1, 2**62]
ports: dict[int, Any] = {}  # handle -> words
ranges: list[int] = []
jobs: list[int] = [0, 1, -1]
chunks: list[int] = [0, 1, 1 << 32]


def small() -> int:
    return rnd.choice((0, 1, 2, 3, 7, rnd.randrange(100), -1, rnd.randrange(-5, 5)))


def number(bits: int) -> int:
    return rnd.choice((0, 1, rnd.randrange(1 << 20), rnd.getrandbits(bits)))


def handle() -> int:
    return rnd.choice(handles)


def open_pool() -> int:
    workers = rnd.choice((0, 1, 2, 3, 70000))
    size = rnd.choice((0, 1, 16 << 20, 64 << 20, 1 << 30))
    command = rnd.choice((None, b"", b"/does/not/exist\0", b"/bin/true\0"))
    made: int = lib.swg_open(_engine._Config(rnd.choice((L.ABI,) * 9 + (7,)), workers, size, rnd.choice((0, 0, 1, 2**63)), command))
    if made > 0:
        handles.append(made)
    return made


def port_open() -> int:
    at = ctypes.c_uint64()
    pool = handle()
    made: int = lib.swg_port_open(pool, at)
    if made > 0:
        info = _engine._Info()
        assert lib.swg_get_info(pool, info) == 0
        handles.append(made)
        ports[made] = (pool, (ctypes.c_int64 * (L.PORT_SIZE // 8)).from_address(info.address + at.value))
    return made


def begin() -> int:
    port = handle()
    if port in ports:
        words = ports[port][1]
        parameters = (rnd.choice((-2, -1, 0, 5, 1000, 2**40)), small(), rnd.choice((0, 1, 5, 2**40)), small(), rnd.randrange(8), 0, 0, 0, 0)
        words[L.W_PARAM : L.W_PARAM + 9] = [
            *parameters[:5],
            rnd.choice((0, 10**6, 2**62, 2**63 - 1)),
            rnd.randrange(64),
            number(62),
            number(62),
        ]
    job: int = lib.swg_begin(port)
    if job > 0:
        jobs.append(job)
    return job


def step() -> int:
    port = handle()
    offers = 0
    if port in ports:
        words = ports[port][1]
        offers = words[L.W_OFFERS]
        for k in range(min(offers, 64)):
            chunks.append(words[L.W_OFFER + L.OFFER_WORDS * k + 1])
        words[L.W_LAST] = rnd.choice((0, 0, 0, 1))
    wait = rnd.choice((0, 1, 2, 3, 17, 255)) + 256 * rnd.choice((1, 2))
    return int(lib.swg_step(port, rnd.choice((offers, offers, 0, 1, -1, 1000)), wait))


def alloc() -> int:
    at: int = lib.swg_alloc(handle(), number(64))
    if at > 0:
        ranges.append(at)
    return at


def forget_dead(code: int) -> int:
    """Ports of a pool that is gone lie in memory that is gone."""
    for port, (pool, _) in list(ports.items()):
        if lib.swg_get_stats(pool, _engine._Stats()) < 0:
            del ports[port]
    return code


def range_of() -> int:
    return rnd.choice((*ranges, number(64)))


CALLS: list[Any] = [
    open_pool, port_open, begin, begin, step, step, step, step, alloc, alloc,
    lambda: lib.swg_get_info(handle(), _engine._Info()),
    lambda: lib.swg_get_stats(handle(), _engine._Stats()),
    lambda: lib.swg_attach(handle(), small(), rnd.choice((0, 0, -1, child.pid)), small()),
    lambda: lib.swg_worker_pid(handle(), number(31)),
    lambda: lib.swg_set_setup(handle(), number(64)),
    lambda: lib.swg_join(handle(), rnd.choice((0, 1, -1, -(2**31)))),
    # Not the ranges that slots lie in: a caller who gives back what is not his breaks only himself, but does break it.
    lambda: lib.swg_release(handle(), ranges.pop() if ranges else 1),
    lambda: lib.swg_same(handle(), range_of(), BUFFER, rnd.choice((0, 1, 4096))),
    lambda: lib.swg_copy(handle(), rnd.choice((2**40, 2**64 - 1)), BUFFER, rnd.choice((1, 4096))),
    lambda: lib.swg_grow(handle(), small(), number(64)),
    lambda: lib.swg_cancel(handle(), rnd.choice(jobs), rnd.choice((0, 1))),
    lambda: lib.swg_requeue(handle(), rnd.choice(chunks), small(), number(64), number(64)),
    lambda: lib.swg_reject(handle(), rnd.choice(chunks)),
    lambda: lib.swg_kick(handle()),
    lambda: lib.swg_code_name(small()) and 0 or 0,
]  # fmt: skip
RARE: list[Any] = [
    lambda: lib.swg_start(handle()),
    lambda: lib.swg_kill(handle(), small(), rnd.choice((0, 9, 15, 99, -1))),
    lambda: lib.swg_port_close(handle()),
    lambda: lib.swg_close(handle()),
    lambda: forget_dead(lib.swg_terminate(handle())),
    lambda: forget_dead(lib.swg_free(handle())),
]  # fmt: skip


def main() -> int:
    for turn in range(int(sys.argv[2])):
        result = rnd.choice(RARE if rnd.random() < 0.03 else CALLS)()
        if result < 0 and (result not in _engine._CODES or result == -1):
            print(f"call {turn}: code {result}: {lib.swg_last_error()!r}")
            return 1
        if len(handles) > 40:  # recent ones: the others are mostly closed
            del handles[3:20]
    for left in handles:
        lib.swg_terminate(left)
    return 0


try:
    status = main()
finally:
    child.kill()
    child.wait()
sys.exit(status)
