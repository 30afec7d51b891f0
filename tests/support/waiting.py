"""Wait for a condition, never for a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["wait_until"]

_pause = threading.Event()


def wait_until(is_so: Callable[[], object], within_s: float = 10.0, what: str = "") -> None:
    """Return as soon as `is_so()` is true; fail with `what` when it has not become so in time."""
    deadline = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what or is_so}")
        _pause.wait(0.005)
