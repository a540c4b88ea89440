"""The crash table: moments of a task's life against ways to fail, on every pool of the registry."""
