"""What becomes of a batch of calls on its way: the forms in which it is sent, jobs of several, what their errors name."""

from __future__ import annotations

import gc
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import leaks, tasks
from joblib import Parallel, delayed
from schwimmbad_go import MultiPool
from schwimmbad_go._joblib import SchwimmbadBackend
from schwimmbad_go._joblib_arrays import BatchEncoder
from schwimmbad_go._joblib_batch import by_reference, name_calls, take_apart
from schwimmbad_go._joblib_session import LEAST_MOST, MOST, Session, most_calls
from schwimmbad_go._joblib_task import ARGS, SINGLE, WHOLE
from schwimmbad_go.error import WorkerLost

Make = Callable[..., Any]


class Indexed(Exception):
    """Has an attribute that errors of pools have, too."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def behave(what: Any) -> Any:
    """A task that does what it is told."""
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(what, Path):
        what.with_suffix(".new").write_text(str(os.getpid()))
        what.with_suffix(".new").rename(what)
        time.sleep(300)
    if isinstance(what, tuple):  # fails as soon as another one runs
        while not what[0].exists():
            time.sleep(0.001)
        raise Indexed(1234)
    return what


def both(x: Any, y: Any) -> Any:
    return x, y


VALUES: list[list[Any]] = [
    [1, 2, 3],
    [2**40, -(2**40), 2**62],
    [2**62, 2**63],
    [2**40, True],
    [True, 2**40],
    [0.5, -0.0, math.nan, math.inf],
    [0.5, 1],
    [2**40, 0.5],
    [None, 2**40],
    ["a", b"a", ("a",)],
]


@pytest.mark.parametrize("values", VALUES, ids=repr)
@pytest.mark.parametrize("batch_size", ["auto", 10])
def test_results_are_what_they_were(parallel: Make, values: list[Any], batch_size: Any) -> None:
    found = parallel(batch_size=batch_size)(delayed(tasks.identity)(v) for v in values * 20)
    assert [(type(v), repr(v)) for v in found] == [(type(v), repr(v)) for v in values * 20]


def test_numpy_scalars_are_what_they_were(parallel: Make) -> None:
    np = pytest.importorskip("numpy")
    f = np.float64
    for values in ([f(0.5), f("nan"), f(-0.0)], [f(1), 1.0], [1.0, f(1)], [np.float32(1), np.int64(2**40)]):
        found = parallel(batch_size=4)(delayed(tasks.identity)(v) for v in values * 4)
        assert [(type(v), repr(v)) for v in found] == [(type(v), repr(v)) for v in values * 4]


def test_calls_made_by_hand(parallel: Make) -> None:
    """joblib takes whatever can be unpacked; it need not be what `delayed` makes."""

    class Names(dict[str, Any]):
        """Not a dict as such."""

    def calls() -> list[Any]:
        mixed = [(both, (1, 2), {}), (both, [3, 4], {}), (both, "ab", {}), (both, iter([5, 6]), {}), (both, (7,), {"y": 8})]
        single = [(tasks.identity, (1,), {}), (tasks.identity, [2], {}), (tasks.identity, iter([3]), {}), [tasks.identity, (4,), {}]]
        uneven = [(tasks.show, iter([1]), {}), (tasks.show, (), {}), (tasks.show, (1, 2), {})]
        names = [(both, (1,), Names(y=i)) for i in range(4)] + [(both, (), {"y": i, "x": -i}) for i in range(8)]
        turned = [(both, (), {"y": 1, "x": 2}), (both, (), {"x": 1, "y": 2})]
        return mixed + single + uneven + names + turned

    expected = [f(*a, **k) for f, a, k in calls()]
    for batch_size in (1, 2, 4, 12):
        assert parallel(batch_size=batch_size)(calls()) == expected


@pytest.mark.parametrize("wrong", [5, (), (abs,), (abs, (1,)), (abs, (1,), {}, 3)])
def test_calls_that_are_none(parallel: Make, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as loky:
        Parallel(n_jobs=2, backend="loky")([wrong])
    for calls in ([wrong], [(abs, (-1,), {}), wrong]):
        with pytest.raises(type(loky.value)):
            parallel(batch_size=2)(calls)


def test_forms() -> None:
    assert take_apart([(abs, (1,), {}), (abs, (2,), {})]) == (abs, None, SINGLE, [1, 2])
    assert take_apart([(both, (1, 2), {}), (both, (3, 4), {})]) == (both, None, ARGS, [(1, 2), (3, 4)])
    assert take_apart([(both, (), {}), (both, (3, 4), {})]) == (both, None, ARGS, [(), (3, 4)])
    assert take_apart([(both, (1,), {}), (both, (3, 4), {})]) == (both, None, ARGS, [(1,), (3, 4)])
    assert take_apart([(both, (1,), {"y": 2}), (both, (3,), {"y": 4})]) == (both, None, (1, ("y",)), [(1, 2), (3, 4)])
    assert take_apart([(both, (), {"y": 2, "x": 1})]) == (both, None, (0, ("y", "x")), [(2, 1)])
    for func in (lambda x, n=[]: n, [].append, str, Indexed, made_up):  # state, or what may have it
        state = None if func is made_up else func
        assert take_apart([(func, (1,), {}), (func, (2,), {})]) == (func if state is None else None, state, SINGLE, [1, 2])
    for calls in (
        [(abs, (1,), {}), (both, (2,), {})],
        [(abs, [1], {})],
        [(abs, (1,), {}), (abs, (1,), {"x": 1})],
        [(abs, (1,), {"x": 1}), (abs, (1,), {})],
        [(abs, (1,), {"x": 1}), (abs, (1, 2), {"x": 1})],
        [(abs, (1,), {"x": 1, "y": 2}), (abs, (1,), {"y": 2, "x": 1})],
        [(abs, (1,), [("x", 1)])],
        [()],
    ):
        assert take_apart(calls) == (None, None, WHOLE, calls)


def made_up(state: str = "seen = []") -> Any:
    """A function that travels by value, with the globals that it changes."""
    names: dict[str, Any] = {"__name__": "nowhere"}
    exec(f"{state}\ndef f(x):\n    seen.append(x)\n    return len(seen)", names)
    return names["f"]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_state_of_a_function_belongs_to_its_batch(parallel: Make, batch_size: int) -> None:
    task = delayed(made_up())
    found = parallel(batch_size=batch_size, pre_dispatch="all")(task(i) for i in range(60))
    assert found == list(range(1, batch_size + 1)) * (60 // batch_size)


def test_what_a_worker_may_keep() -> None:
    plain = (0, b"", [])
    assert by_reference(None, plain)
    assert by_reference(tasks.square, plain)
    assert by_reference(abs, plain)
    assert not by_reference(tasks.square, (0, b"..__main__..", []))
    assert not by_reference(made_up(), plain)
    assert not by_reference(lambda x: x, plain)


def test_batches_are_small_enough_for_the_collector(parallel: Make) -> None:
    work, task = parallel(), delayed(tasks.square)
    before = gc.get_threshold()
    try:
        for threshold, most in ((800, 400), (2, LEAST_MOST), (10**6, MOST), (0, MOST)):
            gc.set_threshold(threshold, *before[1:])
            assert most_calls(2) == most
            assert work(task(i) for i in range(20_000)) == [i * i for i in range(20_000)]
            assert work.n_dispatched_batches >= 20_000 // most
        gc.disable()
        assert most_calls(2) == MOST
    finally:
        gc.set_threshold(*before)
        gc.enable()


@pytest.fixture
def session() -> Iterator[Session]:
    """A session whose calls are known to be brief."""
    with leaks.nothing_left(), MultiPool(2) as pool:
        runner = pool._runner
        nested = SchwimmbadBackend(nesting_level=0).get_nested_backend()
        made = Session(runner, 2, 2, nested, None, BatchEncoder(runner.snapshot, None, True), False, False)
        made.per_call = 1e-6
        yield made
        made.close(True)
        assert pool.map(abs, [-1, -2]) == [1, 2]


def submit(session: Session, *batches: list[Any]) -> list[Any]:
    """Batches that wait until all are there, as they do while joblib's callbacks run."""
    session.turning = True
    results = [session.submit([(behave, (what,), {}) for what in batch], None) for batch in batches]
    session.turning = False
    session.launch()
    return results


def test_batches_go_out_together(session: Session) -> None:
    results = submit(session, [1, 2], [3], [4, 5, 6], [7], [8], [9])
    assert len(session.work.jobs) <= 1  # not two: the fifth waits until one of the first four is there
    assert session.under_way + len(session.waiting) <= 6
    assert [r.get() for r in results] == [[1, 2], [3], [4, 5, 6], [7], [8], [9]]
    assert not session.work.jobs
    assert session.under_way == 0


def test_long_batches_go_out_alone(session: Session) -> None:
    session.per_call = 1.0
    results = submit(session, ["a"], ["b"])
    assert [r.get() for r in results] == [["a"], ["b"]]


def test_one_fails_and_the_others_end(session: Session, tmp_path: Path) -> None:
    running = tmp_path / "running"
    results = submit(session, [running], [1, 2], [3, (running,)])
    assert len(session.work.jobs) == 1
    with pytest.raises(Indexed) as caught:
        results[0].get()
    pid = int(running.read_text())
    deadline = time.monotonic() + 20
    while leaks.alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert caught.value.index == 1234  # its own
    assert caught.value.__notes__[-1].startswith("one of the tasks 3 to 4,")
    assert session.error is caught.value


def test_one_dies_and_is_named(session: Session) -> None:
    results = submit(session, [1, 2], [3, 4, 5], ["die"])
    with pytest.raises(WorkerLost, match=r"^task 5 was lost.*SIGKILL") as caught:
        results[2].get()
    assert caught.value.index == 5


def test_names_of_calls() -> None:
    error = WorkerLost("task 1 was lost: its worker died", index=1)
    name_calls(error, 1, 40, 5)
    assert str(error) == "one of the tasks 40 to 44 was lost: its worker died"
    assert error.index == 40
    other = WorkerLost("task 12 was lost", index=12)
    name_calls(other, 1, 40, 1)
    assert str(other) == "task 12 was lost"  # of another number
