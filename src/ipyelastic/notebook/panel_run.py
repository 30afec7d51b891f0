"""A panel under a cell, from the first event of its run to the static HTML that stays in the notebook.

    session > run_in_panel: Run with the panel's sinks;   main thread: Pump.turn(), 50 times a second, until it is done
    --bg, launch() > PanelDisplay: the run shows itself while cells go on
    display(run), %elastic_panel RUN > panel_shelf > ShownPanel, joining a run that goes on

Runs in: owner (kernel), main thread; between two cells the panel's writing thread launches and settles.
Other end: panel.py draws and obeys, kernel.py lets its messages through, view/html.py makes the page that stays.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from IPython.display import display

from ..devices.usage import UsageWatch
from ..engines.run import Results, Run
from ..engines.static_forms import static_forms
from ..launcher.options import RunOptions
from ..payload.body import CellBody
from ..payload.script import Script
from ..terms.events import Event, Sink
from .interrupts import Interrupts
from .kernel import Pump, keep_on_subshell, ours
from .panel import Panel
from .waiting import PERIOD_S, Obedience, outcome_of

__all__ = ["Again", "PanelDisplay", "ShownPanel", "keep", "run_in_panel"]

Body = CellBody | Script
Rebuild = Callable[[], "tuple[Body, list[str]]"]
Again = Callable[[Sequence[Sink]], "Run[Any]"]
"""Launches a panel's next run, which hands its events to these sinks."""


def keep(comm: Any, early: Callable[[Any], object] | None = None) -> None:
    """Have a comm of ours answered while a cell blocks, whichever that is."""
    ours(comm)
    keep_on_subshell(comm, early)


class _Feed:
    """A sink: a run's events on their way to a panel, and samples of what its ranks use."""

    def __init__(self, shown: Sink) -> None:
        self.run: Run[Any] | None = None
        self._shown = shown
        self._watch = UsageWatch(self._take_usage)

    def __call__(self, event: Event) -> None:
        self._watch(event)
        self._shown(event)

    def _take_usage(self, event: Event) -> None:
        self._shown(event)
        if self.run is not None:
            self.run.board(event)

    def close(self) -> None:
        self._watch.close()
        self.run = None


class ShownPanel:
    """A panel, the outputs it stands in, and the run it shows.

    Args:
        options: Of its runs.
        again: For Start and Restart; None: those buttons stay disabled.
        settles_itself: Whether the writing thread may put the static page in its place: where a live page listens.
            Else only `settle` on the main thread does.
    """

    def __init__(self, options: RunOptions, again: Again | None, *, settles_itself: bool = True) -> None:
        self._again = again
        self._lock = threading.Lock()
        self._handles: list[Any] = []
        self.panel = Panel(
            None if again is None else self._relaunch,
            keep=keep,
            shown=options.shown,
            over=self.settle if settles_itself else lambda: None,
        )
        self.run: Run[Any] | None = None
        """What it shows; None once the static page has taken its place: values are not kept here."""
        self._nproc = 1

    def show(self) -> None:
        """Put it under the cell that runs now."""
        handle = display(self.panel.widget, display_id=True)
        with self._lock:
            self._handles.append(handle)
        self.panel.look()  # it may have ended meanwhile

    def new_feed(self, nproc: int) -> _Feed:
        """A sink for the run that is followed next."""
        return _Feed(self.panel.new_sink(nproc))

    def follow(self, run: Run[Any], feed: _Feed) -> None:
        """Show this run, which hands its events to that feed."""
        self.run = feed.run = run
        self._nproc = run.nproc
        run.add_done_callback(lambda _: feed.close())
        self.panel.follow(run)

    def join(self, run: Run[Any]) -> None:
        """Show a run that goes on already, with what it has written so far."""
        feed = self.new_feed(run.nproc)
        run.add_sink(feed)
        self.follow(run, feed)

    def launch(self, body: Body, notes: Sequence[str], options: RunOptions) -> Run[Any]:
        """Launch what was built and follow it."""
        nproc, _ = options.choose_nproc()
        feed = self.new_feed(nproc)
        run: Run[Any] = Run(body, (), options, sinks=[feed], name=body.__name__, notes=notes)
        self.follow(run, feed)
        return run

    def _relaunch(self, new_sink: Callable[[int], Sink]) -> Run[Any]:
        assert self._again is not None
        feed = _Feed(new_sink(self._nproc))
        self.run = feed.run = run = self._again([feed])
        run.add_done_callback(lambda _: feed.close())
        return run

    def settle(self) -> None:
        """Once the run has ended, what stays in the notebook takes the panel's place. From any one thread at a time."""
        run = self.run
        if run is None or not run.done():
            return
        with self._lock:
            handles, self._handles = self._handles, []
            if not handles:
                return
            page, words = static_forms(run)
            for handle in handles:
                handle.update({"text/html": page, "text/plain": words}, raw=True)
            self.run = None
        self.panel.finish(page, words)

    def close(self) -> None:
        """Take it off every page."""
        self.panel.close()


class PanelDisplay:
    """A run that no cell waits for, as a panel (engines/showing.Display).

    Args:
        options: Of the run.
        keep_panel: Called with the panel when the run begins.
        settles_itself: As ShownPanel's.
    """

    is_complete = False
    shows_failure = True
    begins_late = False

    def __init__(
        self, options: RunOptions, keep_panel: Callable[[ShownPanel], object], *, settles_itself: bool = True
    ) -> None:
        self._options, self._keep, self._settles_itself = options, keep_panel, settles_itself
        self._feed: _Feed | None = None
        self._shown: ShownPanel | None = None
        self._is_in_this_cell = False
        self.rebuild: Rebuild | None = None
        """Makes a cell's body anew, with the notebook's values of that moment; None: what ran is run again."""

    def __call__(self, event: Event) -> None:
        """Hand on an event; those before `begin` are on the board."""
        if self._feed is not None:
            self._feed(event)

    def begin(self, run: Any) -> None:
        """Put the panel under the cell that runs now."""
        known = weakref.ref(run)
        self._shown = shown = ShownPanel(
            self._options, lambda sinks: self._again(known(), sinks), settles_itself=self._settles_itself
        )
        self._feed = feed = shown.new_feed(run.nproc)
        shown.follow(run, feed)
        shown.show()
        self._is_in_this_cell = True
        self._keep(shown)

    def end(self, run: Any) -> None:
        """The panel sees by itself."""

    def has_just_shown(self) -> bool:
        """Whether it stands under the cell that still runs."""
        return self._is_in_this_cell

    def update_after_cell(self) -> bool:
        """Main thread, a cell has ended; whether nothing more is to be done."""
        self._is_in_this_cell = False
        shown = self._shown
        if shown is None:
            return True
        shown.settle()
        return shown.run is None or shown.run.done()

    def _again(self, run: Run[Any] | None, sinks: Sequence[Sink]) -> Run[Any]:
        if self.rebuild is None:
            if run is None:
                raise RuntimeError("nothing is kept of what was run: launch it again in a cell")
            return run.launch_beside(sinks)
        body, notes = self.rebuild()
        return Run(body, (), self._options, sinks=sinks, name=body.__name__, notes=notes)


def run_in_panel(
    shown: ShownPanel, body: Body, notes: Sequence[str], options: RunOptions, interrupts: Interrupts, shell: Any
) -> Results[Any]:
    """Run to the end behind a panel and return the values by rank.

    An interrupt stops every rank, a second one kills them; then KeyboardInterrupt is raised. A Restart clicked on the
    page makes this cell wait for the new run, whose values it returns.
    Raises what `Run.result` raises, dressed for IPython; the words of a failure stand in the page already.
    """
    panel = shown.panel
    interrupts.take()
    panel.wait_here(True)
    run: Run[Any] | None
    try:
        run = last = shown.launch(body, notes, options)  # what only the machine can refuse leaves no empty panel
        shown.show()
        obedience = Obedience(interrupts)
        with Pump(shell) as pump:
            while run is not None:
                while not run.wait(PERIOD_S):
                    pump.turn()
                    if obedience.obey(run, panel.stop, panel.kill):
                        break
                last, run = run, panel.restarted() if run.done() else None
    finally:
        panel.wait_here(False)
        interrupts.over()
    shown.settle()
    return outcome_of(last, interrupts, shell, is_shown=last.done())
