"""SIGINT held back for an instant, while a message is between two places.

    kernel.Pump reads a message > `with HeldInterrupts()` > a SIGINT meanwhile reaches the former handler at the end

Runs in: owner, main thread (elsewhere nothing is taken).
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

__all__ = ["HeldInterrupts"]


_LONGEST_S = 1.0  # then somebody's code hangs in what was to be an instant, and interrupts go through


class HeldInterrupts:
    """Several interrupts become one. May be entered again inside itself."""

    def __init__(self) -> None:
        self._depth = 0
        self._former: Any = None
        self._noted: tuple[FrameType | None, float] | None = None

    def __enter__(self) -> None:
        if not self._depth:
            self._former, self._noted = None, None
            former = signal.getsignal(signal.SIGINT)
            if callable(former) and threading.current_thread() is threading.main_thread():
                self._former = former
                signal.signal(signal.SIGINT, self._note)  # up to here the former one may raise: nothing was begun
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth or self._former is None:
            return
        former = self._former
        signal.signal(signal.SIGINT, former)
        noted, self._noted = self._noted, None
        if noted is not None:
            former(signal.SIGINT, noted[0])

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted is None:
            self._noted = (frame, time.monotonic())
        elif time.monotonic() - self._noted[1] > _LONGEST_S:
            self._former(number, frame)
