"""Large data that the kernel watches instead of being read in every map: no change is missed, whoever makes it.

Where this kernel does not watch (before Linux 6.7, or where a container forbids it) the tests run as well, over the other way.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from schwimmbad_go import MultiPool

np = pytest.importorskip("numpy")

SIZE = 3_000_000  # bytes of data
MAPS = 14  # without a change, from which on data are watched
PAGE = os.sysconf("SC_PAGE_SIZE")


class Carrier:
    """A function with data; tells what is there."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __call__(self, index: int) -> float:
        return float(self.data[index])


def watched(data: Any) -> bool:
    """Whether the kernel watches the middle of the data: the flag `uw` of its mapping (Documentation/filesystems/proc.rst)."""
    at = data.ctypes.data + data.nbytes // 2
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(head[1], 16) <= at < int(head[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "uw" in line.split()
    return False


def some_data() -> Any:
    return np.arange(SIZE // 8, dtype=float)


@pytest.fixture
def pool() -> Iterator[MultiPool]:
    with MultiPool(2) as pool:  # a new one: with each change a pool waits longer before it watches again
        yield pool


@pytest.fixture(scope="module")
def kernel_watches() -> bool:
    """Whether it does so here: by a pool and data of their own, in this process, since what it has open matters."""
    f = Carrier(some_data())
    with MultiPool(1) as pool:
        settle(pool, f)
        return watched(f.data)


def settle(pool: MultiPool, f: Carrier) -> None:
    for _ in range(MAPS):
        assert list(pool.map(f, [0, len(f.data) // 2])) == [f(0), f(len(f.data) // 2)]


def by_element(data: Any, at: int, tmp_path: Path) -> None:
    data[at] = -1.0


def by_a_view(data: Any, at: int, tmp_path: Path) -> None:
    memoryview(data).cast("B").cast("d")[at] = -1.0


def by_readinto(data: Any, at: int, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_bytes(np.float64(-1.0).tobytes())
    with open(file, "rb", buffering=0) as f:
        assert f.readinto(data[at : at + 1]) == 8


def by_a_socket(data: Any, at: int, tmp_path: Path) -> None:
    import socket

    a, b = socket.socketpair()
    with a, b:
        a.sendall(np.float64(-1.0).tobytes())
        assert b.recv_into(data[at : at + 1]) == 8


def after_a_fork(data: Any, at: int, tmp_path: Path) -> None:
    """The pages are shared with a child when the parent writes: it gets new ones."""
    done, wait = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(wait)
        os.read(done, 1)
        os._exit(0)
    data[at] = -1.0
    os.close(done)
    os.close(wait)
    os.waitpid(pid, 0)


def by_another_thread(data: Any, at: int, tmp_path: Path) -> None:
    import threading

    thread = threading.Thread(target=by_element, args=(data, at, tmp_path))
    thread.start()
    thread.join()


WAYS: tuple[Callable[[Any, int, Path], None], ...] = (
    by_element, by_a_view, by_readinto, by_a_socket, after_a_fork, by_another_thread,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 minds a fork in a process with threads
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
def test_a_change_is_seen(pool: MultiPool, kernel_watches: bool, way: Callable[..., None], where: float, tmp_path: Path) -> None:
    f = Carrier(some_data())
    at = int(where * (len(f.data) - 1))
    settle(pool, f)
    assert watched(f.data) == kernel_watches
    way(f.data, at, tmp_path)
    assert list(pool.map(f, [at, at])) == [-1.0, -1.0]
    f.data[at] = 5.0  # while nothing is watched any more
    assert list(pool.map(f, [at, at])) == [5.0, 5.0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_change_in_a_forked_child_is_none(pool: MultiPool, kernel_watches: bool) -> None:
    f = Carrier(some_data())
    settle(pool, f)
    pid = os.fork()
    if pid == 0:
        f.data[:] = 0.0
        os._exit(0)
    os.waitpid(pid, 0)
    assert list(pool.map(f, [7, 9])) == [7.0, 9.0]
    assert watched(f.data) == kernel_watches


def test_memory_that_comes_back(pool: MultiPool) -> None:
    """New data at the address of old ones, which were watched."""
    addresses = set()
    for value in range(6):
        f = Carrier(np.full(SIZE // 8, float(value)))
        addresses.add(f.data.ctypes.data)
        settle(pool, f)
        assert list(pool.map(f, [0, 100_000, SIZE // 8 - 1])) == [float(value)] * 3
        del f
    assert len(addresses) < 6, "the test has lost its subject: no address came twice"


def test_two_pools_on_the_same_data(pool: MultiPool) -> None:
    f = Carrier(some_data())
    with MultiPool(1) as other:
        for value in range(3):
            settle(pool, f)
            settle(other, f)
            f.data[4000 + value] = -3.0
            assert list(pool.map(f, [4000 + value])) == list(other.map(f, [4000 + value])) == [-3.0]


def test_shared_memory_is_read(pool: MultiPool) -> None:
    """Another process writes there without a trace in this one."""
    import mmap

    memory = mmap.mmap(-1, SIZE)
    f = Carrier(np.frombuffer(memory, dtype=float))
    settle(pool, f)
    assert not watched(f.data)
    pid = os.fork()
    if pid == 0:
        memory[PAGE * 9 : PAGE * 9 + 8] = np.float64(-1.0).tobytes()
        os._exit(0)
    os.waitpid(pid, 0)
    assert list(pool.map(f, [PAGE * 9 // 8])) == [-1.0]


def test_at_random(pool: MultiPool, tmp_path: Path) -> None:
    """Two functions over three arrays, changed now and then in some way: what workers see is what is there."""
    draw = random.Random(11)
    arrays = [some_data(), some_data() + 1, some_data()]
    functions = [Carrier(arrays[0]), Carrier(arrays[1])]
    n = len(arrays[0])
    ways = [way for way in WAYS if way is not after_a_fork]
    for _ in range(400):
        f = functions[0] if draw.random() < 0.9 else draw.choice(functions)
        at = draw.randrange(n)
        if draw.random() < 0.05:
            draw.choice(ways)(f.data, at, tmp_path)
        elif draw.random() < 0.01:
            f.data = draw.choice(arrays)
        ask = [at, draw.randrange(n), 0, n - 1]
        assert list(pool.map(f, ask)) == [f(i) for i in ask]


def test_turned_off() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import test_watch as t\n"
        "with t.MultiPool(1) as pool:\n"
        "    f = t.Carrier(t.some_data())\n"
        "    t.settle(pool, f)\n"
        "    assert not t.watched(f.data)"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "SCHWIMMBAD_GO_WATCH": "0"}, check=True, timeout=60)
