"""Do something to a library at the moment a rank has imported it, and not before: a rank pays for what it uses only.

    worker.py, names of modules -> [here] on sys.meta_path -> the call, right after that module's own code has run

Runs in: ranks.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["when_imported", "next_spec"]

Call = Callable[[types.ModuleType], object]


def when_imported(calls: Mapping[str, Call]) -> None:
    """Call `calls[name](module)` once each module is there: now for those that are, else right after their import.

    What a call raises, the import raises.
    """
    waiting = {}
    for name, call in calls.items():
        module = sys.modules.get(name)
        if module is not None:
            call(module)
        else:
            waiting[name] = call
    if waiting:
        sys.meta_path.insert(0, _Finder(waiting))


class _Finder:
    """Finds nothing by itself: has the next finder's loader do one thing more, and is gone when all are done."""

    def __init__(self, calls: dict[str, Call]) -> None:
        self._calls = calls
        self._sought: set[str] = set()

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> Any:
        if name not in self._calls or name in self._sought:
            return None
        self._sought.add(name)  # another one of this class asks all the others too: us again
        try:
            spec = next_spec(self, name, path, target)
        finally:
            self._sought.discard(name)
        loader = None if spec is None else spec.loader
        if loader is None or isinstance(loader, type):  # a namespace package; built in: not ours to change
            return spec
        execute = loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            execute(module)
            # Only now: somebody may have looked for the module without importing it.
            call = self._calls.pop(name, None)
            if not self._calls and self in sys.meta_path:
                sys.meta_path.remove(self)
            if call is not None:
                call(module)

        loader.exec_module = exec_module  # this loader loads this one module
        return spec


def next_spec(asking: Any, name: str, path: Sequence[str] | None, target: Any) -> Any:
    """What the first of the other finders on sys.meta_path says of a module; None when none knows it."""
    for finder in list(sys.meta_path):
        find = getattr(finder, "find_spec", None)
        spec = find(name, path, target) if find is not None and finder is not asking else None
        if spec is not None:
            return spec
    return None
