"""The agent's end of a failure: exit status, the rank's own word and its error file become one ProcessFailure.

Runs in: agent.
Other end: failures/record.py.
"""

from __future__ import annotations

import contextlib
import os
import re

from ..terms.failure import NOT_AVAILABLE, ExceptionRecord, MemoryState, ProcessFailure

__all__ = ["read_failure", "take_stacks", "take_traceback", "exit_note", "memory_state"]

_MAX_STACKS = 200_000  # bytes of faulthandler's text that are kept
_TRACEBACK = "Traceback (most recent call last):"
_UNCOMPILED = re.compile(r'^  File ".*", line \d+\n(?:    .*\n)*(?:SyntaxError|IndentationError|TabError): ', re.M)
_FATAL = "Fatal Python error: "


def read_failure(
    *,
    local_rank: int,
    pid: int,
    exitcode: int,
    error_file: str = "",
    host: str = "",
    time_ns: int = 0,
    duration_s: float | None = None,
    exception: ExceptionRecord | None = None,
    stacks_file: str = "",
    is_stopped: bool = False,
    note: str = "",
    memory: MemoryState | None = None,
) -> ProcessFailure:
    """Gather all that is known about one worker's failed end.

    Args:
        exitcode: As `subprocess` counts it: negative for a signal.
        time_ns: On the monotonic clock: when the rank failed by its own word, else when it was reaped.
        stacks_file: Where faulthandler wrote; missing or empty is fine.
        is_stopped: Whether we asked it to end.

    Never raises: a damaged file is part of the story.
    """
    failure = ProcessFailure(local_rank=local_rank, pid=pid, exitcode=exitcode, error_file=error_file)
    failure.timestamp_ns = time_ns
    failure.host = host
    failure.duration_s = duration_s
    failure.exception = exception
    failure.is_stopped = is_stopped
    failure.note = note
    failure.memory = memory
    with contextlib.suppress(OSError), open(stacks_file, "rb") as file:
        failure.stacks = file.read(_MAX_STACKS).decode("utf-8", "replace")
    return failure


def take_traceback(failure: ProcessFailure, stderr: str) -> None:
    """Fill in what a program that does not use `record` left on stderr: its last traceback, or faulthandler's stacks.

    Args:
        failure: Changed in place; one that has an error file stays as it is.
        stderr: Path of the program's stderr log; empty or missing: nothing to take.
    """
    if failure.error_file != NOT_AVAILABLE or not stderr:
        return
    if failure.exitcode < 0:
        take_stacks(failure, stderr)
        return
    text = _last_words(stderr)
    at = text.rfind(_TRACEBACK)
    if at < 0:
        at = _start_of_syntax_error(text)
    if at < 0:
        return
    lines = text[at:].splitlines()
    # A traceback's frames are indented; the first line that is not, after them, is the exception's own.
    end = next((index for index, line in enumerate(lines[1:], start=1) if line[:1].strip()), len(lines) - 1)
    callstack = "\n".join(lines[: end + 1])
    extra = {"py_callstack": callstack, "timestamp": str(failure.timestamp)}
    failure.message = {"message": lines[end], "extraInfo": extra}
    failure.error_file_data = {"message": failure.message}
    failure.note = ""


def take_stacks(failure: ProcessFailure, stderr: str) -> None:
    """Fill in faulthandler's stacks from stderr where a crash left none elsewhere: the code enabled it for itself."""
    if failure.exitcode < 0 and not failure.stacks and stderr:
        text = _last_words(stderr)
        at = text.rfind(_FATAL)
        if at >= 0:
            failure.stacks = text[at:]


def _last_words(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _MAX_STACKS))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def _start_of_syntax_error(text: str) -> int:
    """Where Python begins to tell of a program that it could not compile, for which there is no traceback; or -1."""
    found = list(_UNCOMPILED.finditer(text))
    return found[-1].start() if found else -1


def exit_note(exitcode: int, is_program: bool = False) -> str:
    """A plain word for an end without traceback and without signal; empty when there is nothing to add."""
    if exitcode < 0:
        return ""
    if exitcode == 0 and not is_program:
        return "it exited with code 0 without handing over a value"
    return f"it exited with code {exitcode} and left no traceback"


def memory_state() -> MemoryState | None:
    """The machine's memory now, or the container's limit and use where that is lower; None where unknown."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":", 1) for line in file)
        total = int(rows["MemTotal"].split()[0]) << 10
        used = total - (int(rows["MemAvailable"].split()[0]) << 10)
    except (OSError, KeyError, ValueError):
        return None
    for limit_file, use_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError), open(limit_file, encoding="ascii") as limit:
            limit_bytes = int(limit.read())
            if limit_bytes < total:
                with open(use_file, encoding="ascii") as use:
                    return MemoryState(used_bytes=int(use.read()), total_bytes=limit_bytes)
    return MemoryState(used_bytes=used, total_bytes=total)
