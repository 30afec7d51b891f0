"""A failed run as IPython shows it: what, likely, do; then the rank's own traceback with the cell's lines.

    ChildFailedError -> dress -> IPython's showtraceback asks `_render_traceback_` -> the page

Runs in: owner (kernel).
Other end: failures/record.py took the frames in the rank.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from ..terms.errors import ChildFailedError, IpyelasticError, RunTimedOut
from ..terms.failure import ExceptionRecord, FrameRecord, ProcessFailure
from ..view.report import report
from ..view.stacks import trimmed_stacks

__all__ = ["dress", "forgets_frames", "syntax_failure"]

P = ParamSpec("P")
R = TypeVar("R")


def dress(error: BaseException, shell: Any, world_size: int) -> BaseException:
    """Give an exception of ours the words it is shown with. Others, and all where there is no shell, are left."""
    if shell is not None and isinstance(error, (IpyelasticError, KeyboardInterrupt)):
        error._render_traceback_ = functools.partial(  # type: ignore[union-attr]  # what IPython looks for
            _render, error, shell, world_size
        )
    return error


def forgets_frames(magic: Callable[P, R]) -> Callable[P, R]:
    """Have errors of ours leave a magic without its frames, which nobody is shown.

    They hold all that the cell used, and the run, which stays known, holds its error: `del big` would free nothing.
    Where the body itself ran in the notebook (`keeps_frames`), its frames are for `%debug`.
    """

    @functools.wraps(magic)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return magic(*args, **kwargs)
        except IpyelasticError as error:
            one: BaseException | None = error
            if getattr(getattr(error, "_render_traceback_", None), "keeps_frames", False):
                one = None
            while one is not None and one.__traceback__ is not None:
                one.__traceback__, one = None, one.__cause__ or one.__context__
            raise

    return called


def _render(error: BaseException, shell: Any, world_size: int) -> list[str]:
    if isinstance(error, ChildFailedError):
        return _render_failure(error, shell, world_size)
    lines = [f"{type(error).__name__}: {error}"]
    if isinstance(error, RunTimedOut):
        for rank, stacks in sorted(error.stacks.items()):
            lines += ["", f"rank {rank} was here:", *trimmed_stacks(stacks)]
    return lines


def _render_failure(error: ChildFailedError, shell: Any, world_size: int) -> list[str]:
    rank, failure = error.get_first_failure()
    lines = [report(error.failures, world_size=world_size, has_magics=True, **dataclasses.asdict(error.tries))]
    if failure.exception is not None:
        lines.append("")
        lines += rank_traceback(failure.exception, shell)
    elif failure.stacks:
        lines += ["", f"the Python stack of rank {rank}:", *trimmed_stacks(failure.stacks)]
    elif _torch_text(failure):
        lines += ["", _torch_text(failure)]
    return lines


def _torch_text(failure: ProcessFailure) -> str:
    message = failure.message
    if isinstance(message, dict):
        return str((message.get("extraInfo") or {}).get("py_callstack", ""))
    return ""


def rank_traceback(record: ExceptionRecord, shell: Any) -> list[str]:
    """The traceback of another process, rendered by this shell's own machinery (its colours, its `%xmode`)."""
    if _has_group(record):
        return record.text.splitlines()  # IPython draws the group, not what is in it
    try:
        error = _rebuilt(record)
        if record.syntax is not None:
            return list(shell.SyntaxTB.structured_traceback(type(error), error, None))
        return list(shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__, tb_offset=0))
    except Exception:  # a traceback IPython cannot draw is shown as the rank itself printed it
        return record.text.splitlines()


def _has_group(record: ExceptionRecord | None) -> bool:
    return record is not None and (record.is_group or _has_group(record.cause) or _has_group(record.context))


def _rebuilt(record: ExceptionRecord) -> BaseException:
    """An exception that looks like the one in the rank; its class need not exist here."""
    error = _stand_in(record)
    error.__traceback__ = _rebuilt_traceback(record)
    if record.notes:
        error.__notes__ = list(record.notes)
    if record.cause is not None:
        error.__cause__ = _rebuilt(record.cause)
    elif record.context is not None:
        error.__context__ = _rebuilt(record.context)
    error.__suppress_context__ = record.suppress_context
    return error


def _stand_in(record: ExceptionRecord) -> BaseException:
    if record.syntax is not None:
        syntax = record.syntax
        place = (syntax["filename"], syntax["lineno"], syntax["offset"], syntax["text"])
        return SyntaxError(syntax["msg"], place)
    say: Callable[[object], str] = lambda self: record.message  # noqa: E731  # a method of the class made below
    cls = type(record.type_name.rpartition(".")[2], (Exception,), {"__str__": say, "__module__": record.module})
    made: BaseException = cls(record.message)
    return made


def _rebuilt_traceback(record: ExceptionRecord) -> TracebackType | None:
    trace: TracebackType | None = None
    for frame in reversed(_folded([frame for frame in record.frames if not frame.is_internal])):
        made = _frame_at(frame)
        trace = TracebackType(trace, made.tb_frame, made.tb_lasti, frame.lineno)
    return trace


def _folded(frames: list[FrameRecord]) -> list[FrameRecord]:
    """Of one line that calls itself again and again, three are enough."""
    kept: list[FrameRecord] = []
    for frame in frames:
        if [(other.filename, other.lineno) for other in kept[-3:]] != [(frame.filename, frame.lineno)] * 3:
            kept.append(frame)
    return kept


def _frame_at(wanted: FrameRecord) -> TracebackType:
    """A real frame with that file, function and line: raised from code that has nothing else in it.

    The function's own first line matters: for files that exist in memory only, IPython counts from there.
    """
    first = min(_first_line_of_source(wanted), wanted.lineno)
    code = compile("\n" * (wanted.lineno - first) + "raise found", wanted.filename, "exec")
    code = code.replace(co_name=wanted.name, co_firstlineno=code.co_firstlineno + first - 1)
    if sys.version_info >= (3, 11):
        code = code.replace(co_qualname=wanted.name)
    try:
        exec(code, {"__name__": "__main__", "__file__": wanted.filename, "found": KeyError()})
    except KeyError as error:
        assert error.__traceback__ is not None and error.__traceback__.tb_next is not None
        return error.__traceback__.tb_next
    raise AssertionError("the line above raises")


def _first_line_of_source(wanted: FrameRecord) -> int:
    """Where the source begins that `inspect` finds for the frame: a generator expression's is its function's."""
    code = compile("", wanted.filename, "exec").replace(co_firstlineno=wanted.first_lineno, co_name=wanted.name)
    try:
        _, first = inspect.getsourcelines(code)
    except (OSError, IndexError):  # no source here: nothing is counted either
        return wanted.first_lineno
    return first or wanted.first_lineno


def syntax_failure(error: SyntaxError, shell: Any) -> IpyelasticError:
    """A body's SyntaxError without the frames that led to it; a SyntaxError proper would be drawn with all of them."""
    cls = type("SyntaxError", (IpyelasticError,), {"__module__": "builtins"})
    shown: IpyelasticError = cls(str(error))
    lines = shell.SyntaxTB.structured_traceback(SyntaxError, error, None)
    shown._render_traceback_ = lambda: list(lines)  # type: ignore[attr-defined]
    return shown
