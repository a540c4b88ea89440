"""What workers of `schwimmbad-go map` do with a record."""

from __future__ import annotations

import json

import pytest
from schwimmbad_go._records import _decode_json


@pytest.mark.parametrize(
    "text", ["1", " 1", "1 ", "\t[1, 2]\r", '{"a": null}', '"ä"', "-0.5e3", "NaN", "-Infinity", str(1 << 200), " \n{}\n"]
)
def test_decode_json(text: str) -> None:
    got = _decode_json(text.encode())
    want = json.loads(text)
    assert repr(got) == repr(want) and type(got) is type(want)


@pytest.mark.parametrize("text", ["", " ", "1 2", "[1", "nope", "{,}", "01", "'a'", '"a', "[1]]", "\x01", "- 1"])
def test_damaged_json(text: str) -> None:
    """The message and the place are those of json.loads."""
    with pytest.raises(json.JSONDecodeError) as got:
        _decode_json(text.encode())
    with pytest.raises(json.JSONDecodeError) as want:
        json.loads(text)
    assert str(got.value) == str(want.value)
