"""A module of ours that is a module of torch's: its names are read from torch's and set in torch's, at use.

    patch("ipyelastic.compat.rendezvous.dynamic_rendezvous.time", m)  ->  torch's own dynamic_rendezvous.time is m

Runs in: owner. Importing such a module imports no torch; without torch its names raise ImportError, which says so.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from ...rendezvous.torchs import torchs_module

__all__ = ["hand_on"]


class _HandedOn(ModuleType):
    _torchs: str

    def __getattr__(self, name: str) -> Any:
        # Python's own questions (`__path__`, `__wrapped__`) are about this module; `__all__` is asked by `import *`.
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self._module(name), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__"):
            super().__setattr__(name, value)
        else:
            setattr(self._module(name), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._module(name), name)

    def __dir__(self) -> list[str]:
        loaded = sys.modules.get(self._torchs)
        return sorted({*super().__dir__(), *(dir(loaded) if loaded else ())})

    def _module(self, name: str) -> Any:
        return torchs_module(self._torchs, f"{self.__name__}.{name}")


def hand_on(name: str, torchs: str) -> None:
    """Make the module `name` (being imported, its `__name__`) stand for torch's module `torchs`."""
    module = sys.modules[name]
    module.__dict__["_torchs"] = torchs
    module.__class__ = _HandedOn
