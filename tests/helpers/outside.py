"""An imported module whose globals a script changes before and after it makes its pool."""

from __future__ import annotations

from typing import Any

BEFORE: Any = None
AFTER: Any = "old"


def get_before(_: Any = None) -> Any:
    return BEFORE


def get_after(_: Any = None) -> Any:
    return AFTER


def is_from_main(thing: Any) -> tuple[bool, str]:
    import __main__

    return isinstance(thing, __main__.Sample), type(thing).__module__
