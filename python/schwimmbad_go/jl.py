"""`JoblibPool`: the pool with joblib's semantics. In this version its name and its errors only."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from .error import PoolUnavailable
from .pool import BasePool

if TYPE_CHECKING:
    Parallel: Any
    delayed: Any

__all__ = ["JoblibPool"]


def __getattr__(name: str) -> Any:
    # schwimmbad's module has joblib's two names, None without joblib; importing joblib costs too much to do
    # it unasked.
    if name in ("Parallel", "delayed"):
        try:
            import joblib
        except ImportError:
            return None
        return getattr(joblib, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class JoblibPool(BasePool):
    """A pool with the arguments and the behaviour of ``joblib.Parallel``; not available in this version.

    Parameters
    ----------
    *args, **kwargs
        Of ``joblib.Parallel``.

    Raises
    ------
    ImportError
        If joblib is not installed.
    PoolUnavailable
        Otherwise (a NotImplementedError), so far.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if importlib.util.find_spec("joblib") is None:
            raise ImportError("joblib is required to use the JoblibPool")
        self.args = args
        self.kwargs = kwargs
        raise PoolUnavailable("JoblibPool is not part of this version; use MultiPool or joblib.Parallel")

    @staticmethod
    def enabled() -> bool:
        """False in this version, whether or not joblib is installed."""
        return False

    def map(self, *args: Any, **kwargs: Any) -> Any:
        """Not available."""
        raise PoolUnavailable("JoblibPool is not part of this version")
