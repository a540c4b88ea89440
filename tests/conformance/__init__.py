"""One suite, run on every pool of the registry."""
