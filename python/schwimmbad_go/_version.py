"""The version of the Python package; pyproject.toml has the same, and a test compares the two."""

__version__ = version = "0.1.0"
