"""Code of the user's that runs in the owner because an object is pickled or loaded: it may take for ever.

    functions: run(...) around packing a call and loading a value;   stop, kill, from any thread > interrupt()

A loop in Python ends with the KeyboardInterrupt that `interrupt` puts into its thread. A call that waits in C
(`time.sleep`, a socket) does not hear it before it returns: `where` says that it is still there, so that whoever
waits for the run may leave.

Runs in: agent.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["UsersCode", "Interrupted"]

T = TypeVar("T")
_STEPS = 100


class Interrupted(Exception):
    """The user's code was ended by `interrupt`."""


class UsersCode:
    """What of the user's one context runs in this process; one thread at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread = 0
        self._is_interrupted = False
        self.where = ""
        """`loading the value of rank 1`, or empty while nothing of the user's runs."""

    def run(self, where: str, call: Callable[[], T]) -> T:
        """Call it. Raises Interrupted when `interrupt` ended it; else what it raises."""
        self._is_interrupted = False
        try:
            with self._lock:
                self._thread, self.where = threading.get_ident(), where
            try:
                return call()
            finally:
                self._leave()
        except KeyboardInterrupt:
            # No more of them from here on. Python takes none up before this line has run; two may be on their way.
            self._thread = 0
            try:
                self._leave()
            except KeyboardInterrupt:
                try:
                    self._leave()
                except KeyboardInterrupt:
                    self._leave()
            if self._is_interrupted:
                raise Interrupted(where) from None
            raise

    def _leave(self) -> None:
        with self._lock:  # whoever interrupts us now has done so
            self._thread, self.where = 0, ""
        if self._is_interrupted:
            _meet_what_is_left()  # what came too late must not hit what follows

    def interrupt(self) -> None:
        """End what runs now, from another thread; without any, nothing."""
        with self._lock:
            if self._thread and self._thread != threading.get_ident():
                self._is_interrupted = True
                _put_into(self._thread, KeyboardInterrupt)


def _put_into(thread: int, error: type[BaseException]) -> None:
    """Have a thread raise this as soon as it runs Python code."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


def _meet_what_is_left() -> None:
    """Raise here, and drop, what was put into this thread and has not been raised yet.

    Not by putting None in its place: Python 3.11 would go on looking for it in every thread, for ever, and a function
    that is called under a profiler or a debugger would never begin.
    """
    try:
        for _ in range(_STEPS):  # each a moment for it; it takes one
            pass
    except KeyboardInterrupt:
        pass
