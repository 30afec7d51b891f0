"""One call, packed so that any number of local ranks can load it: function, arguments, large buffers beside them.

    owner: pack_call -> PackedCall -> write -> one memory file -> (delivery.py) -> ranks: load_call

Runs in: owner (pack), ranks (load).
Other end: delivery.py carries what contexts/functions.py packs, for worker.py to load.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..terms.errors import UnpicklableError
from .measured import Measured, may_be_large, note_of, type_name
from .pickling import Buffers, CallPickler, dumps
from .remedies import remedy, shortened
from .shared import fill, read_sections

__all__ = ["PackedCall", "pack_call", "load_call"]


@dataclass
class PackedCall:
    """A call ready to travel.

    `stream` is its pickle, `buffers` the large buffers outside of it, in pickling order. `modules` are the names of
    modules the ranks will import for it, `filenames` where its by-value code came from, `notes` what a person should
    be told: names of more than 10 MB, say. `classes` keeps the classes that travelled alive: hold the object while
    the run lives.
    """

    stream: bytes
    buffers: Buffers
    modules: frozenset[str]
    filenames: frozenset[str]
    notes: tuple[str, ...]
    classes: dict[str, type] = field(repr=False)

    def write(self, fd: int, head: bytes) -> None:
        """Write `head`, the stream and the buffers into a blank file. Raises OSError for want of room."""
        fill(fd, [head, self.stream, *(buffer.raw() for buffer in self.buffers)])


def pack_call(entrypoint: Any, args: Mapping[int, Sequence[Any]], *, shared_above: int = 1 << 20) -> PackedCall:
    """Pack a function and each rank's arguments.

    Args:
        entrypoint: A callable; anything cloudpickle can carry, cell functions included.
        args: `{local_rank: arguments}`; objects shared by several ranks travel once.
        shared_above: Buffers of at least this many bytes travel out of band (PEP 574).

    Raises:
        UnpicklableError: Something cannot cross; it names the argument or notebook name, its type and its use.
    """
    notes: list[str] = []
    while True:
        file, buffers = io.BytesIO(), Buffers()
        pickler = CallPickler(file, buffers, shared_above)
        try:
            pickler.dump(_measured(entrypoint, args))
            break
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # `sys.exit()` in somebody's `__reduce__` must not end the notebook
            blamed = explain(entrypoint, args, error)
            # A name the body assigns itself may hold anything in the notebook: it is left out.
            if blamed.name not in getattr(entrypoint, "assigned", ()) or blamed.name not in entrypoint.captured:
                raise blamed from error
            del entrypoint.captured[blamed.name]
            notes.append(f"{blamed.name} ({blamed.type_name}) cannot be pickled and was left out: the cell assigns it")
    return PackedCall(
        stream=file.getvalue(),
        buffers=buffers,
        modules=frozenset(pickler.modules),
        filenames=frozenset(pickler.filenames) | frozenset(getattr(entrypoint, "source_filenames", ())),
        notes=(*notes, *filter(None, [note_of(pickler.measuring.loads)]), *sorted(pickler.tensor_notes)),
        classes=pickler.classes,
    )


def _measured(entrypoint: Any, args: Mapping[int, Sequence[Any]]) -> tuple[Any, dict[int, tuple[Any, ...]]]:
    """The call with its parts under the names a person knows them by; a CellBody names its own."""

    def named(name: str, value: Any) -> Any:
        return Measured(name, value) if may_be_large(value) else value

    function = entrypoint
    if type(function) is functools.partial and not vars(function):  # what `launch(kwargs=...)` makes
        keywords = {name: named(name, value) for name, value in function.keywords.items()}
        function = functools.partial(function.func, *function.args, **keywords)
    elif not hasattr(function, "captured"):
        function = named(_name_of(function), function)
    return function, {
        rank: tuple(named(_argument(args, rank, index), value) for index, value in enumerate(values))
        for rank, values in args.items()
    }


def _name_of(function: Any) -> str:
    if isinstance(function, functools.partial):
        return _name_of(function.func)
    return str(getattr(function, "__name__", type(function).__name__))


def _argument(args: Mapping[int, Sequence[Any]], rank: int, index: int) -> str:
    """`argument 0`, with the rank when not all get the same object."""
    value = args[rank][index]
    is_shared = all(len(values) > index and values[index] is value for values in args.values())
    return f"argument {index}" if is_shared else f"argument {index} of rank {rank}"


def load_call(fd: int) -> tuple[memoryview, Callable[[], tuple[Any, dict[int, tuple[Any, ...]]]]]:
    """Read a written call: its head, and a function that loads the rest (and so imports what the user's code names)."""
    head, stream, *buffers = read_sections(fd)

    def load() -> tuple[Any, dict[int, tuple[Any, ...]]]:
        loaded: tuple[Any, dict[int, tuple[Any, ...]]] = pickle.loads(stream, buffers=buffers)
        return loaded

    return head, load


def explain(entrypoint: Any, args: Mapping[int, Sequence[Any]], error: BaseException) -> UnpicklableError:
    """Find what could not be pickled, by pickling the parts one by one."""
    suspects: list[tuple[str, Any, str]] = []
    captured = getattr(entrypoint, "captured", None)
    if isinstance(captured, dict):
        suspects += [(name, value, entrypoint.use_of(name)) for name, value in captured.items()]
    else:
        suspects.append((_name_of(entrypoint), entrypoint, ""))
    seen: set[int] = set()
    for rank, values in args.items():
        for index, value in enumerate(values):
            if id(value) not in seen:
                seen.add(id(value))
                suspects.append((_argument(args, rank, index), value, ""))
    for name, value, use in suspects:
        reason = _failure_of(value)
        if reason is not None:
            return _deepest(name, value, use, reason, depth=5)
    name, value, _ = suspects[0]
    return _unpicklable(name, value, "", error)


def _unpicklable(name: str, value: Any, use: str, error: BaseException) -> UnpicklableError:
    reason = shortened(error)
    return UnpicklableError(name, type_name(value), use, reason, remedy(value, reason))


def _failure_of(value: Any) -> BaseException | None:
    try:
        dumps(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return error
    return None


def _deepest(name: str, value: Any, use: str, error: BaseException, depth: int) -> UnpicklableError:
    """Follow a function to the global or closed-over name that is to blame."""
    if isinstance(value, functools.partial) and depth > 0:
        for part, inner in {_name_of(value.func): value.func, **value.keywords}.items():
            reason = _failure_of(inner)
            if reason is not None:
                return _deepest(part, inner, use, reason, depth - 1)
    code = getattr(value, "__code__", None)
    if code is not None and depth > 0:
        where = f"{value.__qualname__}()"
        cells = zip(code.co_freevars, value.__closure__ or (), strict=False)
        parts = {part: cell.cell_contents for part, cell in cells if _is_filled(cell)}
        arguments = code.co_varnames[: code.co_argcount]
        defaults = value.__defaults__ or ()
        parts |= dict(zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True))
        parts |= value.__kwdefaults__ or {}
        parts |= {part: value.__globals__[part] for part in code.co_names if part in value.__globals__}
        for part, inner in parts.items():
            reason = _failure_of(inner) if inner is not value else None
            if reason is not None:
                return _deepest(part, inner, where, reason, depth - 1)
    return _unpicklable(name, value, use, error)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # an empty cell raises
    except ValueError:
        return False
    return True
