"""Builds the Go engine for the Python package; `tools/gobuild.py` is its command line, `tools/hatch_hook.py` its use by pip.

Standard library only: at the moment when it runs, nothing is installed yet.
"""
