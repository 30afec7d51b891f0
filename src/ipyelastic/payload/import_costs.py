"""How long a rank's imports of installed packages took: what is worth having in the fork server next time.

    a rank imports -> [here] on sys.meta_path times it -> payload/values -> forkserver/client.learn

An import inside another one counts for the outer: preloading that brings both. A module of the user's own is looked
through: it is never preloaded, what it imports may be.

Runs in: ranks that a fork server forked.
Other end: forkserver/preload.py judges.
"""

from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import Sequence
from typing import Any

from .at_import import next_spec
from .pickling import is_installed

__all__ = ["ImportCosts"]


class ImportCosts:
    """A finder that finds nothing by itself. `milliseconds`: `{module: what its import took}`, outermost ones only."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._thread = threading.local()

    def watch(self) -> None:
        """Time imports from now on."""
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> Any:
        mine = self._thread
        if getattr(mine, "is_busy", False) or name.partition(".")[0] in sys.stdlib_module_names:
            return None
        mine.is_busy = True  # other finders of this kind ask all the others too: us again
        try:
            spec = next_spec(self, name, path, target)
        finally:
            mine.is_busy = False
        loader = None if spec is None else spec.loader
        if loader is None or isinstance(loader, type) or not (spec.origin and is_installed(spec.origin)):
            return spec
        execute = loader.exec_module

        def exec_module(module: types.ModuleType) -> None:
            mine.is_busy = True
            began = time.perf_counter()
            try:
                execute(module)
            finally:
                mine.is_busy = False
            if name == module.__name__:  # else it is there under another name: nothing to import
                self.milliseconds[name] = round((time.perf_counter() - began) * 1000, 1)

        loader.exec_module = exec_module  # this loader loads this one module
        return spec
