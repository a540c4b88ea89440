"""The ends of a pool: close, terminate, garbage collection, from this thread and from another one."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import threading
import time
from random import Random
from typing import Any

import pytest
from helpers import leaks, tasks, traps
from helpers.gates import Gate, pass_gate, pass_gate_if
from pools_under_test import PoolKind
from schwimmbad_go.error import PoolError

from crash.test_idle import kill, stop
from crash.test_moments import usable


def test_while_workers_are_being_replaced(clean: None, kind: PoolKind) -> None:
    """A worker that a thread is starting at this moment comes too late, and is waited for all the same. (Each of some ten rounds left one
    behind before.)"""
    kind.needs("recycles", "handles")
    if not kind.cheap:
        pytest.skip(f"{kind.name}: its workers take too long to start for so many pools")
    random = Random(1)

    def call(pool: Any) -> None:
        with contextlib.suppress(PoolError, ValueError):  # the pool ends in the middle of it
            for _ in range(3):
                pool.map(tasks.square, range(20), chunksize=1, return_exceptions=True)

    for n in range(40):
        pool = kind(1 + n % 2, maxtasksperchild=1 + n % 3)
        threads = [threading.Thread(target=call, args=(pool,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        threads[0].join(random.random() / 50)
        getattr(pool, random.choice(("close", "terminate")))()
        pool.join()
        for thread in threads:
            thread.join()


class TestClose:
    @pytest.mark.parametrize("end", ["close", "terminate"])
    @pytest.mark.parametrize("victims", [1, 2])
    def test_after_workers_died(self, clean: None, kind: PoolKind, end: str, victims: int) -> None:
        kind.needs("deaths", "handles")
        pool = kind(2)
        usable(pool)
        for process in pool._pool[:victims]:
            kill(process.pid)
        getattr(pool, end)()
        pool.join()

    @pytest.mark.parametrize("what", [*traps.EXCEPTIONS, *traps.DEATHS])
    @pytest.mark.parametrize("end", ["close", "terminate"])
    def test_while_exit_hooks_of_workers_fail(self, clean: None, kind: PoolKind, what: str, end: str, capfd: Any) -> None:
        kind.needs("deaths", "handles")
        pool = kind(2)
        pool.broadcast(traps.leave_exit_hooks, what, os.getpid())
        getattr(pool, end)()
        pool.join()

    def test_terminate_ends_a_stopped_worker(self, clean: None, kind: PoolKind) -> None:
        kind.needs("deaths", "handles")
        pool = kind(2)
        usable(pool)
        stop(pool._pool[0].pid)
        pool.terminate()
        pool.join()

    def test_terminate_ends_a_worker_that_ignores_sigterm(self, clean: None, kind: PoolKind, gate: Gate) -> None:
        kind.needs("deaths", "handles")
        pool = kind(2)
        pool.broadcast(signal.signal, signal.SIGTERM, signal.SIG_IGN)
        pool.apply_async(pass_gate, (gate.path,))
        gate.wait_started()
        pool.terminate()
        pool.join()

    def test_workers_have_exit_codes(self, clean: None, kind: PoolKind) -> None:
        kind.needs("deaths", "handles")
        pool = kind(2)
        usable(pool)
        workers = list(pool._pool)
        pool.close()
        pool.join()
        assert [w.exitcode for w in workers] == [0, 0]
        assert not any(w.is_alive() for w in workers)


class TestFromAnotherThread:
    def run_map(self, pool: Any, func: Any, n: int) -> tuple[threading.Thread, list[Any]]:
        outcome: list[Any] = []

        def body() -> None:
            try:
                outcome.append(pool.map(func, range(n), chunksize=1))
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        return thread, outcome

    def test_terminate_during_a_map(self, clean: None, kind: PoolKind, gate: Gate) -> None:
        kind.needs("parallel", "closes")
        pool = kind(2)
        thread, outcome = self.run_map(pool, functools.partial(pass_gate_if, gate.path, range(10)), 10)
        gate.wait_started(2)
        pool.terminate()
        thread.join(20)
        assert not thread.is_alive()
        assert isinstance(outcome[0], PoolError), outcome
        pool.join()

    def test_close_during_a_map(self, clean: None, kind: PoolKind, gate: Gate) -> None:
        """The map that runs is finished; later ones are refused."""
        kind.needs("parallel", "closes")
        pool = kind(2)
        thread, outcome = self.run_map(pool, functools.partial(pass_gate_if, gate.path, range(10)), 10)
        gate.wait_started(2)
        closer = threading.Thread(target=pool.close)  # may wait for the map, or not
        closer.start()
        gate.open(10)
        for one in (closer, thread):
            one.join(20)
            assert not one.is_alive()
        assert outcome == [list(range(10))]
        with pytest.raises(ValueError, match="Pool not running"):
            pool.map(tasks.square, [1])
        pool.join()

    @pytest.mark.parametrize("end", ["close", "terminate"])
    def test_between_many_small_maps(self, clean: None, kind: PoolKind, end: str) -> None:
        """At whatever point the end comes: a right list or an error, never a hang, a crash or a wrong list."""
        kind.needs("parallel", "closes")
        for _ in range(10 if kind.cheap else 2):
            pool = kind(2)
            warm = threading.Event()
            outcome: list[Any] = []

            def body(pool: Any = pool, warm: threading.Event = warm, outcome: list[Any] = outcome) -> None:
                try:
                    while True:
                        assert pool.map(tasks.square, range(20)) == [n * n for n in range(20)]
                        warm.set()
                except BaseException as error:
                    outcome.append(error)

            thread = threading.Thread(target=body)
            thread.start()
            assert warm.wait(20)
            getattr(pool, end)()
            thread.join(20)
            assert not thread.is_alive()
            assert isinstance(outcome[0], PoolError), outcome
            pool.join()

    def test_two_threads_end_it_at_once(self, clean: None, kind: PoolKind) -> None:
        pool = kind(2)
        usable(pool)
        barrier = threading.Barrier(4)
        failures: list[BaseException] = []

        def body(name: str) -> None:
            barrier.wait()
            try:
                getattr(pool, name)()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=body, args=(name,)) for name in ("close", "terminate", "terminate", "close")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        assert failures == []
        pool.join()


class TestGarbageCollection:
    def test_of_an_idle_pool(self, clean: None, kind: PoolKind) -> None:
        pool = kind(2)
        list(pool.map(tasks.square, range(10)))
        del pool
        gc.collect()

    def test_of_an_unused_pool(self, clean: None, kind: PoolKind) -> None:
        kind(2)
        gc.collect()

    def test_of_a_pool_in_a_cycle(self, clean: None, kind: PoolKind) -> None:
        pool = kind(2)
        pool.me = pool
        list(pool.map(tasks.square, range(10)))
        del pool
        gc.collect()

    def test_with_a_half_consumed_imap(self, clean: None, kind: PoolKind) -> None:
        """The iterator goes on without the pool, or ends with an error."""
        pool = kind(2)
        results = pool.imap(tasks.square, range(100))
        got = [next(results)]
        del pool
        gc.collect()
        try:
            got += list(results)
        except PoolError:
            return
        assert got == [n * n for n in range(100)]

    def test_with_an_abandoned_imap(self, clean: None, kind: PoolKind) -> None:
        pool = kind(2)
        results = pool.imap(tasks.square, range(1000))
        next(results)
        del results, pool
        gc.collect()

    def test_of_abandoned_imaps_at_any_moment(self, clean: None, kind: PoolKind) -> None:
        """In a cycle, they end wherever the collector happens to run: also within the pool's own code, under its locks."""
        kind.needs("parallel")
        thresholds = gc.get_threshold()
        with kind(2) as pool:
            try:
                for k in range(1, 150):
                    results = pool.imap(functools.partial(tasks.add, k), range(50))
                    next(results)
                    cycle = [results]
                    cycle.append(cycle)  # type: ignore[arg-type]
                    gc.disable()
                    del results, cycle
                    gc.set_threshold(gc.get_count()[0] + k)  # the k-th object made from here on starts the collector
                    gc.enable()
                    assert list(pool.map(functools.partial(tasks.add, -k), range(5))) == [n - k for n in range(5)]
            finally:
                gc.enable()
                gc.set_threshold(*thresholds)
        pool.join()

    def test_with_a_pending_result(self, clean: None, kind: PoolKind, gate: Gate) -> None:
        """A result that somebody holds is settled one way or the other."""
        kind.needs("parallel")
        pool = kind(2)
        job = pool.apply_async(pass_gate, (gate.path, 5))
        gate.wait_started()
        del pool
        gc.collect()
        gate.open()
        try:
            assert job.get(20) == 5
        except PoolError as error:
            assert not isinstance(error, TimeoutError)  # settled, not pending

    def test_of_the_frame_of_a_failed_map(self, clean: None, kind: PoolKind) -> None:
        try:
            with kind(2) as pool:
                list(pool.map(tasks.boom, range(10)))
        except ValueError as error:
            kept = error
        del pool
        gc.collect()
        assert str(kept).startswith("boom")


class TestOverALongTime:
    def test_thirty_pools_one_after_the_other(self, clean: None, kind: PoolKind) -> None:
        """Threads of the engine may stay, but not grow with the number of pools."""
        n = 30 if kind.cheap else 4
        threads = []
        for _ in range(n):
            with kind(2) as pool:
                list(pool.map(tasks.square, range(10)))
            pool.join()
            threads.append(len(os.listdir("/proc/self/task")))
        assert threads[-1] <= max(threads[:3]) + 4, threads

    def test_five_hundred_maps_leave_no_descriptor(self, clean: None, kind: PoolKind) -> None:
        with kind(2) as pool:
            list(pool.map(tasks.square, range(10)))
            before = leaks.descriptors()
            for _ in range(500):
                list(pool.map(tasks.square, range(3)))
            assert leaks.descriptors() == before
        pool.join()

    def test_close_is_prompt(self, clean: None, kind: PoolKind) -> None:
        """A second is what a user notices; joblib and loky need more."""
        pool = kind(2)
        list(pool.map(tasks.square, range(10)))
        began = time.monotonic()
        pool.close()
        pool.join()
        assert time.monotonic() - began < 1.0
