"""Several threads, several pools."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
from helpers import tasks
from helpers.gates import Gate, pass_gate_if
from pools_under_test import KINDS, PoolKind


def in_threads(n: int, body: Callable[[int], None]) -> None:
    """Run `body(k)` in n threads at once; the first failure is raised here."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(n)

    def run(k: int) -> None:
        try:
            barrier.wait(20)
            body(k)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(k,), daemon=True) for k in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(45)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if failures:
        raise failures[0]


@pytest.mark.parametrize("n", [2, 5, 13])
def test_one_pool_many_threads(clean: None, fresh: Any, n: int) -> None:
    pool = fresh(2)

    def body(k: int) -> None:
        for i in range(20):
            work = range(k * 1000, k * 1000 + i)
            assert list(pool.map(tasks.square, work)) == [w * w for w in work]

    in_threads(n, body)
    assert list(pool.map(tasks.square, range(3))) == [0, 1, 4]


def test_different_methods_at_once(clean: None, fresh: Any, kind: PoolKind) -> None:
    pool = fresh(2)

    def body(k: int) -> None:
        for i in range(10):
            n = 10 + i
            if k == 0:
                assert list(pool.map(tasks.square, range(n))) == [x * x for x in range(n)]
            elif k == 1:
                assert list(pool.imap(tasks.negate, range(n))) == [-x for x in range(n)]
            elif k == 2:
                assert pool.map_async(tasks.negate, range(n)).get(20) == [-x for x in range(n)]
            elif k == 3:
                assert pool.apply(tasks.add, (k, n)) == k + n
            elif k == 4:
                with pytest.raises(ValueError, match="boom"):
                    list(pool.map(tasks.boom, range(n)))
            else:
                seen: list[int] = []
                pool.map(tasks.square, range(n), callback=seen.append, **kind.in_order)
                assert seen == [x * x for x in range(n)]

    in_threads(6, body)


def test_callbacks_run_on_their_own_callers_thread(clean: None, fresh: Any) -> None:
    pool = fresh(2)

    def body(k: int) -> None:
        seen: set[int] = set()
        pool.map(tasks.square, range(50), callback=lambda _: seen.add(threading.get_ident()))
        assert seen == {threading.get_ident()}

    in_threads(4, body)


def test_a_failure_in_one_thread_is_not_anothers(clean: None, fresh: Any) -> None:
    pool = fresh(2)
    caught = []

    def body(k: int) -> None:
        for _ in range(20):
            try:
                list(pool.map(functools.partial(tasks.boom_on, 1000 + k), range(1000, 1004)))
            except ValueError as error:
                assert str(error) == f"boom {1000 + k}"
                caught.append(k)

    in_threads(4, body)
    assert len(caught) == 80


def test_pool_made_and_used_in_different_threads(clean: None, kind: PoolKind) -> None:
    """The thread that forked the workers ends before they are used: they must not end with it."""
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(kind(2)))
    thread.start()
    thread.join(30)
    assert list(made[0].map(tasks.square, range(50))) == [n * n for n in range(50)]
    pids = set(made[0].broadcast(tasks.pid))
    assert list(made[0].map(tasks.square, range(50))) == [n * n for n in range(50)]
    assert set(made[0].broadcast(tasks.pid)) == pids
    made[0].terminate()
    made[0].join()


def test_pools_made_in_threads_at_once(clean: None, kind: PoolKind) -> None:
    """A fork in one thread copies descriptors of a pool that another thread is just making."""
    kind.needs("side by side")

    def body(k: int) -> None:
        for _ in range(3 if kind.cheap else 1):
            with kind(2) as pool:
                assert list(pool.map(tasks.square, range(k, k + 20))) == [x * x for x in range(k, k + 20)]
            pool.join()

    in_threads(4 if kind.cheap else 2, body)


def test_several_pools_side_by_side(clean: None, kind: PoolKind) -> None:
    kind.needs("side by side")
    pools = [kind(2) for _ in range(3)]
    streams = [pool.imap(tasks.add, range(n, n + 30)) for n, pool in enumerate(pools)]
    assert [list(s) for s in zip(*streams, strict=True)] == [[n + k for k in range(3)] for n in range(30)]
    pools[0].terminate()
    pools[0].join()
    for pool in pools[1:]:
        assert list(pool.map(tasks.square, range(20))) == [n * n for n in range(20)]
        pool.close()
        pool.join()


def test_later_pool_does_not_hold_an_earlier_one(clean: None, kind: PoolKind) -> None:
    """Workers of the second pool inherited the first one's descriptors; the first must end all the same."""
    kind.needs("side by side")
    first = kind(2)
    second = kind(2)
    list(first.map(tasks.square, range(5)))
    first.close()
    first.join()
    assert not any(p.is_alive() for p in getattr(first, "_pool", []))
    assert list(second.map(tasks.square, range(5))) == [0, 1, 4, 9, 16]
    second.close()
    second.join()


def test_pools_of_every_kind_at_once(kind: PoolKind) -> None:
    with kind(1) as one:
        for other in KINDS:
            with other(1) as two:
                pairs = zip(one.imap(tasks.square, range(5)), two.imap(tasks.negate, range(5)), strict=True)
                assert list(pairs) == [(n * n, -n) for n in range(5)]


def test_another_pool_within_a_callback(clean: None, kind: PoolKind) -> None:
    kind.needs("side by side")
    with kind(2) as outer, kind(1) as inner:
        seen: list[list[int]] = []
        outer.map(tasks.square, range(5), callback=lambda v: seen.append(list(inner.map(tasks.negate, [v]))))
        assert seen == [[0], [-1], [-4], [-9], [-16]]
    outer.join()
    inner.join()


def test_a_blocked_map_does_not_block_the_interpreter(clean: None, fresh: Any, kind: PoolKind, gate: Gate) -> None:
    """While one thread waits in a map, this one runs Python: the engine waits without the GIL."""
    kind.needs("parallel")
    pool = fresh(2)
    func = functools.partial(pass_gate_if, gate.path, (0, 1))
    thread = threading.Thread(target=lambda: pool.map(func, range(2), chunksize=1))
    thread.start()
    gate.wait_started(2)
    assert sum(range(1000)) == 499500
    assert thread.is_alive()
    gate.open(2)
    thread.join(20)
    assert not thread.is_alive()


def test_an_imap_handed_to_another_thread(clean: None, fresh: Any) -> None:
    pool = fresh(2)
    results = pool.imap(tasks.square, range(100))
    got = [next(results) for _ in range(10)]
    in_threads(1, lambda _: got.extend(results))
    assert got == [n * n for n in range(100)]


def test_an_imap_shared_by_threads(clean: None, fresh: Any) -> None:
    pool = fresh(2)
    results = pool.imap_unordered(tasks.square, range(300))
    got: list[int] = []
    in_threads(3, lambda _: got.extend(results))
    assert sorted(got) == [n * n for n in range(300)]
