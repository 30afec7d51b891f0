"""`inspect.getsource` for classes of cells: Python looks for a file of `__main__`, and a notebook has none.

Runs in: ranks. Functions need no help: their code names the cell, whose text payload/sources.py has brought.
"""

from __future__ import annotations

import re
import sys
import types
from typing import Any

from . import sources

__all__ = ["teach_inspect"]


def teach_inspect(inspect: types.ModuleType) -> None:
    """Have `inspect.findsource`, which all of its source functions ask, know the classes of cells."""
    find = inspect.findsource

    def findsource(object: Any) -> tuple[list[str], int]:
        place = _place(object) if isinstance(object, type) else None
        found: tuple[list[str], int] = place or find(object)
        return found

    vars(inspect)["findsource"] = findsource


def _place(cls: type) -> tuple[list[str], int] | None:
    """The lines of the cell that a class was defined in, and the index of its first one; None where no cell has it."""
    if cls.__module__ != "__main__" or getattr(sys.modules["__main__"], "__file__", None) is not None:
        return None
    texts = sources.installed()
    pattern = re.compile(rf"\s*class\s+{re.escape(cls.__name__)}\b")
    first = {code.co_filename: code.co_firstlineno for code in reversed(_codes(cls)) if code.co_filename in texts}
    for filename in first or reversed(list(texts)):
        lines = texts[filename][0].splitlines(keepends=True)
        above = first.get(filename, len(lines))
        for index in range(min(above, len(lines)) - 1, -1, -1):
            if pattern.match(lines[index]):
                while index > 0 and lines[index - 1].lstrip().startswith("@"):
                    index -= 1
                return lines, index
    return None


def _codes(cls: type) -> list[types.CodeType]:
    """Code of the methods in a class's own body."""
    plain = [getattr(value, "__func__", getattr(value, "fget", value)) for value in vars(cls).values()]
    own = [function for function in plain if getattr(function, "__qualname__", "").startswith(cls.__qualname__ + ".")]
    return [function.__code__ for function in own if isinstance(getattr(function, "__code__", None), types.CodeType)]
