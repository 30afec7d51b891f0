"""A cell that waits behind a panel: buttons work meanwhile, and in the end the page holds the run as static HTML.

    session > [here] > Run with the panel's sinks;   main thread: Pump.turn(), 50 times a second, until the run is done

Runs in: owner (kernel), main thread; a Restart between two cells launches in the panel's writing thread.
Other end: panel.py draws and obeys, kernel.py lets its messages through, view/html.py makes the page that stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from IPython.display import display

from ..devices.usage import UsageWatch
from ..engines.pictures import pictures_of
from ..engines.run import Results, Run
from ..launcher.options import RunOptions
from ..payload.body import CellBody
from ..payload.script import Script
from ..terms.errors import ChildFailedError, RunStopped
from ..terms.events import Event, Sink
from ..view.heading import Heading
from ..view.html import html
from ..view.plain import plain
from .interrupts import Interrupts
from .kernel import Pump, keep_on_subshell, obstacle, ours
from .panel import Panel
from .panel_view import is_built
from .waiting import PERIOD_S, Obedience, outcome_of

__all__ = ["ShownPanel", "keep", "panel_obstacle", "run_in_panel"]

Body = CellBody | Script
Rebuild = Callable[[], "tuple[Body, list[str]]"]


def keep(comm: Any, early: Callable[[Any], object] | None = None) -> None:
    """Have a comm of ours answered while a cell blocks, whichever that is."""
    ours(comm)
    keep_on_subshell(comm, early)


def panel_obstacle(shell: Any) -> str | None:
    """Why a cell of this shell cannot have a panel; None: it can."""
    if not is_built():
        return "the panel's front end is not built; run `pip install -e .` in the checkout"
    return obstacle(shell)


class ShownPanel:
    """A panel, the output it stands in, and the runs it has shown.

    Args:
        rebuild: The cell's body with the notebook's values of the moment, and notes: for Start and Restart.
        options: Of every run.
    """

    def __init__(self, rebuild: Rebuild, options: RunOptions) -> None:
        self._rebuild, self._options = rebuild, options
        self.panel = Panel(self._relaunch, keep=keep, shown=options.shown)
        self._handles: list[Any] = []
        self.run: Run[Any] | None = None

    def show(self) -> None:
        """Put it under the cell that runs now. Of a run that has ended it stays a panel, for its Start button."""
        if self.run is not None and self.run.done():
            self.panel.reopen()
            display(self.panel.widget)
        else:
            self._handles.append(display(self.panel.widget, display_id=True))

    def launch(self, body: Body, notes: Sequence[str]) -> Run[Any]:
        """Launch what was built and follow it."""
        self.run = run = self._launched(body, notes, self.panel.new_sink)
        self.panel.follow(run)
        return run

    def _relaunch(self, new_sink: Callable[[int], Sink]) -> Run[Any]:
        body, notes = self._rebuild()
        self.run = run = self._launched(body, notes, new_sink)
        return run

    def _launched(self, body: Body, notes: Sequence[str], new_sink: Callable[[int], Sink]) -> Run[Any]:
        nproc, _ = self._options.choose_nproc()
        shown = new_sink(nproc)
        made: list[Run[Any]] = []

        def take_usage(event: Event) -> None:
            shown(event)
            for run in made:
                run.board(event)

        watch = UsageWatch(take_usage)
        run: Run[Any] = Run(body, (), self._options, sinks=[watch, shown], name=body.__name__, notes=notes)
        made.append(run)
        run.add_done_callback(lambda _: watch.close())
        return run

    def settle(self) -> None:
        """Once the run has ended, what stays in the notebook takes the panel's place. On the main thread."""
        run = self.run
        if run is None or not self._handles or not run.done():
            return
        page, words = static_forms(run)
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.update({"text/html": page, "text/plain": words}, raw=True)
        self.panel.finish(page, words)

    def close(self) -> None:
        """Take it off every page."""
        self.panel.close()


def static_forms(run: Run[Any]) -> tuple[str, str]:
    """A run that has ended, as HTML and as text."""
    error = run.exception(0)
    said = "" if error is None or type(error) in (ChildFailedError, RunStopped) else str(error)
    heading = Heading(run.name, run.run_id, run.log_dir, error=said)
    return html(run.board, heading, pictures_of(run.log_dir)), plain(run.board, heading)


def run_in_panel(shown: ShownPanel, body: Body, notes: Sequence[str], interrupts: Interrupts, shell: Any) -> Results:
    """Run to the end behind a panel and return the values by rank.

    An interrupt stops every rank, a second one kills them; then KeyboardInterrupt is raised. A Restart clicked on the
    page makes this cell wait for the new run, whose values it returns.
    Raises what `Run.result` raises, dressed for IPython.
    """
    panel = shown.panel
    interrupts.take()
    panel.wait_here(True)
    run: Run[Any] | None
    try:
        run = last = shown.launch(body, notes)  # an option that only the machine can refuse leaves no empty panel
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
    return outcome_of(last, interrupts, shell)
