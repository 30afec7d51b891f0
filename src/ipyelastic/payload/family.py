"""What a rank's own child processes are sent: functions and classes of its `__main__` go to them by value.

    rank: ForkingPickler (multiprocessing's, so torch's too) --[here]--> child started with spawn or forkserver
          DataLoader workers, Pool and ProcessPoolExecutor tasks  <--[here]-- its results

The standard library sends them by name, which a child that began from nothing cannot look up: a notebook has no file
that it could import. A child that was forked has the names already: it goes on as the standard library has it.

In such a child the functions meet in one fresh `__main__`, as they did in the rank. A name it has is never set again
(what an initializer put there stays), and a class is filled once: its second coming changes nothing.

Runs in: ranks, and their children of any start method; owners, while contexts/spawn.py starts children of a notebook.
Loaded when a rank's first object goes to a child.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from typing import Any

import cloudpickle
import cloudpickle.cloudpickle as machinery

from . import pickling, reductions, sources

__all__ = ["reduce_for_child", "carry_by_value", "by_value_meanwhile"]

_complete: weakref.WeakSet[type] = weakref.WeakSet()
"""Classes that this process has, whole: sent by it, or filled once from what it was sent."""

_is_guest = False
"""Whether this process is a child that began from nothing."""

_spawner_pid = 0
"""The process that has started such children; a fork of it has another pid, and is no such process itself."""

_borrowing = threading.Lock()
_borrowers = 0
_owner_pid = 0
"""The process that has lent itself: what its children send it meets its own `__main__`, which stays what it is."""

_lent: sources.Sources = {}

_INHERITED = ("multiprocessing.synchronize", "multiprocessing.queues", "multiprocessing.sharedctypes")
"""What can be sent to a child at its start only, which an initializer then puts under its name there."""

# Types that functions and classes are made of; plain pickle refuses them.
_PARTS = {
    kind: reduce
    for kind, reduce in machinery.CloudPickler._dispatch_table.items()
    if kind is not io.TextIOWrapper  # a copy of an open file would be a surprise
}


def carry_by_value(reduction: types.ModuleType) -> None:
    """Teach multiprocessing's pickler, once and for every user of it.

    Args:
        reduction: `multiprocessing.reduction`.
    """
    reduction.ForkingPickler.reducer_override = reduce_for_child


@contextlib.contextmanager
def by_value_meanwhile(texts: sources.Sources) -> Iterator[None]:
    """In an owner whose `__main__` no child could import (a notebook's): as `carry_by_value`, for the block only.

    `texts` go along. Where ranks' children are carried so anyway, and in a script, it does nothing.
    """
    from multiprocessing import reduction  # whoever starts children has it

    global _borrowers, _owner_pid
    pickler: Any = reduction.ForkingPickler
    with _borrowing:
        is_ours = _borrowers > 0 or not (_has_file() or hasattr(pickler, "reducer_override"))
        if is_ours:
            _borrowers += 1
            _owner_pid = os.getpid()
            _lent.update(texts)
            carry_by_value(reduction)
    try:
        yield
    finally:
        with _borrowing:
            if is_ours:
                _borrowers -= 1
                if not _borrowers:
                    del pickler.reducer_override
                    _lent.clear()


def reduce_for_child(pickler: Any, obj: Any) -> Any:
    """`ForkingPickler.reducer_override`."""
    global _spawner_pid
    kind = type(obj)
    if issubclass(kind, type) or kind is types.FunctionType:
        if sys.modules["multiprocessing.context"].get_spawning_popen() is not None:
            _spawner_pid = os.getpid()
        if machinery._should_pickle_by_reference(obj):
            return NotImplemented
        if _is_found(obj) and (_has_file() or not (_is_guest or _spawner_pid == os.getpid())):
            return NotImplemented
        return _by_value(pickler, obj)
    special = None if isinstance(obj, BaseException) else reductions.reduced(obj)
    if special is not None:
        return special
    part = _PARTS.get(kind)
    return NotImplemented if part is None or kind in pickler.dispatch_table else part(obj)


def _has_file() -> bool:
    """Whether a child imports this `__main__` itself, as multiprocessing has it: a rank that a script forked."""
    main = sys.modules["__main__"]
    return getattr(main, "__file__", None) is not None or getattr(main, "__spec__", None) is not None


def _is_found(obj: Any) -> bool:
    """Whether a fork of this process finds the very object under its name."""
    found: Any = sys.modules.get(obj.__module__)
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is obj


def _by_value(pickler: Any, obj: Any) -> Any:
    try:
        cloud, main = pickler._ipyelastic
    except AttributeError:
        cloud, main = pickler._ipyelastic = cloudpickle.CloudPickler(io.BytesIO()), _Main()
        cloud.globals_ref[id(pickling.main_globals())] = main
    special = reductions.reduced(obj)
    if special is not None:
        return special
    reduced = reductions.class_reduced(obj, cloud.reducer_override(obj))
    if not isinstance(reduced, tuple) or len(reduced) != 6:
        return reduced
    if isinstance(obj, type):
        _complete.add(obj)
        make, args, state, *_ = reduced
        return _make_class, (main, make, args), state, None, None, _fill_class
    if sys.modules["multiprocessing.context"].get_spawning_popen() is None:
        names = reduced[2][1]["__globals__"]
        for name in [name for name, value in names.items() if type(value).__module__ in _INHERITED]:
            del names[name]
    return (*reduced[:5], _fill_function)


class _Main:
    """Stands in the stream for the receiver's own `__main__`."""

    def __reduce__(self) -> Any:
        return enter_main, ({**sources.installed(), **_lent},)


def enter_main(texts: sources.Sources) -> dict[str, Any]:
    """The receiver's `__main__`; in a child that began from nothing, made at the first call.

    `texts` are the cells' sources, for tracebacks and `inspect`.
    """
    global _is_guest
    if os.getpid() == _owner_pid:
        return pickling.main_globals()
    reduction = sys.modules.get("multiprocessing.reduction")
    if reduction is None or getattr(reduction.ForkingPickler, "reducer_override", None) is not reduce_for_child:
        if reduction is not None:
            carry_by_value(reduction)
        # What is there now is multiprocessing's own start code, with names such as `main`.
        fresh = types.ModuleType("__main__")
        vars(fresh)["__builtins__"] = builtins
        sys.modules["__main__"] = sys.modules["__mp_main__"] = fresh
        _is_guest = True
    if _is_guest:
        sources.install(texts)
    return pickling.main_globals()


def _make_class(main: dict[str, Any], make: Any, args: tuple[Any, ...]) -> type:
    made: type = make(*args)
    if made.__module__ == "__main__" and "." not in made.__qualname__:
        main.setdefault(made.__qualname__, made)  # plain pickle looks it up there
    return made


def _fill_class(cls: type, state: Any) -> None:
    if cls not in _complete:
        _complete.add(cls)
        machinery._class_setstate(cls, state)


def _fill_function(function: Any, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    attributes, slots = state
    here = function.__globals__
    names = {name: value for name, value in slots["__globals__"].items() if name not in here}
    machinery._function_setstate(function, (attributes, {**slots, "__globals__": names}))
