"""The widget that draws a run: a small loader, which asks for the front end itself once per page.

    panel.py -> RunView.send -> comm -> src/frontend (loader.js, then index.js)

Runs in: owner. Only the panel's writing thread sends.
Other end: src/frontend/bundle.py builds the files in static/.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import anywidget
import traitlets

__all__ = ["RunView", "front_end", "is_built"]

_STATIC = Path(__file__).with_name("static")


def is_built() -> bool:
    """Whether the front end is there: it is in every wheel, and after `pip install -e .` in a checkout."""
    return (_STATIC / "panel.js").is_file() and (_STATIC / "loader.js").is_file()


@functools.cache
def front_end() -> bytes:
    """The whole front end, one ES module."""
    return _read("panel.js")


@functools.cache
def _version() -> str:
    return front_end().partition(b"\n")[0].decode()[-19:-3]


def _read(name: str) -> bytes:
    try:
        return (_STATIC / name).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{_STATIC / name}: the panel's front end is not built; run `pip install -e .` in the checkout"
        ) from None


class RunView(anywidget.AnyWidget):  # type: ignore[misc]  # anywidget is not typed for us
    """One run on the page. Raises FileNotFoundError when the front end is not built."""

    version = traitlets.Unicode().tag(sync=True)
    """Which bundle this kernel has: a page that has another one loads it beside."""

    def __init__(self, **traits: Any) -> None:
        super().__init__(_esm=_read("loader.js").decode(), version=_version(), **traits)
