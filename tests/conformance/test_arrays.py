"""ndarrays as tasks and results: rows, dtypes, flags, and who may see whose changes."""

from __future__ import annotations

import functools
import gc
from typing import Any

import pytest
from helpers import tasks
from pools_under_test import PoolKind

np = pytest.importorskip("numpy")

from helpers import arrays  # noqa: E402 - needs numpy

STRUCTURED = np.dtype([("a", "i4"), ("b", "f8")])


def samples() -> list[Any]:
    rng = np.random.default_rng(5)
    base = rng.normal(size=(7, 6))
    return [
        np.arange(5), np.arange(5, dtype=np.int8), np.arange(5.0), np.arange(5, dtype=">f4"), np.array([True, False]),
        np.array(["ab", "c"]), np.array([b"ab", b"c"]), np.array([1j, 2]), np.arange(3).astype("M8[s]"), np.float16([1, 2]),
        np.zeros(3, STRUCTURED), np.array([1, "x", None], dtype=object), np.empty((0,)), np.empty((0, 3)), np.empty((3, 0)),
        base, base.T, base[::2], base[:, ::-1], base[:, 1:3], np.asfortranarray(base), base.reshape(7, 2, 3),
        np.ma.masked_greater(base, 0.5), base.view(arrays.Tagged), np.broadcast_to(base[0], (4, 6)),
        np.arange(12).reshape(3, 4).view(np.matrix),
        np.rec.array([(1, 2.0), (3, 4.0)], dtype=STRUCTURED), rng.normal(size=(4, 20_000)), np.longdouble([1, 2]) / 3,
    ]


@pytest.mark.parametrize("n", range(len(samples())))
def test_an_array_of_tasks_gives_what_iterating_it_gives(pool: Any, n: int) -> None:
    array = samples()[n]
    assert list(pool.map(arrays.describe, array)) == [arrays.describe(row) for row in array]


@pytest.mark.parametrize("n", range(len(samples())))
def test_arrays_as_results(pool: Any, n: int) -> None:
    array = samples()[n]
    for back in pool.map(tasks.identity, [array] * 3):
        assert arrays.describe(back) == arrays.describe(array)


def test_zero_dimensional_array_is_no_iterable(pool: Any) -> None:
    with pytest.raises(TypeError):
        pool.map(tasks.identity, np.array(3.0))


def test_subclass_keeps_its_attribute(pool: Any) -> None:
    tagged = np.arange(4.0).view(arrays.Tagged)
    tagged.tag = "mine"
    (back,) = pool.map(tasks.identity, [tagged])
    assert type(back) is arrays.Tagged
    assert back.tag == "mine"


class TestScalarResults:
    @pytest.mark.parametrize("kind_of", [
        np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8, np.bool_, np.complex128, np.str_, np.longdouble,
    ])
    def test_numpy_scalars_stay_what_they_are(self, pool: Any, kind_of: Any) -> None:
        sent = [kind_of(n % 100) for n in range(300)]
        back = list(pool.map(tasks.identity, sent))
        assert {type(b) for b in back} == {kind_of}
        assert back == sent

    def test_the_emcee_call(self, pool: Any) -> None:
        rows = np.random.default_rng(1).normal(size=(16, 5))
        for _ in range(10):
            back = list(pool.map(arrays.sum_float64, rows))
            assert {type(b) for b in back} == {np.float64}
            assert back == [np.sum(row, dtype=np.float64) for row in rows]
            rows = rows + 1

    def test_mixture(self, pool: Any) -> None:
        back = list(pool.map(arrays.mixed, range(64)))
        want = [arrays.mixed(n) for n in range(64)]
        assert [type(b) for b in back] == [type(w) for w in want]
        assert [arrays.describe(b) for b in back] == [arrays.describe(w) for w in want]

    def test_one_stranger_among_many_floats(self, pool: Any) -> None:
        for stranger in (1.0, 1, np.float32(1), None, np.array(1.0)):
            sent = [np.float64(n) for n in range(200)]
            sent[77] = stranger
            assert [type(b) for b in pool.map(tasks.identity, sent)] == [type(s) for s in sent]

    def test_special_values(self, pool: Any) -> None:
        sent = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0, 5e-324])
        back = np.array(list(pool.map(tasks.identity, sent)))
        assert back.tobytes() == sent.tobytes()


class TestEqualSmallArrays:
    """The shape that a fast form is made for, and its near misses."""

    def test_equal(self, pool: Any) -> None:
        back = list(pool.map(functools.partial(np.multiply, 2.0), [np.full(5, float(n)) for n in range(100)]))
        assert all(type(b) is np.ndarray and (b == 2.0 * n).all() for n, b in enumerate(back))
        back[0][:] = -1
        assert (back[1] == 2.0).all()  # results are separate arrays, not windows of one

    @pytest.mark.parametrize("odd", [
        np.zeros(4), np.zeros(5, "f4"), np.zeros(5, ">f8"), np.zeros((5, 1)), np.zeros((1, 5)), np.zeros(5).view(arrays.Tagged),
        np.ma.zeros(5), np.zeros(10)[::2], None, [0.0] * 5,
    ])
    def test_one_that_differs(self, pool: Any, odd: Any) -> None:
        sent = [np.full(5, float(n)) for n in range(50)]
        sent[30] = odd
        assert [arrays.describe(b) for b in pool.map(tasks.identity, sent)] == [arrays.describe(s) for s in sent]


class TestFlagsAndAliasing:
    @pytest.mark.parametrize("n", [3, 5_000, 500_000])  # inside the pickle, near the limit, out of band
    def test_results_are_writable(self, pool: Any, n: int) -> None:
        for back in pool.map(arrays.fill, [(n, 1.0), (n, 2.0)]):
            assert back.flags.writeable
            back += 1

    @pytest.mark.parametrize("n", [3, 5_000, 500_000])
    def test_read_only_arrays_arrive_writable(self, pool: Any, kind: PoolKind, n: int) -> None:
        """As under schwimmbad, whose pickles forget the flag; the copy is the worker's own, why should it not write."""
        kind.needs("pickling")
        frozen = np.full(n, 2.0)
        frozen.flags.writeable = False
        assert list(pool.map(arrays.flags, [frozen] * 3)) == [(True, True)] * 3
        assert list(pool.map(arrays.flags, np.broadcast_to(frozen, (4, n)))) == [(True, True)] * 4
        assert all(back.flags.writeable for back in pool.map(tasks.identity, [frozen] * 2))

    @pytest.mark.parametrize("n", [3, 5_000, 500_000])
    def test_tasks_are_writable_and_copies(self, pool: Any, kind: PoolKind, n: int) -> None:
        kind.needs("pickling")
        work = [np.full(n, float(i)) for i in range(4)]
        assert list(pool.map(arrays.flags, work)) == [(True, True)] * 4
        assert list(pool.map(arrays.scribble, work)) == [float(n * i) for i in range(4)]
        assert all((w == i).all() for i, w in enumerate(work))
        assert list(pool.map(arrays.scribble, work)) == [float(n * i) for i in range(4)]

    @pytest.mark.parametrize("shape", [(16, 5), (6, 100_000)])
    def test_rows_are_writable_and_copies(self, pool: Any, kind: PoolKind, shape: tuple[int, int]) -> None:
        kind.needs("pickling")
        rows = np.arange(float(shape[0] * shape[1])).reshape(shape)
        before = rows.copy()
        assert list(pool.map(arrays.flags, rows)) == [(True, True)] * shape[0]
        for _ in range(3):
            assert list(pool.map(arrays.scribble, rows)) == [float(r.sum()) for r in before]
        assert (rows == before).all()

    @pytest.mark.parametrize("n", [4, 50_000])
    def test_a_task_kept_by_the_worker_stays_what_it_was(self, fresh: Any, kind: PoolKind, n: int) -> None:
        """The memory that a task came in may be used again only when nobody looks at it any more."""
        kind.needs("own state")
        pool = fresh(2)
        for run in range(4):
            list(pool.map(functools.partial(arrays.keep, "kept"), [np.full(n, run * 10.0 + i) for i in range(8)]))
            list(pool.map(arrays.checksum, [np.full(n, 99.0)] * 8))
        found = pool.broadcast(arrays.kept_intact, "kept")
        assert sum(count for count, _ in found) == 32
        assert all(intact for _, intact in found)

    def test_rows_kept_by_the_worker(self, fresh: Any, kind: PoolKind) -> None:
        kind.needs("own state")
        pool = fresh(2)
        for run in range(4):
            list(pool.map(functools.partial(arrays.keep, "rows"), np.full((16, 5), float(run))))
        found = pool.broadcast(arrays.kept_intact, "rows")
        assert sum(count for count, _ in found) == 64
        assert all(intact for _, intact in found)

    def test_results_stay_what_they_were(self, fresh: Any) -> None:
        """Across later maps on the same pool, and after its end."""
        pool = fresh(2)
        held = []
        for run in range(6):
            held.append(list(pool.map(arrays.fill, [(60_000, run * 10.0 + i) for i in range(4)])))
        pool.close()
        pool.join()
        pool.terminate()
        del pool
        gc.collect()
        for run, group in enumerate(held):
            for i, array in enumerate(group):
                assert (array == run * 10.0 + i).all()

    def test_a_worker_that_reuses_its_buffer(self, pool: Any, kind: PoolKind) -> None:
        kind.needs("pickling")
        back = list(pool.map(arrays.own_buffer, [float(n) for n in range(8)], chunksize=1))
        assert [float(b[0]) for b in back] == [float(n) for n in range(8)]
        assert all((b == b[0]).all() for b in back)

    def test_changing_one_result_changes_no_other(self, pool: Any, kind: PoolKind) -> None:
        kind.needs("pickling")
        back = list(pool.map(arrays.fill, [(30_000, float(n)) for n in range(6)]))
        for n, array in enumerate(back):
            array[:] = -n
        assert all((array == -n).all() for n, array in enumerate(back))


class TestBig:
    def test_several_mb_each_way(self, pool: Any) -> None:
        work = [np.random.default_rng(n).normal(size=1_000_000) for n in range(6)]
        for sent, back in zip(work, pool.map(arrays.half, work), strict=True):
            assert np.array_equal(back, sent / 2)

    def test_more_than_the_pipes_and_slots_hold(self, pool: Any) -> None:
        """30 tasks of 4 MB, results of 8 MB: 360 MB pass through, whatever the arena's size."""
        source = (np.full(500_000, float(n)) for n in range(30))
        for n, back in enumerate(pool.imap(arrays.big_pair, source)):
            assert (back["double"] == 2 * n).all()
            assert (back["same"] == n).all()
            assert back["head"] == [n] * 3

    def test_big_arrays_inside_other_objects(self, pool: Any) -> None:
        work = [{"x": np.full(200_000, n), "y": [np.arange(3), "text"]} for n in range(4)]
        for n, back in enumerate(pool.map(tasks.identity, work)):
            assert (back["x"] == n).all()
            assert back["y"][1] == "text"

    def test_sizes_around_the_out_of_band_limit(self, pool: Any) -> None:
        work = [np.random.default_rng(n).bytes(n) for n in (0, 1, 4095, 4096, 65535, 65536, 65537, 131072, 1_048_577)]
        sent = [np.frombuffer(w, np.uint8) for w in work]
        for n, back in enumerate(pool.map(tasks.identity, sent)):
            assert back.tobytes() == work[n]

    def test_one_array_in_every_task(self, pool: Any) -> None:
        shared = np.random.default_rng(0).normal(size=300_000)
        back = list(pool.map(tasks.call, [(arrays.checksum, shared)] * 12))
        assert back == [arrays.checksum(shared)] * 12
