"""Runs that no cell waits for: `--bg`, and `launch()` in a notebook. Each shows itself through one output.

    events -> BackgroundDisplay -> display(..., display_id) in the cell that launched -> updates, also when it has ended
           -> panel_run.PanelDisplay, where a person looks

Runs in: owner (kernel). Text comes from the run's threads; one thread of its own updates the output while the run
goes on; the main thread updates it once more after every cell, because nbclient and papermill drop what comes from a
cell that has ended (JUPYTER.md, sections 1.3 and 3).
Other end: engines/showing.py asks for a display; `settle_in` is called by `%load_ext` and by `ipyelastic.launch`.
"""

from __future__ import annotations

import contextvars
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..engines.run import Run
from ..engines.showing import Display, place, set_place
from ..launcher.options import RunOptions
from ..terms.events import Event, RunNote
from ..view.text import PrefixedText
from .front_end import is_kernel, is_live_front_end
from .kernel import Pump
from .panel_shelf import Shelf, panel_obstacle
from .terminal import failure_words, headline
from .traceback import dress
from .waiting import PERIOD_S

if TYPE_CHECKING:
    from .panel_run import PanelDisplay

__all__ = ["BackgroundDisplay", "NotebookPlace", "settle_in"]

_log = logging.getLogger("ipyelastic")

_PERIOD_S = 0.2  # between two updates; the end does not wait for it
_LEAVE_S = 10.0
_LAST_LINES = 60
_LONGEST_LINE = 500
_SMALL = 64 << 10  # characters: a whole text that is longer is not sent again and again


def settle_in(shell: Any) -> NotebookPlace:
    """From now on runs of this process show themselves as this shell does. The second call changes nothing."""
    here = place()
    if not isinstance(here, NotebookPlace) or here.shell is not shell:
        here = NotebookPlace(shell)
        set_place(here)
    return here


class NotebookPlace:
    """One shell, as a place where runs are shown (engines/showing.Place).

    Attributes:
        panels: Of runs that a cell waits for as well.
    """

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.is_kernel = is_kernel(shell)
        self.panels = Shelf(shell)
        self._lock = threading.Lock()
        self._displays: list[BackgroundDisplay | PanelDisplay] = []
        self._is_answering = False

    def display(self, options: RunOptions) -> Display | None:
        """One output under this cell; in a terminal None, for lines as a script prints them."""
        if not self.is_kernel:
            return None
        if not self.panels.wants_panel(options):
            return BackgroundDisplay(self, options, self.panels.take_notes())
        from .panel_run import PanelDisplay  # widgets: only where there is a page for them

        made = PanelDisplay(options, self.panels.keep, settles_itself=self.panels.settles_itself)
        self.follow(made)
        return made

    def show(self, run: Run[Any]) -> bool:
        """The panel of a run that goes on, in a page that a person looks at."""
        is_shown = not run.done() and is_live_front_end(self.shell) and panel_obstacle(self.shell) is None
        if is_shown:
            self.panels.show(run)
        return is_shown

    def answer_while(self, is_on: Callable[[float], bool], timeout: float | None) -> float | None:
        """See Place. Where no button of ours can be clicked, it returns at once."""
        if self._is_answering or not self.panels.has_live() or (timeout is not None and timeout <= PERIOD_S):
            return timeout
        until = None if timeout is None else time.monotonic() + timeout
        with Pump(self.shell) as pump:
            if pump.obstacle is not None:  # another thread waits, say
                return timeout
            self._is_answering = True
            try:
                while is_on(PERIOD_S) and (until is None or time.monotonic() < until):
                    pump.turn()
            finally:
                self._is_answering = False
        return None if until is None else max(0.0, until - time.monotonic())

    def dress(self, error: BaseException, world_size: int) -> BaseException:
        """The words of a failed cell."""
        return dress(error, self.shell, world_size)

    def follow(self, display: BackgroundDisplay | PanelDisplay) -> None:
        """Update it after each cell until its run has ended."""
        with self._lock:
            if not self._displays:
                self.shell.events.register("post_run_cell", self._after_cell)
            self._displays.append(display)

    def _after_cell(self, result: Any = None) -> None:
        with self._lock:
            shown = list(self._displays)
        over = [display for display in shown if display.update_after_cell()]
        with self._lock:
            self._displays = [display for display in self._displays if display not in over]
            if not self._displays:
                self.shell.events.unregister("post_run_cell", self._after_cell)


class BackgroundDisplay:
    """One run as one output: its state, what its ranks wrote, how it failed.

    Notes stand below its first line. In a live page the newest lines; the whole text where the notebook is collected by
    a program.
    """

    shows_failure = begins_late = True

    def __init__(self, place: NotebookPlace, options: RunOptions, notes: Sequence[str] = ()) -> None:
        self._place = place
        is_live = is_live_front_end(place.shell)
        self.is_complete = not is_live
        self._text = PrefixedText(ranks=options.shown, is_live=False)
        self._lines: deque[str] = deque(maxlen=_LAST_LINES if is_live else None)
        self._count = self._size = 0
        self._notes = [f"note: {text}" for text in notes]  # apart from the lines: they must not scroll away with them
        self._display_id = secrets.token_hex(8)
        self._run: Any = None
        self._failure = ""
        self._state_lock = threading.Lock()
        self._publish_lock = threading.Lock()
        self._dirty, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._is_in_this_cell = False
        self._has_failed = False

    # ------------------------------------------------------------------------------------------- called by the run

    def __call__(self, event: Event) -> None:
        """Keep what this event adds to the text."""
        if isinstance(event, RunNote):
            with self._state_lock:
                self._notes.append(f"note: {event.text}")
        else:
            self._text(event)
            self._keep(close=False)
        self._dirty.set()

    def begin(self, run: Any) -> None:
        """Make the output, in the cell that runs now. What came before is in it."""
        self._run, self._is_in_this_cell = run, True
        self._publish(is_new=True)
        self._place.follow(self)
        # A copied context: what is published in it belongs to this cell, whichever runs by then.
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=context.run, args=(self._work,), name=f"ipyelastic-display-{run.run_id}", daemon=True
        )
        thread.start()
        self._thread = thread
        if self._ended.is_set():  # `end` may have come before there was anything to wait for
            thread.join(_LEAVE_S)

    def end(self, run: Any) -> None:
        """Show the rest. The last update from here; one more comes after the cell."""
        self._keep(close=True)
        self._failure = failure_words(run)
        self._ended.set()
        self._dirty.set()
        thread = self._thread
        if thread is not None:
            thread.join(_LEAVE_S)  # a page that takes nothing any more must not hold up those who wait

    def has_just_shown(self) -> bool:
        """Whether it stands under the cell that still runs."""
        return self._is_in_this_cell

    # ------------------------------------------------------------------------------------------------- updating

    def update_after_cell(self) -> bool:
        """Main thread, a cell has ended: show what there is; whether that was the last time."""
        self._is_in_this_cell = False
        is_over = self._ended.is_set()
        self._publish()
        return is_over

    def _work(self) -> None:
        is_over = False
        while not is_over:
            self._dirty.wait()
            self._dirty.clear()
            is_over = self._ended.is_set()
            if is_over or not self.is_complete or self._size < _SMALL:
                self._publish()
            self._ended.wait(_PERIOD_S)

    def _keep(self, close: bool) -> None:
        with self._state_lock:
            for line in (self._text.close() if close else self._text.take()).splitlines():
                if not self.is_complete and len(line) > _LONGEST_LINE:
                    line = f"{line[: _LONGEST_LINE - 3]}..."
                self._lines.append(line)
                self._count += 1
                self._size += len(line) + 1

    def _publish(self, is_new: bool = False) -> None:
        with self._publish_lock:  # rendered and sent in one go: an older text must not come after a newer one
            try:
                self._place.shell.display_pub.publish(
                    data={"text/plain": self._rendered()},
                    metadata={},
                    transient={"display_id": self._display_id},
                    update=not is_new,
                )
            except Exception:  # whoever reads the log sees it; the run goes on, and its files have everything
                if not self._has_failed:
                    self._has_failed = True
                    _log.exception("the output of run %s cannot be shown", self._run.run_id)

    def _rendered(self) -> str:
        with self._state_lock:
            notes, lines, count = list(self._notes), list(self._lines), self._count
        run = self._run
        missing = count - len(lines)
        if missing:
            lines.insert(0, f"... {missing:,} earlier line{'s' if missing > 1 else ''}, see {run.log_dir}")
        return "\n".join([headline(run), *notes, *lines, *([f"\n{self._failure}"] if self._failure else [])])
