"""The rank's end of a failure: the exception as plain data, and torch's error file.

    exception in the rank  ->  ExceptionRecord (value channel)  and  error.json (TORCHELASTIC_ERROR_FILE)

Runs in: ranks.
Other end: failures/read.py. failures/handler.py writes the same file for `@record`.
Source: torch 2.13 for the error file's keys (SEEDS section 9).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

from ..terms.failure import ExceptionRecord, FrameRecord

__all__ = ["exception_record", "write_error_file", "error_data", "write_whole"]

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_ASYNCIO = os.path.join(os.path.dirname(os.__file__), "asyncio") + os.sep
_MAX_FRAMES = 100  # of one exception; an endless recursion shows its two ends
_MAX_CHAIN = 20  # exceptions that came from one another; the two ends of more
_MAX_MESSAGE = 100_000  # characters
_MAX_TEXT = 300_000  # of a whole traceback

LabelOf = Callable[[str], str]


def exception_record(error: BaseException, label_of: LabelOf) -> ExceptionRecord:
    """Turn an exception, with its causes, into plain data that no class of the user's is needed to read.

    Args:
        error: With its traceback; frames of ours are marked and left out of the text.
        label_of: What a person calls a file (`Cell In[7]`), or empty text.
    """
    try:
        return _record(error, label_of)
    except Exception as inner:  # its class forbids even to be looked at; where it was raised is known all the same
        said = f"<nothing more can be read of it: {type(inner).__name__}>"
        frames = tuple(_frames(vars(BaseException)["__traceback__"].__get__(error), label_of))
        name = str(vars(type)["__qualname__"].__get__(type(error)))
        return ExceptionRecord(type_name=name, module="", message=said, frames=frames, text=f"{name}: {said}\n")


def _record(error: BaseException, label_of: LabelOf) -> ExceptionRecord:
    chain = _chain(error)
    half, left_out = _MAX_CHAIN // 2, len(chain) - _MAX_CHAIN
    if left_out > 0:
        chain = chain[:half] + chain[-half:]
    record = None
    for index, one in reversed(list(enumerate(chain))):
        is_cut = left_out > 0 and index == half - 1
        notes = (f"... {left_out:,} exceptions between this one and the one it came from are left out ...",) * is_cut
        record = _one_record(one, label_of, record, notes)
    assert record is not None
    return record


def _chain(error: BaseException) -> list[BaseException]:
    """An exception, what it came from, what that came from: one that retried in its handler may be a thousand long."""
    chain, seen = [error], {id(error)}
    while True:
        last = chain[-1]
        linked = last.__context__ if last.__cause__ is None else last.__cause__
        if linked is None or id(linked) in seen:
            return chain
        chain.append(linked)
        seen.add(id(linked))


def _one_record(
    error: BaseException, label_of: LabelOf, linked: ExceptionRecord | None, more_notes: tuple[str, ...]
) -> ExceptionRecord:
    syntax = None
    if isinstance(error, SyntaxError):
        syntax = {key: getattr(error, key, None) for key in ("filename", "lineno", "offset", "text", "msg")}
        syntax["end_lineno"], syntax["end_offset"] = (getattr(error, key, None) for key in ("end_lineno", "end_offset"))
    return ExceptionRecord(
        type_name=type(error).__qualname__,
        module=type(error).__module__,
        message=_with_labels(_message(error), label_of),
        frames=tuple(_frames(error.__traceback__, label_of)),
        notes=_notes(error) + more_notes,
        cause=None if error.__cause__ is None else linked,
        context=linked if error.__cause__ is None else None,
        suppress_context=error.__suppress_context__,
        text=_text(error, label_of),
        is_group=isinstance(getattr(error, "exceptions", None), tuple),
        syntax=syntax,
    )


def _message(error: BaseException) -> str:
    try:
        return _cut(str(error), _MAX_MESSAGE)
    except Exception as inner:
        return f"<its text could not be made: {type(inner).__name__}>"


def _cut(text: str, limit: int) -> str:
    """A text's two ends."""
    if len(text) <= limit:
        return text
    left_out = f"\n... {len(text) - limit:,} characters left out ...\n"
    return f"{text[: limit // 2]}{left_out}{text[-(limit // 2) :]}"


def _notes(error: BaseException) -> tuple[str, ...]:
    notes = getattr(error, "__notes__", ())
    try:
        return tuple(_cut(str(note), _MAX_MESSAGE) for note in notes)
    except Exception as inner:  # anything may be put there
        return (f"<its notes could not be read: {type(inner).__name__}>",)


def _frames(trace: TracebackType | None, label_of: LabelOf) -> Iterable[FrameRecord]:
    firsts = [frame.f_code.co_firstlineno for frame, _ in traceback.walk_tb(trace)]
    pairs: list[tuple[Any, int]] = list(zip(traceback.extract_tb(trace), firsts, strict=True))
    below = _frames_below([summary.filename for summary, _ in pairs])
    numbered = list(enumerate(pairs))
    if len(numbered) > _MAX_FRAMES:
        half = _MAX_FRAMES // 2
        numbered = numbered[:half] + numbered[-half:]
    for index, (summary, first_lineno) in numbered:
        yield FrameRecord(
            filename=summary.filename,
            lineno=summary.lineno or 0,
            name=summary.name,
            line=summary.line or "",
            label=label_of(summary.filename),
            is_internal=index < below or _is_ours(summary.filename),
            first_lineno=first_lineno,
        )


def _frames_below(filenames: Sequence[str]) -> int:
    """How many frames are below the user's: ours, and asyncio's that ran a body with `await`."""
    count = 0
    while count < len(filenames) and (_is_ours(filenames[count]) or filenames[count].startswith(_ASYNCIO)):
        count += 1
    return count if any(_is_ours(name) for name in filenames[:count]) else 0


def _is_ours(filename: str) -> bool:
    return filename.startswith(_OURS)


def _text(error: BaseException, label_of: LabelOf) -> str:
    try:
        formatted = traceback.TracebackException.from_exception(error)
        _name_cells(formatted, label_of)
        return _cut(_with_labels("".join(formatted.format()), label_of), _MAX_TEXT)
    except Exception as inner:  # a user's __str__ or source file in the way; the frames above still say where
        return f"{type(error).__qualname__}: {_message(error)}\n(traceback not printable: {type(inner).__name__})\n"


def _with_labels(text: str, label_of: LabelOf) -> str:
    """Give cells their names in a traceback that is part of a message: a DataLoader worker's, a pool's."""
    if 'File "' not in text:
        return text
    return re.sub(r'File "([^"]+)"', lambda found: f'File "{label_of(found[1]) or found[1]}"', text)


def _name_cells(formatted: traceback.TracebackException, label_of: LabelOf) -> None:
    """In place: leave out our own frames, give cells their names, all along the chain."""
    pending, seen = [formatted], set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        below = _frames_below([frame.filename for frame in current.stack])
        kept = [frame for frame in current.stack[below:] if not _is_ours(frame.filename)]
        for frame in kept:
            label = label_of(frame.filename)
            if label:
                frame.line  # noqa: B018  # reads the line while the file name still leads to it
                frame.filename = label
        current.stack[:] = kept
        if isinstance(getattr(current, "filename", None), str):  # a SyntaxError's own place
            current.filename = label_of(current.filename) or current.filename
        linked = [current.__cause__, current.__context__, *(getattr(current, "exceptions", None) or [])]
        pending += [one for one in linked if one is not None]


def write_error_file(path: str, record: ExceptionRecord) -> None:
    """Write torch's error file: complete or not at all, whenever the rank is killed.

    Raises `OSError` when the folder is gone or full.
    """
    write_whole(path, json.dumps(error_data(f"{record.type_name}: {record.message}", record.text)))


def error_data(message: str, callstack: str) -> dict[str, Any]:
    """What torch's error file holds, as of now."""
    extra = {"py_callstack": callstack, "timestamp": str(int(time.time()))}
    return {"message": {"message": message, "extraInfo": extra}}


def write_whole(path: str, text: str) -> None:
    """Put a file there complete or not at all, over one that may be there. Raises `OSError`."""
    aside = f"{path}.{os.getpid()}.tmp"
    try:
        with open(aside, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        os.replace(aside, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        raise
