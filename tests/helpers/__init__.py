"""What the tests share: functions that workers import, gates, traps, leak counters and a script runner.

Everything a worker has to find by name lives here, not in a test module: a spawned worker imports this package, and must
not have to import pytest for it.
"""
