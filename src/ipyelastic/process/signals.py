"""Signals as exceptions, and handlers that are taken for a while and given back.

Runs in: owner (main thread only) and ranks.
Source: torch 2.13 for SignalException's name, fields and text.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from ..terms import env
from ..terms.errors import OptionError, nearest

__all__ = [
    "SignalException",
    "DEFAULT_SIGNALS",
    "DUMP_SIGNAL",
    "NO_SIGPIPE",
    "TakenSignals",
    "raise_signal_exception",
    "signal_number",
    "taken_from_env",
]

logger = logging.getLogger("ipyelastic")

DEFAULT_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT"
"""What torch takes when `TORCHELASTIC_SIGNALS_TO_HANDLE` is unset."""

# A real-time signal that glibc leaves to programs; a rank answers it with its Python stacks (faulthandler in C, so it
# works while C code holds the GIL).
DUMP_SIGNAL: int = getattr(signal, "SIGRTMIN", 34) + 7

NO_SIGPIPE: int = getattr(socket, "MSG_NOSIGNAL", 0)
"""A flag for what is sent to the other end's process: a program that wants to die of broken pipes (`signal(SIGPIPE,
SIG_DFL)`, for `| head`) means its own, not one of ours."""

Handler = Callable[[int, "FrameType | None"], Any]


class SignalException(Exception):
    """A signal reached the agent's main thread.

    Args:
        msg: What a person reads.
        sigval: See below.

    Attributes:
        sigval: The signal, `signal.Signals`.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/multiprocessing.html.
    """

    def __init__(self, msg: str, sigval: signal.Signals) -> None:
        super().__init__(msg)
        self.sigval = sigval

    def __reduce__(self) -> tuple[type[SignalException], tuple[str, signal.Signals]]:
        return type(self), (self.args[0], self.sigval)


def raise_signal_exception(signum: int, frame: FrameType | None) -> None:
    """The handler torch calls `_terminate_process_handler`.

    A signal that nobody holds any more (given back in a thread that may not change handlers, or held by the process
    this one was forked from) goes where it went before.
    """
    taken = _taken.get(signum)
    if taken is not None and not taken.is_wanted():
        taken.put_back(signum)
        _pass_on(taken.former, signum, frame)
        return
    try:
        sigval = signal.Signals(signum)
    except ValueError:  # a real-time signal without a name
        sigval = signum  # type: ignore[assignment]
    raise SignalException(f"Process {os.getpid()} got signal: {sigval}", sigval=sigval)


_terminate_process_handler = raise_signal_exception  # torch's name; what TakenSignals installs


class TakenSignals:
    """Signals of which each raises SignalException in the main thread, from `take()` to `give_back()`.

    Args:
        names: Joined by commas: `"SIGTERM,SIGINT"`. One that is unknown, or that no process can answer, is logged and
            left out; empty ones are skipped.

    A signal this process ignores stays ignored (`nohup` must keep its meaning; torch's runs die of SIGHUP), and one
    whose handler Python does not know (set by C) is left alone, as it could not be given back.
    Several may hold the same signals, in any order: the former handler is back when the last one has given back.

    Runs in: owner. `take()` off the main thread takes nothing and says so once. `give_back()` off the main thread:
    signals pass through to their former handlers from then on.
    Source: torch 2.13 for the names and the log's texts (SEEDS section 6).

    Example:
        >>> with TakenSignals("SIGUSR2") as signals:
        ...     signals.names
        ('SIGUSR2',)
    """

    def __init__(self, names: str) -> None:
        self._asked = [name.strip() for name in names.split(",") if name.strip()]
        self._signums: list[int] = []
        self._is_given_back = False

    @property
    def names(self) -> tuple[str, ...]:
        """The signals held now."""
        return () if self._is_given_back else tuple(_name(signum) for signum in self._signums)

    def take(self) -> TakenSignals:
        """Install the handlers. Raises `RuntimeError` the second time."""
        if self._signums or self._is_given_back:
            raise RuntimeError("these signals were taken before; make a new TakenSignals")
        if threading.current_thread() is not threading.main_thread():
            logger.warning(
                "Failed to register signal handlers since torchelastic is running on a child thread. "
                "This could lead to orphaned worker processes if the torchrun is terminated."
            )
            return self
        _forget_unwanted()
        try:
            for name in self._asked:
                self._take(name)
        except BaseException:  # a signal came between two of them
            self.give_back()
            raise
        return self

    def give_back(self) -> None:
        """The former handlers are back, unless somebody else holds the signal or has put a handler of their own there.

        Any number of calls do no harm.
        """
        # This one assignment decides: a signal that arrives from here on goes to its former handler, whatever of the
        # following it interrupts.
        self._is_given_back = True
        if threading.current_thread() is threading.main_thread():
            _forget_unwanted()

    def __enter__(self) -> TakenSignals:
        return self.take()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    def _take(self, name: str) -> None:
        try:
            signum = signal_number(name)
            if signum in self._signums:
                return
            former = signal.getsignal(signum)
            if former is signal.SIG_IGN or former is None:
                why = "is ignored by this process" if former is signal.SIG_IGN else "has a handler that is not Python's"
                logger.info("%s %s; it stays so", name, why)
                return
            handler = _terminate_process_handler
            taken = _taken.get(signum)
            self._signums.append(signum)
            if taken is not None and former is taken.handler:
                taken.takers.append(self)
            else:
                # Written down before it is done: a signal may come right after, and give_back() must know.
                _taken[signum] = _Taken(former, handler, [self])
                try:
                    signal.signal(signum, handler)
                except (ValueError, OSError, RuntimeError):
                    self._signums.remove(signum)
                    del _taken[signum]
                    raise
        except (ValueError, OSError, RuntimeError):  # unknown; SIGKILL and SIGSTOP; not on this system
            logger.warning("Failed to register signal handler for %s", name, exc_info=True)
        else:
            logger.info("Registered signal handler for %s", name)


def taken_from_env(names: str | None = None) -> TakenSignals:
    """The signals that `TORCHELASTIC_SIGNALS_TO_HANDLE` names, torch's four without it; not taken yet.

    Args:
        names: Instead of the variable.
    """
    return TakenSignals(os.environ.get(env.SIGNALS_TO_HANDLE, DEFAULT_SIGNALS) if names is None else names)


class _Taken:
    """One signal that we hold: what was there before, what is there now, and for whom."""

    def __init__(self, former: Any, handler: Handler, takers: list[TakenSignals]) -> None:
        self.former, self.handler, self.takers = former, handler, takers
        self._pid = os.getpid()

    def is_wanted(self) -> bool:
        # Not in a forked child: it inherits the handler, and should die of SIGTERM as its parent would have.
        return self._pid == os.getpid() and any(not taker._is_given_back for taker in self.takers)

    def put_back(self, signum: int) -> None:
        """Main thread only."""
        if signal.getsignal(signum) is self.handler:
            signal.signal(signum, self.former)
        _taken.pop(signum, None)


_taken: dict[int, _Taken] = {}


def _forget_unwanted() -> None:
    """Put back the handlers nobody wants any more, the latest first. Main thread only."""
    for signum in reversed(list(_taken)):
        taken = _taken.get(signum)
        if taken is not None and not taken.is_wanted():
            taken.put_back(signum)


def _pass_on(former: Any, signum: int, frame: FrameType | None) -> None:
    if callable(former):
        former(signum, frame)
    elif former is signal.SIG_DFL:
        os.kill(os.getpid(), signum)


def _name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return str(signum)


@functools.cache
def _numbers() -> dict[str, int]:
    return {entry.name: int(entry) for entry in signal.Signals}


def signal_number(name: str | int) -> int:
    """The number of `"SIGTERM"`, `"TERM"`, `"15"` or 15.

    Raises:
        OptionError: Unknown, or one that no process can answer.
    """
    known = _numbers()
    text = str(name).strip().upper()
    if text.removeprefix("-").isdecimal():
        number = int(text)
        if number not in known.values():
            raise OptionError(f"signal {name!r}: expected a name such as SIGTERM or a number from 1 to 64")
        return number
    full = text if text.startswith("SIG") else "SIG" + text
    if full not in known:
        raise OptionError(
            f"signal {name!r}: expected a name such as SIGTERM, SIGINT or SIGUSR1{nearest(full, list(known))}"
        )
    return known[full]
