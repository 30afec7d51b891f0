"""What a panel's ipywidgets are made of: the box around all, which front ends without widgets show too, and buttons.

    panel.py, panel_form.py -> [here] -> ipywidgets

Runs in: owner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets

__all__ = ["Box", "idle_button", "widgets_below"]


class Box(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets is not typed for us
    """A box that front ends without widgets, and pages that do not trust the notebook, show as a static page."""

    def __init__(self, children: list[Any], *, forms: Callable[[], dict[str, str]]) -> None:
        super().__init__(children)
        self._forms = forms

    def _repr_mimebundle_(self, **given: Any) -> Any:
        return {**super()._repr_mimebundle_(**given), **self._forms()}


def widgets_below(widget: Any) -> Iterator[Any]:
    """A widget and all it is made of, layouts and styles too: a page that is loaded again asks each for its state."""
    yield widget
    for trait in ("layout", "style"):
        if isinstance(getattr(widget, trait, None), ipywidgets.Widget):
            yield getattr(widget, trait)
    for child in getattr(widget, "children", ()):
        yield from widgets_below(child)


def idle_button(label: str, icon: str, tooltip: str) -> ipywidgets.Button:
    """A button that cannot be clicked yet."""
    return ipywidgets.Button(description=label, icon=icon, tooltip=tooltip, disabled=True)
