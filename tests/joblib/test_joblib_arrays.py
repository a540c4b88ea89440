"""Arrays in joblib's tasks: shared, read-only, from files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import pytest
from joblib import Parallel, delayed
from schwimmbad_go import MultiPool
from schwimmbad_go._joblib import as_backend

np = pytest.importorskip("numpy")

Make = Callable[..., Any]


def look(a: Any) -> tuple[Any, ...]:
    return type(a).__name__, a.flags.writeable, a.dtype.str, a.shape, a.flags.c_contiguous, a.flags.f_contiguous, float(a.sum())


def write(a: Any) -> float:
    a += 1
    return float(a[0])


def set_at(a: Any, i: int) -> None:
    a[i] = i


@pytest.mark.parametrize("order", ["C", "F"])
def test_large_ones_are_read_only(parallel: Make, order: Any) -> None:
    large = np.asarray(np.arange(300_000.0).reshape(500, 600), order=order)
    expected = ("ndarray", False, "<f8", (500, 600), order == "C", order == "F", float(large.sum()))
    assert parallel(batch_size=1)(delayed(look)(large) for _ in range(6)) == [expected] * 6
    with pytest.raises(ValueError, match="read-only"):
        parallel()(delayed(write)(np.zeros(300_000)) for _ in range(3))
    small = np.zeros(1000)
    assert parallel()(delayed(look)(small) for _ in range(3)) == [("ndarray", True, "<f8", (1000,), True, True, 0.0)] * 3


def test_views_and_odd_types(parallel: Make) -> None:
    base = np.arange(1_200_000.0).reshape(1200, 1000)
    odd = [base[::2, ::3], base[5:], base.T, base[:, ::-1], base.astype(">i4"), base.view(np.matrix), base.astype(object)[:10]]
    odd.append(np.zeros(200_000, dtype=[("a", "f8"), ("b", "i4")]))
    for array in odd:
        assert parallel(batch_size=1)(delayed(np.array_equal)(array, array) for _ in range(3)) == [True] * 3
        back = parallel(batch_size=1)(delayed(np.copy)(array) for _ in range(2))
        assert all(np.array_equal(b, array) and b.dtype == array.dtype for b in back)


@pytest.mark.parametrize("options", [{"max_nbytes": None}, {"mmap_mode": None}, {"mmap_mode": "c"}])
@pytest.mark.parametrize("n", [20_000, 300_000])
def test_what_a_task_changes_is_its_own(parallel: Make, options: dict[str, Any], n: int) -> None:
    """Without read-only arrays each batch has a copy of its own, and the caller's stays as it is."""
    array = np.zeros(n)
    assert parallel(batch_size=1, **options)(delayed(write)(array) for _ in range(8)) == [1.0] * 8
    assert not array.any()


def test_changed_between_batches(parallel: Make) -> None:
    """An array that the source of tasks changes is sent as it is when its batch goes out."""
    array = np.zeros(300_000)

    def source() -> Any:
        for i in range(6):
            array[:] = i
            yield delayed(np.max)(array.copy() if i % 2 else array + 0)

    assert parallel(batch_size=1, pre_dispatch=1)(source()) == [0, 1, 2, 3, 4, 5]


def test_sent_once(parallel: Make) -> None:
    """Of an array that all tasks have, the pool's memory gets a copy or two, and gives it back."""
    array = np.random.default_rng(0).random(2_000_000)
    with MultiPool(2) as pool, as_backend(pool):
        for _ in range(3):
            assert Parallel(batch_size=1)(delayed(np.sum)(array) for _ in range(20)) == [array.sum()] * 20
        assert pool.statistics().bytes_in < 6 * 2 * array.nbytes
        blobs = pool._runner.blobs
        assert not blobs.shared and not blobs.seen and blobs.shared_bytes == 0
        pool.broadcast(os.getpid)  # nobody has it mapped any more
        pool.map(abs, range(3))
        assert not blobs.retired


def test_results(parallel: Make) -> None:
    big = np.arange(400_000.0)
    for found in parallel(batch_size=1)(delayed(lambda a: (a, a[1:], -a))(big) for _ in range(3)):
        for a, expected in zip(found, (big, big[1:], -big)):
            assert np.array_equal(a, expected)
            a[0] = 7  # the caller's own


@pytest.mark.parametrize("mode", ["r", "r+", "w+", "c"])
def test_mapped_files(parallel: Make, tmp_path: Path, mode: Any) -> None:
    path = tmp_path / "data"
    np.arange(100_000.0).tofile(path)
    array = np.memmap(path, dtype=np.float64, mode=mode, shape=(1000, 100))
    if mode == "w+":
        array[:] = np.arange(100_000.0).reshape(1000, 100)
    elif mode == "c":
        array[0, 0] = -5.0  # in this process only
    for part in (array, array[10:20], array[::3, 5:50:5], array.T, np.asarray(array)[2:], array[:, ::-1]):
        expected = float(part.sum())
        found = parallel(batch_size=1)(delayed(look)(part) for _ in range(3))
        assert [f[-1] for f in found] == [expected] * 3 and {f[3] for f in found} == {part.shape}
    if mode in ("r+", "w+"):  # how tasks write into one array, as joblib documents it
        flat = array.reshape(-1)
        parallel()(delayed(set_at)(flat, i) for i in range(1000, 1020))
        assert array.reshape(-1)[1000:1020].tolist() == list(range(1000, 1020))
    elif mode == "r":
        with pytest.raises(ValueError, match="read-only"):
            parallel()(delayed(set_at)(array, i) for i in range(3))


def test_no_file_is_written(parallel: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(tmp_path))
    array = np.ones(500_000)
    assert parallel()(delayed(np.sum)(array) for _ in range(4)) == [500_000.0] * 4
    assert os.listdir(tmp_path) == []
    assert joblib.hash(array) == joblib.hash(np.ones(500_000))
