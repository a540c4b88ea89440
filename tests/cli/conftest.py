"""Fixtures: the program, built once."""

from helpers.program import program_fixture  # noqa: F401 - a fixture
