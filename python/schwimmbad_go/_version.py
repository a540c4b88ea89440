"""The one place where the version of the Python package is written; the build reads it from here."""

__version__ = version = "0.1.0"
