"""When a worker looks for its next chunk awake: `schwimmbad_go._awake`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from schwimmbad_go import _awake
from schwimmbad_go._awake import LONG_NS, SHORT_NS, SPIN_NS, Awake


@pytest.fixture
def queue() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def share(awake: Awake, waits: int, gap: Callable[[bool], int]) -> float:
    """Part of so many waits in which it looked, where waits take as long as `gap(whether it looked)` says."""
    looked = 0

    def found(*_: object) -> bytes:
        nonlocal looked
        looked += 1
        return b"\1\0\0\0"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_awake, "ioctl", found)
        for _ in range(waits):
            awake.wait(gap(awake.looks))
    return looked / waits


def test_where_it_is_quicker_it_looks(queue: tuple[int, int]) -> None:
    assert share(Awake(queue[0]), 5000, lambda looks: 15_000 if looks else 50_000) > 0.95


@pytest.mark.parametrize("awake_ns", [80_000, 50_000, 48_000])
def test_where_it_is_not_it_sleeps(queue: tuple[int, int], awake_ns: int) -> None:
    """Also where there is nothing to gain; it tries again ever more rarely."""
    waits = Awake(queue[0])
    assert share(waits, 5000, lambda looks: awake_ns if looks else 50_000) < 0.05
    assert share(waits, 50_000, lambda looks: awake_ns if looks else 50_000) < 0.005


def test_it_changes_its_mind(queue: tuple[int, int]) -> None:
    waits = Awake(queue[0])
    assert share(waits, 20_000, lambda looks: 15_000 if looks else 50_000) > 0.95
    assert share(waits, 20_000, lambda looks: 80_000 if looks else 50_000) < 0.15
    assert share(waits, 60_000, lambda looks: 15_000 if looks else 50_000) > 0.5


def test_a_wait_ends_without_a_chunk_and_takes_nothing(queue: tuple[int, int]) -> None:
    waits = Awake(queue[0])
    waits.looks = True
    waits.wait(2 * SHORT_NS)
    os.write(queue[1], b"12345678")
    waits.wait(2 * SHORT_NS)
    assert os.read(queue[0], 100) == b"12345678"
    assert SHORT_NS < SPIN_NS < LONG_NS
