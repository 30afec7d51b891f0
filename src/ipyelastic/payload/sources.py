"""The text of notebook cells, carried along so that a traceback in a rank shows its lines.

    owner: linecache + IPython's cell numbers -> {file name: (text, label)} -> rank: linecache, labels

Runs in: owner (collect), ranks (install).
Other end: failures/record.py names frames by these labels.
"""

from __future__ import annotations

import linecache
import os
import re
import sys
from collections.abc import Iterable, Mapping

__all__ = ["collect", "install", "installed", "label_of", "name_files", "Sources"]

Sources = dict[str, tuple[str, str]]
"""`{file name: (text, label)}`; the label is what a person calls the file, `Cell In[7]`, or empty."""

_labels: dict[str, str] = {}
_installed: Sources = {}


def collect(filenames: Iterable[str]) -> Sources:
    """Take the files that exist in this process only (notebook cells, interactive input) out of `linecache`."""
    found: Sources = {}
    for filename in filenames:
        entry = linecache.cache.get(filename)
        if entry is None or len(entry) != 4 or os.path.exists(filename):
            continue
        found[filename] = ("".join(entry[2]), _shell_label(filename))
    return found


def _shell_label(filename: str) -> str:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    compiler = getattr(shell, "compile", None)
    if compiler is None or not hasattr(compiler, "format_code_name"):
        return ""
    named = compiler.format_code_name(filename)  # ("Cell", "In[7]") for a cell, else None
    return " ".join(named) if named and named[0] == "Cell" else ""


def name_files(text: str) -> str:
    """Replace the file names of cells by their labels in a text of `File "...", line` rows (faulthandler's)."""
    return re.sub(r'File "([^"]+)"', lambda found: f'File "{_shell_label(found[1]) or found[1]}"', text)


def install(sources: Mapping[str, tuple[str, str]]) -> None:
    """Make the texts known to `linecache` (no modification time: never dropped) and remember the labels."""
    _installed.update(sources)
    for filename, (text, label) in sources.items():
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        if label:
            _labels[filename] = label


def forget(filename: str) -> None:
    """Undo `install` for one."""
    for texts in (_installed, _labels, linecache.cache):
        texts.pop(filename, None)


def installed() -> Sources:
    """What was installed here so far, to be passed on."""
    return _installed


def label_of(filename: str) -> str:
    """What a person calls the file; empty when its name says it."""
    return _labels.get(filename, "")
