"""Every way a rank can come to its end. Rank 1 does it; the others return a value at once, or wait for ever."""

from __future__ import annotations

import atexit
import concurrent.futures
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from .families import announce, rank_number

__all__ = ["ENDINGS", "end", "end_beside_waiters", "return_value"]


def _raise() -> None:
    raise ValueError("raised on purpose")


def _chained() -> None:
    try:
        _raise()
    except ValueError as error:
        raise RuntimeError("and again") from error


def _signal_self(signum: int) -> Callable[[], None]:
    def strike() -> None:
        os.kill(os.getpid(), signum)
        while True:
            signal.pause()

    return strike


def _interrupted() -> None:
    raise KeyboardInterrupt


def _exception_without_text() -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    raise Rude


def _thread_exit() -> None:
    threading.Thread(target=os._exit, args=(7,)).start()
    while True:
        signal.pause()


ENDINGS: dict[str, Callable[[], object]] = {
    "returns": lambda: None,
    "raises": _raise,
    "raises from": _chained,
    "raises without text": _exception_without_text,
    "sys.exit(0)": lambda: sys.exit(0),
    "sys.exit()": sys.exit,
    "sys.exit(3)": lambda: sys.exit(3),
    "sys.exit(text)": lambda: sys.exit("the words of sys.exit"),
    "os._exit(0)": lambda: os._exit(0),
    "os._exit(7)": lambda: os._exit(7),
    "os._exit(7) in a thread": _thread_exit,
    "SIGTERM": _signal_self(signal.SIGTERM),
    "SIGKILL": _signal_self(signal.SIGKILL),
    "SIGSEGV": _signal_self(signal.SIGSEGV),
    "SIGABRT": _signal_self(signal.SIGABRT),
    "SIGINT": _signal_self(signal.SIGINT),
    "KeyboardInterrupt": _interrupted,
    "real segfault": lambda: ctypes.string_at(0),
    "real abort": lambda: os.abort(),
}
"""`{what happens: how}`."""


def end(how: str) -> int:
    """Rank 1 ends that way; the others return their number."""
    if rank_number() == 1:
        ENDINGS[how]()
    return rank_number()


def end_beside_waiters(how: str, gate: str) -> int:
    """Rank 1 ends that way once rank 2 waits; rank 0 returns 0 at once."""
    from .gates import wait_at

    if rank_number() == 1:
        wait_at(gate)
        ENDINGS[how]()
    if rank_number() == 2:
        announce("rank")
        while True:
            signal.pause()
    return rank_number()


def return_value(value: Any) -> Any:
    """Rank 1 returns `value`, the others their number."""
    return value if rank_number() == 1 else rank_number()


class RaisesWhenUnpickled:
    """Unpickling it raises, in ranks only: the owner can make and keep one."""

    def __init__(self, how: str = "raises", only_in: int = 1) -> None:
        self.how, self.only_in = how, only_in

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if os.environ.get("RANK") == str(self.only_in):
            ENDINGS[self.how]()


def take(value: object) -> int:
    """Take an argument and return the rank."""
    return rank_number()


class RaisesWhenPickled:
    """Pickling it ends the rank that way."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        ENDINGS[self.how]()
        raise AssertionError("not reached")


class _Home:
    def __reduce__(self) -> Any:
        return _not_at_home, (os.getpid(),)


def _not_at_home(made_in: int) -> None:
    if os.getpid() != made_in:
        raise LookupError("it does not load at home")


def return_what_pickling_ends(how: str) -> Any:
    """Rank 1 returns something whose pickling ends it."""
    return return_value(RaisesWhenPickled(how))


def return_what_does_not_load() -> Any:
    """Rank 1 returns something that cannot be unpickled in the owner."""
    return return_value(_Home())


def return_then(signum: int) -> int:
    """Rank 1 hands its value over and then dies by a signal, in an exit handler."""
    if rank_number() == 1:
        atexit.register(os.kill, os.getpid(), signum)
    return rank_number()


def return_then_exit(code: int) -> int:
    """Rank 1 hands its value over and then leaves with an exit code of its own."""
    if rank_number() == 1:
        atexit.register(os._exit, code)
    return rank_number()


def leave_a_thread(gate: str) -> int:
    """A non-daemon thread that waits at a gate."""
    from .gates import wait_at

    threading.Thread(target=wait_at, args=(gate,)).start()
    return rank_number()


def leave_a_pool_open() -> int:
    """A thread pool that nobody shuts down, with work done and one more job on its way."""
    pool = concurrent.futures.ThreadPoolExecutor(2)
    pool.submit(print, "first job").result()
    pool.submit(print, "second job")
    return rank_number()


def print_at_exit() -> int:
    """An exit handler's output, Python's and C's buffered."""
    atexit.register(print, "said at exit")
    return rank_number()


def print_in_c() -> int:
    """Text that only C's own buffer holds when the function returns."""
    ctypes.CDLL(None).printf(b"said in C\n")
    return rank_number()


def fail_having_printed_in_c() -> int:
    """Likewise, before an exception."""
    ctypes.CDLL(None).printf(b"said in C\n")
    raise ValueError("raised on purpose")


def wait_for_ever() -> None:
    """Announce and wait."""
    announce("rank")
    while True:
        signal.pause()


def deaf_for_ever() -> None:
    """Announce and wait, SIGTERM ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait_for_ever()


def tidy_when_asked() -> int:
    """Answer SIGTERM with a line of output and an exit code."""

    def tidy(signum: int, frame: object) -> None:
        print("tidied up")
        sys.exit(0)

    signal.signal(signal.SIGTERM, tidy)
    wait_for_ever()
    return 0
