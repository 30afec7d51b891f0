"""Environments without widgets: of a kernel, and of the server that hands pages their front end."""

from __future__ import annotations

import json
import os
from pathlib import Path

__all__ = ["hide_widgets", "without_widgets_on_pages"]

_SITE = """
import sys

class Hidden:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in ("ipywidgets", "anywidget"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden)
"""


def hide_widgets(folder: Path) -> str:
    """A PYTHONPATH with which a new Python has neither ipywidgets nor anywidget; the present one goes on behind it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE, encoding="utf-8")
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def without_widgets_on_pages(config: Path) -> None:
    """Have a Jupyter server with this configuration folder serve pages that cannot draw widgets."""
    folder = config / "labconfig"
    folder.mkdir(parents=True, exist_ok=True)
    off = {"@jupyter-widgets/jupyterlab-manager": True, "anywidget": True}
    (folder / "page_config.json").write_text(json.dumps({"disabledExtensions": off}), encoding="utf-8")
