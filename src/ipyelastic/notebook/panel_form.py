"""The form: a function of the notebook, ranks, GPUs, arguments and options, run from its panel.

    the person's fields -> [here]: one options line, one call -> engines/run -> the panel below

Runs in: owner. Made and displayed on the main thread; a launch reads the fields in the panel's writing thread.
Other end: launcher/options.py reads the line, as it reads a magic's.
"""

from __future__ import annotations

import functools
import inspect
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets

from ..devices.gpus import visible_gpu_count
from ..engines.run import Run
from ..launcher.checks import MOST_RANKS
from ..launcher.options import HelpWanted, parse_line
from ..terms.errors import OptionError, nearest
from ..terms.events import Sink
from ..view.amounts import counted
from .call_text import read_call
from .panel import Panel
from .panel_box import widgets_below

__all__ = ["Form", "functions_of"]

_NOTHING = "no function yet"


def functions_of(names: Mapping[str, Any]) -> list[str]:
    """Names of the functions that were defined in the notebook, newest last."""
    return [
        name
        for name, value in names.items()
        if inspect.isfunction(value) and value.__module__ == "__main__" and not name.startswith("_")
    ]


class Form:
    """Fields above a panel.

    Args:
        names: The notebook's; looked at anew for every launch.
        function: The one chosen first; empty: the newest.
        keep: As Panel's.
        on_launch: Called with each run, from the thread that launched it.

    Attributes:
        widget: What to display.
        panel: The panel below the fields.

    Raises:
        OptionError: There is no function of that name.
        FileNotFoundError: The front end is not built.
    """

    def __init__(
        self,
        names: Mapping[str, Any],
        function: str = "",
        *,
        keep: Callable[..., object] = lambda comm, early=None: None,
        on_launch: Callable[[Run[Any]], object] = lambda run: None,
    ) -> None:
        known = functions_of(names)
        if function and function not in known:
            raise OptionError(f"{function}: no function of that name in the notebook{nearest(function, known)}")
        self._names, self._on_launch = names, on_launch
        gpus = visible_gpu_count()
        self.function = ipywidgets.Dropdown(options=known or [_NOTHING], tooltip="Functions defined in this notebook")
        self.function.value = function or (known or [_NOTHING])[-1]
        self.ranks = ipywidgets.BoundedIntText(
            value=gpus or 2, min=1, max=MOST_RANKS, tooltip="How many ranks: fresh processes"
        )
        self.gpus = ipywidgets.Text(
            placeholder="all" if gpus else "none here", disabled=not gpus, tooltip="Which GPUs: 0,2-3 or free"
        )
        self.arguments = ipywidgets.Text(
            placeholder="cfg, 3, lr=1e-3",
            tooltip="The call's arguments: Python literals and names of the notebook",
            continuous_update=False,
        )
        self.options = ipywidgets.Text(
            placeholder="--timeout 60 --seed 1",
            tooltip="As after %%elastic_run; --help in a cell lists them",
            continuous_update=False,
        )
        fields = [
            _labelled("Function", self.function, "14em"),
            _labelled("Ranks", self.ranks, "5em"),
            _labelled("GPUs", self.gpus, "6em"),
            _labelled("Arguments", self.arguments, "16em"),
            _labelled("Options", self.options, "14em"),
        ]
        box = ipywidgets.HBox(fields, layout=ipywidgets.Layout(flex_flow="row wrap"))
        box.add_class("ipyelastic-form")
        self.panel = Panel(self._launch, keep=keep)
        self.widget = _FormBox(self.function, self.ranks, [box, self.panel.widget])
        keep(self.widget.comm)
        for widget in widgets_below(box):
            keep(widget.comm)

    def refresh(self) -> None:
        """Offer the notebook's functions as they are now. On the main thread, between cells."""
        known = functions_of(self._names) or [_NOTHING]
        if list(self.function.options) != known:
            chosen = self.function.value
            self.function.options = known
            self.function.value = chosen if chosen in known else known[-1]

    def _launch(self, new_sink: Callable[[int], Sink]) -> Run[Any]:
        name = self.function.value
        function = self._names.get(name)
        if not callable(function):
            raise OptionError("define a function in the notebook first" if name == _NOTHING else f"{name}: it is gone")
        line = f"--nproc {self.ranks.value} {self.options.value}"
        if self.gpus.value.strip():
            line = f"--gpus {shlex.quote(self.gpus.value.strip())} {line}"
        try:
            parsed = parse_line(line, "the form")
        except HelpWanted:
            raise OptionError("options: run %elastic_run --help in a cell") from None
        if parsed.code:
            raise OptionError(f"options: {parsed.code!r}: expected options such as --timeout 60")
        args, kwargs = read_call(self.arguments.value, self._names, function)
        call = functools.partial(function, **kwargs) if kwargs else function
        nproc, _ = parsed.options.choose_nproc()
        run: Run[Any] = Run(call, args, parsed.options, sinks=[new_sink(nproc)], name=name)
        self._on_launch(run)
        return run

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)


class _FormBox(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed for us
    """The whole form; where widgets are not drawn (GitHub, an untrusted page), one line says what stood there."""

    def __init__(self, function: Any, ranks: Any, children: list[Any]) -> None:
        super().__init__(children)
        self._function, self._ranks = function, ranks

    def _repr_mimebundle_(self, **options: Any) -> Any:
        data = super()._repr_mimebundle_(**options)
        line = (
            f"form: {self._function.value} on {counted(self._ranks.value, 'rank')}, with Start, Stop, Kill and Restart"
        )
        return {**data, "text/plain": f"{line}; run the cell in JupyterLab or Notebook 7 to use it"}


def _labelled(text: str, field: Any, width: str) -> ipywidgets.Widget:
    # The field's own description is its <label>: a screen reader reads it, a click on it goes to the field.
    field.description = text
    field.style.description_width = "initial"
    field.layout = ipywidgets.Layout(width="auto", min_width=width, flex="1 1 auto", max_width="26em")
    return field
