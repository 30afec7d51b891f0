"""What makes a compat module a face: setting a name in it sets that name in the rooms that use it.

    patch("ipyelastic.compat.multiprocessing.api.logger", m)  ->  contexts.base.logger is m, too, until the patch ends

Runs in: owner.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

__all__ = ["face"]

Rooms = Mapping[str, Sequence["ModuleType | tuple[ModuleType | type, str]"]]


class _Face(ModuleType):
    _rooms: Rooms

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        for place in self.__dict__.get("_rooms", {}).get(name, ()):
            room, there = place if isinstance(place, tuple) else (place, name)
            setattr(room, there, value)


def face(name: str, rooms: Rooms) -> None:
    """Turn the module `name` into a face.

    Args:
        name: Of a module being imported, its `__name__`.
        rooms: `{name: where it is used}`: modules that use it under the same name, or (module, other name).
    """
    module = sys.modules[name]
    module.__class__ = _Face
    module.__dict__["_rooms"] = rooms
