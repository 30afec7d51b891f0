"""One notebook's use of us: its fork servers kept warm, its runs waited for with output and interrupts.

    magic > [here] > foreground (waits and prints), or engines/run with a display of its own (background)

Runs in: owner (kernel or terminal IPython), main thread.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from IPython.display import display

from ..engines.living import end_all
from ..engines.run import Results, Run, find_run, live_runs
from ..engines.showing import PrintedLines, new_display
from ..forkserver.client import servers
from ..forkserver.preload import wanted_modules
from ..launcher.options import RunOptions
from ..output import retention
from ..payload.body import CellBody
from ..payload.script import Script
from ..terms.errors import OptionError, nearest
from ..terms.events import Sink
from ..view.text import PrefixedText
from .background import NotebookPlace, settle_in
from .foreground import run_in_foreground
from .front_end import is_live_front_end
from .interrupts import Interrupts
from .panel_shelf import panel_obstacle
from .terminal import PrintedRun

__all__ = ["Session"]

_MOST_FORMS = 8  # older ones no longer follow what is defined in the notebook

Rebuild = Callable[[], "tuple[CellBody | Script, list[str]]"]


class Session:
    """What `%load_ext ipyelastic` sets up for one shell, and `unload` gives back."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self._interrupts: Interrupts | None = None
        self._seen: tuple[int, frozenset[str]] = (0, frozenset())
        self._place: NotebookPlace = settle_in(shell)
        self._forms: deque[Any] = deque(maxlen=_MOST_FORMS)

    def open(self) -> None:
        """Start the fork server at once, warm one in the background, and clear away old log folders."""
        self.warm_up()
        self._place = settle_in(self.shell)
        self.shell.events.register("post_run_cell", self._after_cell)
        threading.Thread(target=_sweep, name="ipyelastic-sweep", daemon=True).start()

    def close(self) -> None:
        """Stop every run, then the servers."""
        self.shell.events.unregister("post_run_cell", self._after_cell)
        end_all(is_told=False, why="the extension was unloaded")
        self._place.panels.close()
        for form in self._forms:
            form.panel.close()
        self._forms.clear()
        servers().stop()

    def warm_up(self) -> None:
        """Have what the notebook has imported by now imported by a fork server too."""
        servers().start([*wanted_modules(self.shell.user_ns), *servers().learned])

    def _after_cell(self, result: Any = None) -> None:
        if self._interrupts is not None:
            self._interrupts.cell_has_ended(self._place.is_kernel)
            self._interrupts = None
        for form in self._forms:
            form.refresh()
        self._place.panels.settle()
        servers().look_again()
        seen = (len(sys.modules), servers().learned)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self.warm_up()
        except Exception as error:  # a launch will say it again, and then it matters
            print(f"ipyelastic: no fork server: {error}", file=sys.stderr)

    def run(self, body: CellBody | Script, options: RunOptions, notes: list[str], rebuild: Rebuild) -> Results[Any]:
        """Run a body, show its output while it runs, and return the values by rank.

        See run_in_panel and run_in_foreground. `rebuild` makes the body anew, for the panel's Start and Restart.
        """
        is_live = is_live_front_end(self.shell)
        self._interrupts = Interrupts()
        if self._place.panels.wants_panel(options):
            from .panel_run import run_in_panel  # widgets: only where there is a page for them

            shown = self._place.panels.new(options, functools.partial(_launch_built, rebuild, options))
            return run_in_panel(shown, body, notes, options, self._interrupts, self.shell)
        return run_in_foreground(
            body,
            (),
            options,
            PrefixedText(ranks=options.shown, is_live=is_live),
            self._interrupts,
            shell=self.shell,
            is_live=is_live,
            name=body.__name__,
            notes=[*notes, *self._place.panels.take_notes()],
        )

    def show_panel(self, wanted: str) -> None:
        """Show a run's panel again, by its id, or a form: for a function of the notebook by its name, or for any.

        Raises OptionError for a name that is neither, or where there can be no panel.
        """
        run = find_run(wanted)
        if run is not None and self._place.panels.of(run) is None and run.done():
            display(run)  # as the static page: there is nothing left to click on
            return
        why = panel_obstacle(self.shell)
        if why is not None:
            raise OptionError(f"no panel here: {why}")
        if run is not None:
            self._place.panels.show(run)
            return
        from .panel_form import Form, functions_of
        from .panel_run import keep

        known = functions_of(self.shell.user_ns)
        if wanted and wanted not in known:
            hint = nearest(wanted, known + [one.run_id for one in live_runs()])
            raise OptionError(f"{wanted}: neither a run nor a function of the notebook{hint}")
        form = Form(self.shell.user_ns, wanted, keep=keep)
        self._forms.append(form)
        display(form.widget)

    def start(self, body: CellBody | Script, options: RunOptions, notes: list[str], rebuild: Rebuild) -> Run[Any]:
        """Run a body in the background: it shows itself, and an interrupt of the kernel leaves it alone."""
        display: Any = new_display(options)
        if hasattr(display, "rebuild"):  # a panel
            display.rebuild = rebuild
        if isinstance(display, PrintedLines):  # a terminal: nobody need wait for it, so it says how it ended
            display = PrintedRun(options)
        return Run(body, (), options, display=display, notes=notes, name=body.__name__)


def _launch_built(rebuild: Rebuild, options: RunOptions, sinks: Sequence[Sink]) -> Run[Any]:
    body, notes = rebuild()
    return Run(body, (), options, sinks=sinks, name=body.__name__, notes=notes)


def _sweep() -> None:
    try:
        retention.sweep()
    except OSError:
        pass  # somebody else's folder in the way: the next launch says so
