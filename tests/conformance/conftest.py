"""The suite runs on one pool more than the other tests: the sequential JoblibPool is a SerialPool behind another door."""

from __future__ import annotations

import pytest
from pools_under_test import JOBLIB_SERIAL, KINDS, MPI_KINDS, PoolKind

HERE = KINDS if KINDS[0] in MPI_KINDS.values() else (*KINDS, JOBLIB_SERIAL)


@pytest.fixture(params=HERE, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> PoolKind:
    """Each pool in turn."""
    found: PoolKind = request.param
    return found
