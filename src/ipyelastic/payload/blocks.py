"""Shared memory blocks that a rank only attaches to: they are not its own, and outlive it.

    SharedMemory(name) in a rank > [here] > not told to the rank's resource tracker

Up to Python 3.12 whoever attaches is taken for an owner: the tracker removes the block when the first of them ends,
under the notebook that made it and the ranks that still use it (https://github.com/python/cpython/issues/82300).

Runs in: ranks, and children that they fork.
"""

from __future__ import annotations

import functools
import inspect
import threading
import types
from typing import Any

__all__ = ["leave_to_their_owner"]

_registering = threading.Lock()


def leave_to_their_owner(shared_memory: types.ModuleType) -> None:
    """Have `multiprocessing.shared_memory` register blocks at their creation only."""
    cls: Any = shared_memory.SharedMemory
    make, unlink = cls.__init__, cls.unlink
    if "track" in inspect.signature(make).parameters or not hasattr(shared_memory, "resource_tracker"):
        return
    tracker: Any = shared_memory.resource_tracker
    silent = types.SimpleNamespace(register=_nothing, unregister=_nothing)

    @functools.wraps(make)
    def attach_or_make(self: Any, name: str | None = None, create: bool = False, size: int = 0) -> None:
        with _registering:
            vars(shared_memory)["resource_tracker"] = tracker if create else silent
            try:
                make(self, name, create, size)
            finally:
                vars(shared_memory)["resource_tracker"] = tracker

    @functools.wraps(unlink)
    def registered_unlink(self: Any) -> None:
        tracker.register(self._name, "shared_memory")  # a second time does nothing; it is unregistered in there
        unlink(self)

    cls.__init__, cls.unlink = attach_or_make, registered_unlink


def _nothing(*_: Any) -> None:
    pass
