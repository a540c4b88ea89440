"""Wrong calls of the C interface: a code and a sentence for each, never a crash."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from schwimmbad_go import _engine
from schwimmbad_go import _layout as L

from .parse import Header

HEADER = Header()
E_HANDLE = HEADER.defines["SWG_E_HANDLE"]
E_ARGUMENT = HEADER.defines["SWG_E_ARGUMENT"]
E_MEMORY = HEADER.defines["SWG_E_MEMORY"]
ARENA = 64 << 20


@pytest.fixture
def lib() -> Any:
    return _engine.library()


def open_pool(lib: Any, workers: int = 1) -> int:
    """A pool whose workers nobody starts."""
    handle: int = lib.swg_open(_engine._Config(L.ABI, workers, ARENA, 0, None))
    assert handle > 0, lib.swg_last_error()
    return handle


@pytest.fixture
def pool(lib: Any) -> Iterator[int]:
    handle = open_pool(lib)
    yield handle
    assert lib.swg_free(handle) in (0, E_HANDLE)


def taking(kind: str) -> list[str]:
    """Functions whose first argument is a handle of this kind."""
    return [name for name, p in HEADER.prototypes.items() if p.arguments and p.arguments[0] == ("int64_t", kind)]


def call(lib: Any, name: str, handle: int) -> int:
    """Call with this handle and harmless values for all other arguments."""
    rest: list[Any] = []
    for kind in _engine.SIGNATURES[name][2:]:
        if kind is ctypes.c_void_p:
            rest.append(ctypes.create_string_buffer(16))
        elif kind is ctypes.c_char_p:
            rest.append(b"")
        elif hasattr(kind, "contents"):
            rest.append(kind._type_())
        else:
            rest.append(0)
    code: int = getattr(lib, name)(handle, *rest)
    return code


def test_every_call_is_on_a_handle() -> None:
    free = {"swg_abi", "swg_version", "swg_last_error", "swg_code_name", "swg_open"}
    free |= {"swg_mpi_look", "swg_mpi_start", "swg_mpi_stop", "swg_mpi_abort", "swg_comm_open", "swg_open_ranks"}
    free |= {"swg_buffer_free", "swg_fork"}
    handled = {name for kind in ("pool", "port", "comm", "rank") for name in taking(kind)}
    assert handled | free == set(HEADER.prototypes)


def test_mpi_calls_without_mpi(lib: Any, pool: int) -> None:
    """The plain library knows them and refuses: there is no handle that they could be called on, and no MPI."""
    for handle in (pool, 0, -1, 2**40):
        for name in (*taking("comm"), *taking("rank")):
            assert call(lib, name, handle) == E_HANDLE, name
        assert lib.swg_open_ranks(None, handle, 1, None, 0) == E_HANDLE
    unsupported = HEADER.defines["SWG_E_UNSUPPORTED"]
    assert lib.swg_comm_open(-1, 1) == lib.swg_mpi_start() == unsupported == lib.swg_mpi_look(_engine.MPIInfo())
    assert b"built without MPI" in lib.swg_last_error()


@pytest.mark.parametrize("name", [*taking("pool"), *taking("port")])
def test_handles_that_are_none(lib: Any, pool: int, name: str) -> None:
    port = lib.swg_port_open(pool, ctypes.c_uint64())
    other = open_pool(lib)
    other_port = lib.swg_port_open(other, ctypes.c_uint64())
    assert lib.swg_port_close(port) == 0 == lib.swg_free(other)
    # Closed, never there, and of the other kind.
    foreign = lib.swg_port_open(pool, ctypes.c_uint64()) if name in taking("pool") else pool
    for handle in (port, other, other_port, foreign, 0, -1, 2**40, -(2**63), 2**63 - 1):
        assert call(lib, name, handle) == E_HANDLE, handle
        assert str(handle).encode() in lib.swg_last_error()
    assert lib.swg_port_close(foreign) == (0 if name in taking("pool") else E_HANDLE)


def test_messages_belong_to_their_thread(lib: Any) -> None:
    barrier = threading.Barrier(8, timeout=30)
    wrong = []

    def shout(number: int) -> None:
        for i in range(100):
            handle = 10**12 + number * 1000 + i
            assert lib.swg_start(handle) == E_HANDLE
            barrier.wait()  # every thread has failed by now
            if str(handle).encode() not in lib.swg_last_error():
                wrong.append((handle, lib.swg_last_error()))
            barrier.wait()

    threads = [threading.Thread(target=shout, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_message_stays_after_a_call_that_works(lib: Any, pool: int) -> None:
    assert lib.swg_start(0) == E_HANDLE
    before = lib.swg_last_error()
    assert lib.swg_get_stats(pool, _engine._Stats()) == 0
    assert lib.swg_last_error() == before


def test_long_messages_are_cut(lib: Any) -> None:
    config = _engine._Config(L.ABI, 1, ARENA, 0, b"/" + b"x" * 3000 + b"\0")
    handle = lib.swg_open(config)
    assert lib.swg_start(handle) < 0
    assert 100 < len(lib.swg_last_error()) < 1024
    assert lib.swg_free(handle) == 0


def test_ranges(lib: Any, pool: int) -> None:
    data = b"0123456789"
    at = lib.swg_alloc(pool, len(data))
    assert at > 0 and lib.swg_copy(pool, at, data, len(data)) == 0
    assert lib.swg_same(pool, at, data, len(data)) == 1 and lib.swg_same(pool, at + 1, data, 9) == 0
    for offset, length in ((ARENA, 1), (ARENA - 1, 2), (2**64 - 1, 2), (0, 2**64 - 1)):
        assert lib.swg_same(pool, offset, data, length) == 0
        assert lib.swg_copy(pool, offset, data, length) == E_ARGUMENT
    assert lib.swg_release(pool, at) == 0
    assert lib.swg_release(pool, at) == E_ARGUMENT and lib.swg_release(pool, 1) == E_ARGUMENT
    for size in (2**63, 2**64 - 1, ARENA):
        assert lib.swg_alloc(pool, size) == E_MEMORY


@pytest.mark.parametrize("name", ["swg_get_info", "swg_get_stats", "swg_port_open"])
def test_null_pointers_are_errors(lib: Any, pool: int, name: str) -> None:
    assert getattr(lib, name)(pool, None) < 0
    assert lib.swg_last_error()
    ports = [lib.swg_port_open(pool, ctypes.c_uint64()) for _ in range(256)]
    assert min(ports) > 0, "the refused call kept a port"
    for port in ports:
        assert lib.swg_port_close(port) == 0


def test_random_calls_do_not_crash() -> None:
    script = Path(__file__).with_name("fuzz.py")
    package = str(Path(_engine.__file__).parents[1])
    seed = int.from_bytes(os.urandom(4), "little")
    done = subprocess.run(
        [sys.executable, script, str(seed), "4000"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((package, str(script.parents[1])))}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {seed}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
