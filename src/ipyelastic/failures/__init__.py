"""A worker's failed end: written down where it happens, read and judged where it is waited for."""
