"""A call's way to its ranks and the values' way home: pickling, shared memory files, sources for tracebacks."""
