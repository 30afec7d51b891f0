"""The rank's end of its output: descriptors 1 and 2 become log files, and Python's streams follow them.

Runs in: ranks.
Other end: output/tail.py reads what is written here; change the two together.
"""

from __future__ import annotations

import io
import os
import sys

__all__ = ["point_streams"]


def point_streams(stdout: str, stderr: str) -> None:
    """Send everything this process and its children write to two files, for good.

    Args:
        stdout: Path, truncated; empty: left as it is.
        stderr: Likewise; may be the same file.

    Python's text streams are UTF-8 and line-buffered afterwards, whatever they were before; stdin is descriptor 0. In a
    process where this was called before they are the same objects, if nobody has replaced them.
    Raises `OSError` when a file cannot be opened.
    """
    for name, fd, path in (("stdout", 1, stdout), ("stderr", 2, stderr)):
        if path:
            target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.dup2(target, fd)
            if target != fd:
                os.close(target)
        if path and _ours.get(name) == (os.getpid(), id(getattr(sys, name))):
            continue  # it writes to the descriptor's number, whatever file that is
        made = _text_stream(name, fd)
        setattr(sys, name, made)
        setattr(sys, f"__{name}__", made)
        if path:  # what it has found out about its file (can one seek in it?) is true of any other
            _ours[name] = os.getpid(), id(made)
    if _ours.get("stdin") != (os.getpid(), id(sys.stdin)):
        sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # type: ignore[misc]
        _ours["stdin"] = os.getpid(), id(sys.stdin)


def _text_stream(name: str, fd: int) -> io.TextIOWrapper:
    # Made anew: the inherited object may be a kernel's stream, or hold half a line of its former owner's, which its
    # destructor would write into our file. So it is kept, unused.
    _former.append(getattr(sys, name))
    raw = open(fd, "wb", closefd=False)
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)


_former: list[object] = []
_ours: dict[str, tuple[int, int]] = {}  # name -> the process that made it, and which object it is
