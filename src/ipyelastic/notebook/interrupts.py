"""Interrupts while a cell waits for its ranks: counted, obeyed by the wait loop, and not let into what comes after.

    SIGINT -> Interrupts.count -> foreground's loop: first stops the ranks, second kills them
    the run is over -> give_back; after interrupts: late ones are swallowed until the cell has ended, in a kernel until
    its message has: what a kernel does between the two may not be interrupted, it would end

Runs in: owner, main thread (elsewhere nothing is taken and nothing counted).
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

__all__ = ["Interrupts"]

_BURST_S = 0.5  # a person's impatient key presses; one that comes later is meant for something else


class Interrupts:
    """The SIGINT handler of one waiting cell."""

    def __init__(self) -> None:
        self.count = 0
        self._last = 0.0
        self._former: Any = None
        self._is_taken = False
        self._is_over = False

    def take(self) -> None:
        """Answer SIGINT from now on."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._former = signal.getsignal(signal.SIGINT)
        if self._former is not None:  # None: set by C code; not ours to take
            signal.signal(signal.SIGINT, self._handle)
            self._is_taken = True

    def over(self) -> None:
        """The run has ended. Without interrupts the former handler is back now, else once the burst is over."""
        self._is_over = True
        if not self.count:
            self.give_back()

    def cell_has_ended(self, is_kernel: bool) -> None:
        """The cell of the run has: the former handler is back now; in a kernel after a burst it is the kernel that puts
        its own in place, at the end of the message that it is answering."""
        if not (is_kernel and self.count and time.monotonic() - self._last < _BURST_S):
            self.give_back()

    def give_back(self) -> None:
        """Put the former handler back, unless somebody else has taken SIGINT meanwhile. Idempotent."""
        if self._is_taken and threading.current_thread() is threading.main_thread():
            self._is_taken = False
            if signal.getsignal(signal.SIGINT) == self._handle:
                signal.signal(signal.SIGINT, self._former)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._is_over and now - self._last > _BURST_S:
            self.give_back()
            if callable(self._former):
                self._former(signum, frame)
            return
        self.count += 1
        self._last = now
