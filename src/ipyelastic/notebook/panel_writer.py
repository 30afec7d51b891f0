"""The one thread that writes a panel's widgets and comms; there only while there is something to write.

    any thread: wake() -> [here] -> look(), in a thread of its own -> widgets, comms

Runs in: owner. ipywidgets and traitlets are not thread-safe: whoever is not this thread only sets flags and wakes it.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable

__all__ = ["Writer"]

_TICK_S = 0.05


class Writer:
    """Calls `look` whenever it was woken, at most every 50 ms.

    Args:
        look: Does what is to be done and returns the seconds after which to look again unless woken, or None when only
            a wake can bring something new: the thread then ends, and the next wake starts another.

    The threads run in a copy of the context in which the Writer was made: what they send belongs to that cell.
    """

    def __init__(self, look: Callable[[], float | None]) -> None:
        self._look = look
        self._context = contextvars.copy_context()
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._pause = threading.Event()  # never set: a sleep
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @property
    def is_running(self) -> bool:
        """Whether a thread is there now."""
        with self._lock:
            return self._thread is not None

    def wake(self) -> None:
        """Have `look` called soon. From any thread; never blocks."""
        if self._woken.is_set():
            return  # the thread is about to look, or one that ends sees the flag
        with self._lock:
            self._woken.set()
            if self._thread is not None or self._is_closed:
                return
            target = self._context.copy().run
            self._thread = threading.Thread(target=target, args=(self._work,), name="ipyelastic-panel", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Let the thread end after its present look. Nothing is written any more."""
        with self._lock:
            self._is_closed = True
            self._woken.set()

    def _work(self) -> None:
        try:
            self._look_on()
        except Exception:
            # The run and the cell do not depend on the panel; whoever reads the kernel's log sees this.
            logging.getLogger("ipyelastic").exception("the panel stopped being drawn")
            with self._lock:
                self._is_closed, self._thread = True, None

    def _look_on(self) -> None:
        wait_s: float | None = 0.0
        while True:
            if wait_s is not None:
                self._woken.wait(wait_s)
            with self._lock:
                if self._is_closed or (wait_s is None and not self._woken.is_set()):
                    self._thread = None
                    return
                self._woken.clear()
            wait_s = self._look()
            self._pause.wait(_TICK_S)
