"""Memory of large results is used again, and never while anybody can see it."""

from __future__ import annotations

import gc
import os
import random
from typing import Any

import pytest
from schwimmbad_go import MultiPool, _recycle

np = pytest.importorskip("numpy")

BIG = _recycle.LEAST  # bytes
linux = pytest.mark.skipif(not hasattr(_recycle.mmap, "MADV_FREE"), reason="memory is not kept")


def filled(value: float) -> Any:
    return np.full(BIG // 8, value)


def address(array: Any) -> int:
    return int(array.ctypes.data)


@linux
def test_used_again() -> None:
    with MultiPool(2) as pool:
        first = {address(a) for a in pool.map(filled, range(8))}
        assert len(first) == 8
        second = pool.map(filled, range(8, 16))
        assert {address(a) for a in second} == first
        assert [set(a) for a in second] == [{float(v)} for v in range(8, 16)]


def test_what_is_held_is_never_written() -> None:
    """Whatever part of a result somebody holds, in whatever way, and for how long."""
    draw = random.Random(3)
    held: list[tuple[Any, float]] = []
    with MultiPool(2) as pool:
        value = 0.0
        for _ in range(40):
            tasks = [value + i for i in range(draw.randrange(1, 6))]
            value += len(tasks)
            for task, array in zip(tasks, pool.map(filled, tasks), strict=True):
                views = [array, array[100:], array[::7], array.reshape(8, -1)[3], memoryview(array), array.T, array.view("u1")[8:16]]
                part = draw.choice(views)
                if draw.random() < 0.4:
                    held.append((part, task))
            draw.shuffle(held)
            del held[12:]
            for part, task in held:
                found = np.frombuffer(part, float) if np.asarray(part).dtype == np.uint8 else np.asarray(part)
                assert (found == task).all()
    gc.collect()
    assert all((np.asarray(part).view("u1").view(float) == task).all() for part, task in held if np.asarray(part).flags.c_contiguous)


def test_what_a_user_writes_into_a_result_stays() -> None:
    with MultiPool(1) as pool:
        (mine,) = pool.map(filled, [1.0])
        mine += 1
        for value in range(5):
            pool.map(filled, [float(value)] * 3)
        assert (mine == 2.0).all() and mine.flags.writeable


def test_a_child_and_its_parent_have_each_their_own() -> None:
    with MultiPool(1) as pool:
        results = list(pool.map(filled, [1.0, 2.0]))
        pid = os.fork()
        if pid == 0:
            results[0][:] = 9.0
            del results  # in the child it goes back to a pool that is dead there
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert (results[0] == 1.0).all()
        again = pool.map(filled, [3.0, 4.0])
        assert (results[1] == 2.0).all() and (next(iter(again)) == 3.0).all()


@linux
def test_limits() -> None:
    recycler = _recycle.Recycler()
    blocks = [recycler.take(BIG + i) for i in range(_recycle.MOST_LENGTHS + 5)]
    del blocks
    assert 0 < len(recycler.spare) <= _recycle.MOST_LENGTHS
    recycler = _recycle.Recycler()
    blocks = [recycler.take(_recycle.MOST // 3) for _ in range(5)]  # never touched: no memory
    del blocks
    assert [len(spare) for spare in recycler.spare.values()] == [3]
    block = recycler.take(_recycle.MOST // 3)
    recycler.close()
    assert not recycler.spare
    del block
    assert not recycler.spare


def test_nothing_is_kept_after_the_pool() -> None:
    with MultiPool(1) as pool:
        pool.map(filled, range(4))
        recycler = pool._runner.recycler
        assert recycler.spare or not hasattr(_recycle.mmap, "MADV_FREE")
    pool.join()
    assert recycler.closed and not recycler.spare
