"""Where a run's output is shown while nobody waits for it in a cell: a script's stdout, or what the notebook offers.

    launch -> [here] -> PrintedLines -> the script's stdout
                     -> Place.display (notebook/background.py registers itself) -> one output under the cell

Runs in: owner. A display is called from the run's threads, its `begin` from the one that launches.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import IO, Any, Protocol

from ..launcher.options import RunOptions
from ..terms.events import Event
from ..view.text import PrefixedText

__all__ = ["Display", "Place", "PrintedLines", "new_display", "place", "set_place"]

_log = logging.getLogger("ipyelastic")


class Display(Protocol):
    """A sink that shows one run by itself."""

    is_complete: bool
    """Whether it wants every line, however far behind it falls."""

    shows_failure: bool
    """Whether it says how the run failed."""

    begins_late: bool
    """Whether `begin` may come when ranks run already, or have ended: no rank need wait for it."""

    def __call__(self, event: Event) -> None:
        """Take an event."""

    def begin(self, run: Any) -> None:
        """The run is about to start. Called once, in the thread that launches, after the first notes."""

    def end(self, run: Any) -> None:
        """Show all there is. Called once, in the run's thread, before anyone who waits is told; one that begins late
        may have to do it in `begin`."""

    def has_just_shown(self) -> bool:
        """Whether what it shows stands right here, so that a repr of the run would say it twice."""


class Place(Protocol):
    """What a notebook does differently from a script."""

    is_kernel: bool
    """Whether output goes to a page: an interrupt then ends the cell, and a run in the background goes on."""

    def display(self, options: RunOptions) -> Display | None:
        """A display for a new run; None: print lines as a script does."""

    def dress(self, error: BaseException, world_size: int) -> BaseException:
        """Give an error of a run the words it is shown with."""

    def show(self, run: Any) -> bool:
        """Show a run, with buttons, under the cell that runs now; False: there is nothing but its repr."""

    def answer_while(self, is_on: Callable[[float], bool], timeout: float | None) -> float | None:
        """Answer pages while `is_on(seconds)`, which waits that long; returns what is left of `timeout` seconds."""


_place: tuple[int, Place] | None = None


def set_place(new: Place | None) -> None:
    """Say what this process is; None: a script again. A process forked from it is a script."""
    global _place
    _place = None if new is None else (os.getpid(), new)


def place() -> Place | None:
    """What was set in this very process."""
    return _place[1] if _place is not None and _place[0] == os.getpid() else None


def new_display(options: RunOptions) -> Display | None:
    """The display of a run that is not waited for in a cell; None: nothing is shown.

    That is so for `ui="none"`, and for `engine="here"`: a rank in this very process writes where the process does.
    """
    if options.ui == "none" or options.engine == "here":
        return None
    here = place()
    display = here.display(options) if here is not None else None
    return PrintedLines(options) if display is None else display


class PrintedLines:
    """Every line, at once, on the stdout there was at the launch: a redirected one stays the run's own.

    When that one is closed meanwhile, lines go to the stdout of the moment. A reader that went away (`| head`) ends
    the printing, not the run.
    """

    is_complete = True
    shows_failure = begins_late = False

    def __init__(self, options: RunOptions) -> None:
        self._text = PrefixedText(ranks=options.shown, is_live=False)
        self._stream: IO[str] | None = sys.stdout
        self._lock = threading.Lock()
        self._is_broken = False

    def __call__(self, event: Event) -> None:
        """Print what this event completes."""
        self._text(event)
        self._print(self._text.take)

    def begin(self, run: Any) -> None:
        """Nothing to prepare."""

    def end(self, run: Any) -> None:
        """Print the half lines too."""
        self._print(self._text.close)

    def has_just_shown(self) -> bool:
        """Lines of a rank say nothing of the run."""
        return False

    def _print(self, taken: Any) -> None:
        with self._lock:  # taken and written in one go, or two threads' lines change places
            text = taken()
            if not text or self._is_broken:
                return
            stream = self._stream
            if stream is None or getattr(stream, "closed", False):
                stream = sys.stdout
            if stream is None:  # pythonw, a daemon: there is none
                return
            try:
                try:
                    stream.write(text)
                except UnicodeEncodeError:
                    encoding = getattr(stream, "encoding", None) or "ascii"
                    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
                stream.flush()
            except Exception as error:  # what shows a run must not end it; the log files have everything
                self._is_broken = True
                if not isinstance(error, (OSError, ValueError)):  # not gone, and not closed this very moment
                    _log.exception("the output of a run cannot be printed")
