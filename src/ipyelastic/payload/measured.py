"""How much each name adds to a call, found out while the call is pickled: no second pickling, shared objects once.

    body, call, pickling: Measured(name, value) -> Measuring.reduced -> stream: mark, value, mark -> rank: the value

A mark in the stream notes how many bytes were written before it. The C pickler hands its bytes on in frames of 64 KiB,
so a size is right to within two of those; only names of megabytes are told.

Runs in: owner (measuring), ranks (opening).
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Measured", "Measuring", "Load", "opened", "may_be_large", "type_name", "note_of"]

TELL_ABOVE = 10_000_000  # bytes; a copy of less is not felt
_MOST_TOLD = 5


class Measured:
    """A value under the name a person knows it by; it arrives as the plain value."""

    def __init__(self, name: str, value: Any, use: str = "") -> None:
        self.name, self.value, self.use = name, value, use

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return opened, (0, self.value, 0)


def opened(begin: int, value: Any, end: int) -> Any:
    return value


@dataclass(frozen=True)
class Load:
    """What one name adds to the call: its own bytes, less those of names measured inside it."""

    name: str
    type_name: str
    use: str
    nbytes: int


class _Mark:
    def __init__(self, measured: Measured, is_end: bool) -> None:
        self.measured, self.is_end = measured, is_end


class Measuring:
    """One call's measurements.

    Args:
        position: How many bytes were written so far.
    """

    def __init__(self, position: Callable[[], int]) -> None:
        self._position = position
        self._open: list[tuple[int, int]] = []  # (where it began, bytes of names inside it that are told of themselves)
        self.loads: list[Load] = []

    def reduced(self, obj: object) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
        """What a pickler's `reducer_override` returns for objects of this file; None for others."""
        if type(obj) is Measured:
            return opened, (_Mark(obj, False), obj.value, _Mark(obj, True))
        if type(obj) is _Mark:
            self._pass(obj)
            return int, ()
        return None

    def _pass(self, mark: _Mark) -> None:
        now = self._position()
        if not mark.is_end:
            self._open.append((now, 0))
            return
        began, inside = self._open.pop()
        measured = mark.measured
        self.loads.append(Load(measured.name, type_name(measured.value), measured.use, now - began - inside))
        if self._open:
            outer_began, outer_inside = self._open[-1]
            self._open[-1] = (outer_began, outer_inside + now - began)


_SMALL = (types.ModuleType, types.BuiltinFunctionType, int, float, complex, type(None), type(Ellipsis))


def may_be_large(value: object) -> bool:
    """Whether measuring a value is worth its two marks."""
    if isinstance(value, (str, bytes)):
        return len(value) >= TELL_ABOVE
    if isinstance(value, types.FunctionType):
        return bool(value.__closure__ or value.__defaults__ or value.__kwdefaults__)
    return not isinstance(value, _SMALL)


def type_name(value: object) -> str:
    """A value's type as a person writes it: `list`, `Net` for a class of the notebook, `numpy.ndarray`."""
    cls = type(value)
    return cls.__qualname__ if cls.__module__ in ("builtins", "__main__") else f"{cls.__module__}.{cls.__qualname__}"


def note_of(loads: list[Load]) -> str:
    """A sentence that names what is large, the largest first; empty when nothing is."""
    large = sorted((load for load in loads if load.nbytes >= TELL_ABOVE), key=lambda load: -load.nbytes)
    if not large:
        return ""
    told = [
        f"{load.name} {load.nbytes / 1e6:.1f} MB ({', '.join(part for part in (load.type_name, load.use) if part)})"
        for load in large[:_MOST_TOLD]
    ]
    if len(large) > _MOST_TOLD:
        told.append(f"{len(large) - _MOST_TOLD} more of {sum(load.nbytes for load in large[_MOST_TOLD:]) / 1e6:.1f} MB")
    return f"these travel to the ranks by value: {', '.join(told)}; load big data in the ranks themselves, from a file"
