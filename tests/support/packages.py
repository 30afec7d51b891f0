"""Bodies that tell what a rank has imported, and from whom it descends."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from .gates import wait_at

__all__ = ["loaded_modules", "attribute_of", "wait_and_say_parent"]


def loaded_modules() -> list[str]:
    """Names of all modules this process has."""
    return sorted(sys.modules)


def attribute_of(module: str, name: str) -> Any:
    """Import a module and read a name of it."""
    return getattr(importlib.import_module(module), name)


def wait_and_say_parent(gate: str) -> int:
    """The parent's pid, once the gate is open."""
    wait_at(gate)
    return os.getppid()
