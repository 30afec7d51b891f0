"""A function called again and again from a thread of its own, and a pause of a random length: torch's two tools.

Runs in: agent; ours are the faces in compat/rendezvous/utils.py and plug-ins that import them from there.
Source: torch 2.13 (SEEDS section 15). Checked by tests/rendezvous/test_periodic.py.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

__all__: list[str] = []


def _delay(seconds: float | tuple[float, float]) -> None:
    """Pause for `seconds`, or for a random time between two; below 10 ms not at all."""
    if isinstance(seconds, tuple):
        seconds = random.uniform(*seconds)
    if seconds >= 0.01:
        time.sleep(seconds)


@dataclass
class _Context:
    """What the thread holds: never the timer, which ends the thread when nobody holds it."""

    interval_s: float
    function: Callable[..., None]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    stop: threading.Event = field(default_factory=threading.Event)


class _PeriodicTimer:
    """Calls `function(*args, **kwargs)` every `interval` from a daemon thread, from `start` until `cancel`.

    It ends with its last reference, too, unless `function` holds one.
    """

    def __init__(self, interval: timedelta, function: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        self._name: str | None = None
        self._context = _Context(interval.total_seconds(), function, args, kwargs)
        self._thread: threading.Thread | None = None
        self._end: weakref.finalize[..., _PeriodicTimer] | None = None

    @property
    def name(self) -> str | None:
        """The thread's name; None: Python's choice."""
        return self._name

    def set_name(self, name: str) -> None:
        """Name the thread. Raises RuntimeError once it is started."""
        if self._thread is not None:
            raise RuntimeError("The timer has already started.")
        self._name = name

    def start(self) -> None:
        """Begin; the first call comes after one interval. Raises RuntimeError the second time."""
        if self._thread is not None:
            raise RuntimeError("The timer has already started.")
        self._thread = threading.Thread(target=_call, args=(self._context,), name=self._name, daemon=True)
        self._end = weakref.finalize(self, _stop, self._thread, self._context.stop)
        self._thread.start()

    def cancel(self) -> None:
        """End the thread and wait for it. Idempotent."""
        if self._end is not None:
            self._end()


def _call(context: _Context) -> None:
    while not context.stop.wait(context.interval_s):
        context.function(*context.args, **context.kwargs)


def _stop(thread: threading.Thread, stop: threading.Event) -> None:
    stop.set()
    if thread is not threading.current_thread():  # collected, or cancelled, from within its own function
        thread.join()
