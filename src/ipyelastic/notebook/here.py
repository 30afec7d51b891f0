"""`--engine here`: the cell's body as the only rank, in the notebook's own namespace, for debugging.

    magic > cell (compile) > [here] > engines/as_rank.AsRank

Runs in: owner (kernel or terminal IPython), main thread.

The body and the notebook's functions see one namespace, as in a rank. After a good end the notebook's names are what
they were. After a failure all names stay as the body left them, for `%debug` and for looking at, until the next
`%elastic_run`; a note says which. Objects that the body changed in place stay changed: there is only one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import secrets
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from types import CodeType, TracebackType
from typing import Any

from ..engines.as_rank import AsRank, run_coroutine
from ..engines.here import check_here, late_names
from ..engines.results import Results
from ..engines.run import last_run
from ..launcher.options import RunOptions
from ..payload.body import CellBody
from ..terms.errors import IpyelasticError
from .cell import GIVEN
from .traceback import syntax_failure

__all__ = ["HereCells"]

_GONE = object()
_MOST_NAMED = 12


class HereCells:
    """The cells of one shell that run in it; remembers what a failed one left behind."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._left: dict[str, tuple[Any, Any]] = {}
        """`{name: (the notebook's value, the failed body's)}`."""
        self._last_run_before: Any = _GONE

    def is_newest(self) -> bool:
        """Whether one ran here since the last run that has ranks of its own."""
        return self._last_run_before is last_run()

    def put_back(self) -> None:
        """Give the notebook the names that a failed cell left; one that was assigned since is the notebook's own."""
        left, self._left = self._left, {}
        namespace = self._shell.user_ns
        for name, (before, after) in left.items():
            if namespace.get(name, _GONE) is after:
                _put(namespace, name, before)

    def run(self, body: CellBody, options: RunOptions, notes: list[str]) -> Results[Any]:
        """Run a body to its end; its value is the only one of the list.

        Raises OptionError, and whatever the body raises, with the body's frames.
        """
        __tracebackhide__ = True
        check_here(options)
        for note in [*notes, late_names(options)]:
            if note:
                print(f"note: {note}")
        self._last_run_before = last_run()
        namespace = self._shell.user_ns
        before = dict(namespace)
        try:
            with AsRank(options, run_id=secrets.token_hex(4)), _breakpoints():
                namespace.update(body.captured)  # those of a function around the magic are not there yet
                namespace.update(dict(zip(GIVEN, (0, 0, 1), strict=True)))
                value = _run(body, namespace)
        except BaseException as error:
            self._left = _changed(before, namespace)
            _print_left(self._left)
            if isinstance(error, SyntaxError):  # of something the body imported or evaluated
                raise _syntax_failure(error, body, self._shell) from None
            _show_from_body(error, body, self._shell)
            raise
        for name, (former, _) in _changed(before, namespace).items():
            _put(namespace, name, former)
        return Results([value])


@contextlib.contextmanager
def _breakpoints() -> Iterator[None]:
    """Have `breakpoint()` open IPython's debugger where it would do nothing.

    A kernel's own hook is debugpy's, which passes over it silently while no debugger is attached to the kernel.
    """
    former, debugpy = sys.breakpointhook, sys.modules.get("debugpy")
    if debugpy is None or not former.__module__.startswith("debugpy") or debugpy.is_client_connected():
        yield
        return

    def stop(*args: Any, **kwargs: Any) -> None:
        from IPython.core.debugger import set_trace  # slow to import, and seldom needed

        set_trace(sys._getframe(1))

    sys.breakpointhook = stop
    try:
        yield
    finally:
        if sys.breakpointhook is stop:
            sys.breakpointhook = former


def _run(body: CellBody, namespace: dict[str, Any]) -> Any:
    __tracebackhide__ = True
    parts = [code for code in (body.code, body.last) if code is not None]
    if any(code.co_flags & inspect.CO_COROUTINE for code in parts):
        return run_coroutine(_run_async(parts, namespace, body.last))
    value = None
    for code in parts:
        value = eval(code, namespace)
    return value if body.last is not None else None


async def _run_async(parts: list[CodeType], namespace: dict[str, Any], last: CodeType | None) -> Any:
    value = None
    for code in parts:
        value = eval(code, namespace)
        if code.co_flags & inspect.CO_COROUTINE:
            value = await value
    return value if last is not None else None


def _changed(before: Mapping[str, Any], namespace: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """`{name: (before, now)}` of the names that are no longer what they were."""
    pairs = {name: (before.get(name, _GONE), namespace.get(name, _GONE)) for name in [*namespace, *before]}
    return {name: pair for name, pair in pairs.items() if pair[0] is not pair[1]}


def _put(namespace: dict[str, Any], name: str, value: Any) -> None:
    if value is _GONE:
        namespace.pop(name, None)
    else:
        namespace[name] = value


def _print_left(left: Mapping[str, tuple[Any, Any]]) -> None:
    shown = {name: pair for name, pair in left.items() if not name.startswith("_")}
    new = [name for name, (before, _) in shown.items() if before is _GONE and name not in GIVEN]
    replaced = [name for name, (before, _) in shown.items() if before is not _GONE]
    if not (new or replaced):
        return
    words = [f"new {_listed(new)}"] if new else []
    words += [f"in place of the notebook's own {_listed(replaced)}"] if replaced else []
    print(f"note: the names of this cell stay for %debug until the next %elastic_run: {'; '.join(words)}")


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(list(names)[:_MOST_NAMED]) + more


def _show_from_body(error: BaseException, body: CellBody, shell: Any) -> None:
    """Have IPython draw, and `%debug` walk, the traceback from the body on: the magic's own frames say nothing."""

    def render() -> list[str]:
        error.__traceback__ = _from_body(error, body)
        # Once: raised again elsewhere it is an exception like any other.
        del error._render_traceback_  # type: ignore[attr-defined]
        return list(shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__, tb_offset=0))

    render.keeps_frames = True  # type: ignore[attr-defined]  # see traceback.forgets_frames
    try:
        error._render_traceback_ = render  # type: ignore[attr-defined]  # what IPython looks for
    except AttributeError:  # a class with slots; its traceback begins with the magic's frames
        pass


def _from_body(error: BaseException, body: CellBody) -> TracebackType | None:
    """The error's traceback without the frames that lead to the body."""
    # asyncio turns an interrupt into a cancellation, and that into a KeyboardInterrupt raised outside of the body.
    is_cancelled = isinstance(error, KeyboardInterrupt) and isinstance(error.__context__, asyncio.CancelledError)
    for one in (error, error.__context__ if is_cancelled else None):
        trace = None if one is None else one.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code in (body.code, body.last):
                error.__suppress_context__ |= one is not error
                return trace
            trace = trace.tb_next
    return error.__traceback__


def _syntax_failure(error: SyntaxError, body: CellBody, shell: Any) -> IpyelasticError:
    """A SyntaxError in the words of IPython's, which draws every frame, ours too, for a SyntaxError proper."""
    frames = traceback.extract_tb(_from_body(error, body))
    lines = list(shell.SyntaxTB.structured_traceback(SyntaxError, error, frames))
    shown = syntax_failure(error, shell)
    shown._render_traceback_ = lambda: lines  # type: ignore[attr-defined]
    return shown
