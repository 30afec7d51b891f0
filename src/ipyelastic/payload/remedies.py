"""What to do about a value that cannot be pickled, by its type or by the type that pickle complained of.

Runs in: owner, when a call could not be packed; ranks, when a value could not.
"""

from __future__ import annotations

import re

from .measured import type_name

__all__ = ["remedy", "shortened"]

_INSIDE = "make it inside the cell"
_REMEDIES = (  # (the type's whole name, what to do), the special before the general
    (r"generator|.*_generator", "a generator stays in its process: make it inside the cell, or pass list(...) of it"),
    (r"coroutine|coroutine_wrapper", "await it, and pass what it gives; or make it inside the cell"),
    (r"_asyncio\.(Task|Future)|asyncio\..*\.(Task|Future)", "await it, and pass what it gives"),
    (r"ipyelastic\.engines\.run\.Run", "a run stays in its process: send run.results or its values, not the run"),
    (r"_thread\.(lock|RLock)|threading\..*", f"it holds for one process only: {_INSIDE}"),
    (r"multiprocessing\..*", f"it goes to children of the notebook only: {_INSIDE}, or use --start-method fork"),
    (r"_io\..*|tempfile\..*|gzip\..*|zipfile\..*|h5py\..*", "pass its path, and open it inside the cell"),
    (r"sqlite3\..*|.*[cC]onnection|.*[cC]ursor|.*\.Engine", "connect inside the cell"),
    (r"_?socket\..*|_?ssl\..*|zmq\..*|select\..*", "connect inside the cell"),
    (r"tqdm\..*", "make the bar inside the cell"),
    (r"ipywidgets\..*|anywidget\..*|traitlets\..*|.*Widget", "widgets live in the notebook: pass the widget's value"),
    (r"torch\..*DataLoaderIter", "pass the DataLoader, and iterate over it inside the cell"),
    (r"torch\.jit\..*", "script it inside the cell"),
    (r"torch\..*ConfigModuleInstance", "compile it inside the cell"),
    (r"torch\.nn\.utils\.parametrize\..*", f"pass its state_dict(), and {_INSIDE}"),
    (r"torch\._library\..*|torch\._ops\..*", "define the operator inside the cell, or in a module beside the notebook"),
    (r"concurrent\.futures\..*", f"a pool and its futures stay in their process: {_INSIDE}, or pass the results"),
    (r"frame|traceback|weakref.*|_?contextvars\..*|PyCapsule|memoryview", f"it stays in its process: {_INSIDE}"),
)


def remedy(value: object, reason: str) -> str:
    """What to do, as the end of a sentence; empty where nothing true can be said.

    Args:
        value: What could not be pickled; it may hold what is to blame.
        reason: Pickle's words, which name that as a rule (`cannot pickle '_thread.lock' object`).
    """
    named = re.findall(r"'([\w.]+)'", reason)
    for name in (type_name(value), *named):
        for pattern, words in _REMEDIES:
            if re.fullmatch(pattern, name):
                return words
    return ""


def shortened(error: BaseException, limit: int = 300) -> str:
    """An exception's type and text, on one line, whatever its `__str__` does."""
    try:
        text = " ".join(str(error).split())
    except BaseException as inner:
        text = f"its text could not be made: {type(inner).__name__}"
    text = text if len(text) <= limit else f"{text[: limit - 3]}..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
