"""Classes keep who they are: a class that came with a call goes home as the notebook's own object.

cloudpickle sends a notebook's class by value and, where the same class is known already, *sets its attributes again*.
For a value coming home that would replace methods and class attributes in the notebook. So:

    owner packs a class by value     -> its tracker id is remembered here, with the class kept alive
    rank sends an instance home      -> the class goes as ("class", tracker id)
    owner loads it                   -> its own class object, untouched
    a class born in the cell's body  -> an id made of run and definition, the same in every rank; built once

Runs in: owner and ranks. The only file that touches cloudpickle's class tracker (private, same names in 3.0 and 3.1).
Checked by tests/payload/test_identity.py.
"""

from __future__ import annotations

import hashlib
import threading
import types
import weakref
from collections.abc import Mapping
from typing import Any

import cloudpickle.cloudpickle as tracker

__all__ = [
    "tracked_id",
    "known_ids",
    "track_classes",
    "class_of",
    "same_or_tracked",
    "name_body_class",
    "set_class_state_once",
]

_built: weakref.WeakSet[type] = weakref.WeakSet()
_built_lock = threading.Lock()


def tracked_id(cls: type) -> str | None:
    """The id under which cloudpickle knows a class it has sent or built by value; None for any other class."""
    found = tracker._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(cls)
    return None if found is None else str(found)


def track_classes(namespace: Mapping[str, object]) -> None:
    """Give every class of a namespace its id before a plain fork, where no call is pickled that would."""
    for value in list(namespace.values()):
        if isinstance(value, type) and not tracker._should_pickle_by_reference(value):
            tracker._get_or_create_tracker_id(value)


def known_ids() -> frozenset[str]:
    """The ids of all classes known now: in a rank, right after its call was loaded, those that came with it."""
    return frozenset(tracker._DYNAMIC_CLASS_TRACKER_BY_ID)


def class_of(class_id: str) -> type:
    """The class with that id. Raises `KeyError` when nobody holds it any more."""
    found: type = tracker._DYNAMIC_CLASS_TRACKER_BY_ID[class_id]
    return found


def same_or_tracked(class_id: str, cls: type) -> type:
    """The class that is known under that id; else this one, known under it from now on."""
    found: type = tracker._lookup_class_or_track(class_id, cls)
    return found


def name_body_class(cls: type, run_mark: str) -> None:
    """Give a class that was born in a rank the id that every other rank of this run gives it.

    The id is made of the run and of what the class is (name, bases, attribute names, code of its methods): classes
    that differ from rank to rank stay different.
    """
    with tracker._DYNAMIC_CLASS_TRACKER_LOCK:
        if cls in tracker._DYNAMIC_CLASS_TRACKER_BY_CLASS:
            return
        class_id = f"{run_mark}:{_fingerprint(cls)}"
        if class_id in tracker._DYNAMIC_CLASS_TRACKER_BY_ID:
            return  # the same definition run twice in one rank: the second keeps an id of its own
        tracker._DYNAMIC_CLASS_TRACKER_BY_CLASS[cls] = class_id
        tracker._DYNAMIC_CLASS_TRACKER_BY_ID[class_id] = cls


def _fingerprint(cls: type) -> str:
    digest = hashlib.sha1(usedforsecurity=False)

    def add(value: object) -> None:
        digest.update(repr(value).encode("utf-8", "backslashreplace") + b"\0")

    add((cls.__module__, cls.__qualname__, [base.__qualname__ for base in cls.__bases__]))
    for name, value in sorted(vars(cls).items()):
        add(name)
        function = getattr(value, "__func__", value)
        code = getattr(function, "__code__", None)
        if isinstance(code, types.CodeType):
            add((code.co_code, code.co_names, code.co_firstlineno))
    return digest.hexdigest()


def set_class_state_once(cls: type, state: Any) -> type:
    """cloudpickle's class state setter for classes born in a rank: the first rank's definition stands."""
    with _built_lock:
        if cls in _built:
            return cls
        _built.add(cls)
    built: type = tracker._class_setstate(cls, state)
    return built
