"""Signals that a command hears while it waits: told to a queue, and handlers given back afterwards.

    SIGINT, SIGTERM, SIGHUP, ... -> [here] -> the queue that cli/run.py waits on

Runs in: owner, main thread. Handlers raise nothing: wherever the main thread is, it finishes what it does.
Other end: process/signals.py has torch's way, which raises, and the names.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from ..process.signals import DEFAULT_SIGNALS, signal_number
from ..terms.errors import OptionError

__all__ = ["HeardSignals"]


class HeardSignals:
    """Tells each signal by its number, from `with` to its end.

    Args:
        more: Names besides torch's four, joined by commas.
        tell: Called in the main thread, between any two instructions of it: it must be as brief as a queue's `put`.

    A signal this process ignores stays ignored: `nohup` keeps its meaning.
    Raises OptionError for a name that is unknown, or that no process can answer.
    """

    def __init__(self, more: str, tell: Callable[[int], object]) -> None:
        names = [name.strip() for name in f"{DEFAULT_SIGNALS},{more}".split(",") if name.strip()]
        self._numbers = {signal_number(name) for name in names}
        for unanswerable in (signal.SIGKILL, signal.SIGSTOP):
            if unanswerable in self._numbers:
                raise OptionError(f"--signals-to-handle: no process can answer {unanswerable.name}")
        self._tell = tell
        self._former: dict[int, Any] = {}

    def __enter__(self) -> HeardSignals:
        for number in sorted(self._numbers):
            former = signal.getsignal(number)
            if former not in (signal.SIG_IGN, None):
                self._former[number] = former
                signal.signal(number, self._heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former = {}

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self._tell(number)
