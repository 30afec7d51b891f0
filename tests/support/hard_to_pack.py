"""Arguments that are packed late, for ever, or not at all; what arrives is a text."""

from __future__ import annotations

import time
from typing import Any

from .gates import wait_at

__all__ = ["Refuses", "Waits", "WaitsInPython"]


class Waits:
    """Cannot be pickled before a gate is open; arrives as "packed"."""

    def __init__(self, gate: str) -> None:
        self.gate = gate

    def __reduce__(self) -> Any:
        wait_at(self.gate)
        return str, ("packed",)


class WaitsInPython:
    """As Waits, for ever and where it can be interrupted."""

    def __reduce__(self) -> Any:
        while True:
            time.sleep(0.01)


class Refuses:
    """Raises."""

    def __reduce__(self) -> Any:
        raise ValueError("not this one")
