"""The panels of one shell: found again by their run, a few kept.

    session, background, magic > [here] > panel_run

Runs in: owner (kernel), main thread. Importing this loads no widgets: most shells never have a panel.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..engines.run import Run
from ..launcher.options import RunOptions
from ..terms.errors import OptionError
from ..terms.events import Sink
from .front_end import is_live_front_end
from .kernel import obstacle

if TYPE_CHECKING:
    from .panel_run import ShownPanel

__all__ = ["Shelf", "panel_obstacle"]

_WIDGETS = ("ipywidgets", "anywidget")
_INSTALL = f"run `%pip install {' '.join(_WIDGETS)}`, then reload the page"
_MOST_PANELS = 8  # each may hold some megabytes of output; older ones of runs that have ended go


def panel_obstacle(shell: Any) -> str | None:
    """Why a cell of this shell cannot have a panel; None: it can."""
    why = obstacle(shell)
    if why is not None:
        return why
    why = _missing_widgets()
    if why:
        return why
    from .panel_view import is_built

    return None if is_built() else "the panel's front end is not built; run `pip install -e .` in the checkout"


def _missing_widgets() -> str:
    """What to install where widgets cannot be imported; they are, only where there may be a page for them."""
    try:
        from . import panel_view  # noqa: F401
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        said = f"{name} is not installed" if name in _WIDGETS else f"widgets cannot be imported ({error})"
        return f"{said} in the kernel's environment; {_INSTALL}"
    return ""


class Shelf:
    """Panels, oldest first."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._panels: deque[ShownPanel] = deque()
        self._note = ""
        self._is_told = False

    def wants_panel(self, options: RunOptions) -> bool:
        """Whether a run with these options is shown as a panel; OptionError for `ui="panel"` where none can be."""
        is_live = is_live_front_end(self._shell)
        if options.ui not in ("auto", "panel") or (options.ui == "auto" and not is_live):
            return False
        why = panel_obstacle(self._shell)
        if why is not None and options.ui == "panel":
            raise OptionError(f"ui='panel': {why}")
        if why is not None and not self._is_told and (missing := _missing_widgets()):
            self._note, self._is_told = f"no panel, only lines of text: {missing}", True
        return why is None

    def take_notes(self) -> list[str]:
        """What the person should read once, with the run that `wants_panel` was asked about last."""
        note, self._note = self._note, ""
        return [note] if note else []

    @property
    def settles_itself(self) -> bool:
        """Whether a live page takes an update of an output whose cell has ended (JUPYTER.md, section 3)."""
        return is_live_front_end(self._shell)

    def new(self, options: RunOptions, again: Callable[[Sequence[Sink]], Run[Any]] | None) -> ShownPanel:
        """A panel, kept."""
        from .panel_run import ShownPanel

        shown = ShownPanel(options, again, settles_itself=self.settles_itself)
        self.keep(shown)
        return shown

    def keep(self, shown: ShownPanel) -> None:
        """Find it again by its run, and close the oldest ones whose runs have ended."""
        self._panels.append(shown)
        for old in [one for one in list(self._panels)[:-_MOST_PANELS] if one.run is None or one.run.done()]:
            self._panels.remove(old)
            old.close()

    def show(self, run: Run[Any]) -> None:
        """Put a panel of a run that goes on under the cell that runs now: its own, or a new one with what it wrote."""
        shown = self.of(run)
        if shown is None:
            known = weakref.WeakMethod(run.launch_beside)
            shown = self.new(run.options, lambda sinks: _again(known(), sinks))
            shown.join(run)
        shown.show()

    def of(self, run: Run[Any]) -> ShownPanel | None:
        """The panel that shows a run."""
        return next((shown for shown in self._panels if shown.run is run), None)

    def has_live(self) -> bool:
        """Whether somebody may click on a button of a run that goes on."""
        return any(shown.panel.is_live for shown in self._panels)

    def settle(self) -> None:
        """Put static pages in the place of panels whose runs have ended."""
        for shown in self._panels:
            shown.settle()

    def close(self) -> None:
        """Take all off every page."""
        for shown in self._panels:
            shown.close()
        self._panels.clear()


def _again(launch_beside: Callable[[Sequence[Sink]], Run[Any]] | None, sinks: Sequence[Sink]) -> Run[Any]:
    if launch_beside is None:
        raise RuntimeError("nothing is kept of what was run: launch it again in a cell")
    return launch_beside(sinks)
