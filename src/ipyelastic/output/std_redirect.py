"""Torch's redirects: standard output or error of this process goes to a file for the length of a block.

    with redirect_stdout("rank0.log"): ...      Python, C stdio, raw writes to the descriptor, child processes

Runs in: ranks started torch's way, and wherever a user asks. Our own ranks use output/redirect.py, for good.
Other end: output/tail_log.py follows these files.
Source: torch 2.13 for names and error texts (SEEDS section 8). Differs on purpose: descriptor 1 or 2 itself is
redirected, and `sys.stdout` or `sys.stderr` as well where it is some other object; macOS is no exception.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ctypes

__all__ = ["redirect", "redirect_stdout", "redirect_stderr", "get_std_cm", "get_libc"]

logger = logging.getLogger("ipyelastic")

_FDS = {"stdout": 1, "stderr": 2}
_C_NAMES = {"stdout": ("stdout", "__stdoutp"), "stderr": ("stderr", "__stderrp")}  # glibc and musl, macOS


@contextmanager
def redirect(std: str, to_file: str) -> Iterator[None]:
    """Send one standard stream of the whole process, and of children started meanwhile, to a file.

    Args:
        std: `"stdout"` or `"stderr"`.
        to_file: Path; an existing file is emptied.

    A Python stream that does not write to descriptor 1 or 2 itself (a notebook's, a capture, None) is replaced for the
    block by one that does: UTF-8, line-buffered. All is as before afterwards, on every path. Blocks may be nested, in
    one thread; two threads that redirect the same stream undo each other's. The order of Python's, C's and raw writes
    is not kept.

    Raises:
        ValueError: Another stream name.
        OSError: The file cannot be opened: `FileNotFoundError` when its folder is missing. Nothing is changed then.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/multiprocessing.html.
    """
    if std not in _FDS:
        raise ValueError(f"unknown standard stream <{std}>, must be one of {{'stdout', 'stderr'}}")
    fd = _FDS[std]
    target = _opened(to_file)
    try:
        _flush(std)
        saved = _copied(fd)
        try:
            os.dup2(target, fd)
            with _python_stream_on(std, fd):
                yield
        finally:
            try:
                _flush(std)
            finally:
                _put_back(saved, fd)
    finally:
        os.close(target)


redirect_stdout = partial(redirect, "stdout")
redirect_stderr = partial(redirect, "stderr")
for _partial in (redirect_stdout, redirect_stderr):
    _partial.__doc__ = redirect.__doc__  # else `?` shows what functools.partial is


def get_std_cm(
    std_rd: str | None, redirect_fn: Callable[[str], AbstractContextManager[Any]]
) -> AbstractContextManager[Any]:
    """`redirect_fn(std_rd)`, or a context that does nothing when the path is empty.

    Args:
        std_rd: Path of the file; empty or None: nothing is redirected.
        redirect_fn: `redirect_stdout` or `redirect_stderr`.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/multiprocessing.html.
    """
    return redirect_fn(std_rd) if std_rd else nullcontext()


@cache
def get_libc() -> ctypes.CDLL | None:
    """The C library this process runs on; None, said once in the log, where it cannot be had.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/multiprocessing.html.
    """
    import ctypes  # a rank pays for it when it redirects, not before

    try:
        return ctypes.CDLL(None)
    except OSError as error:
        logger.warning("the C library cannot be loaded, C code's buffered output may miss its file: %s", error)
        return None


@contextmanager
def _python_stream_on(std: str, fd: int) -> Iterator[None]:
    """Have Python's stream write to `fd`: the one that is there if it does so already, else another for the block."""
    former = getattr(sys, std)
    if _writes_to(former, fd):
        yield
        return
    stream = io.TextIOWrapper(
        open(fd, "wb", closefd=False), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )
    setattr(sys, std, stream)
    try:
        yield
    finally:
        # Whatever stands there now: a block may leave a stream of its own behind.
        setattr(sys, std, former)
        if not stream.closed:
            stream.flush()


def _writes_to(stream: Any, fd: int) -> bool:
    # Exact types: a subclass, as IPython's, may take text elsewhere whatever its fileno() says.
    if type(stream) is not io.TextIOWrapper:
        return False
    try:
        return stream.fileno() == fd
    except ValueError:  # closed, or over a buffer that is no file
        return False


def _flush(std: str) -> None:
    """Empty Python's and C's buffers of a stream towards where its descriptor leads now."""
    for stream in (getattr(sys, std), getattr(sys, f"__{std}__")):
        # None in a process without a terminal; a closed one has nothing; a replaced one may have no flush.
        with contextlib.suppress(AttributeError, ValueError):
            stream.flush()
    libc = get_libc()
    if libc is None:
        return
    import ctypes

    for name in _C_NAMES[std]:
        with contextlib.suppress(ValueError):  # the other system's name
            libc.fflush(ctypes.c_void_p.in_dll(libc, name))
            return


def _opened(path: str) -> int:
    """The emptied file's descriptor, clear of 0 to 2 even where those are closed. Children do not inherit it."""
    # Appending: two streams that share a file do not write over each other, nor over what a reader cut off.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o666)
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def _copied(fd: int) -> int:
    """A copy of a standard descriptor; -1 when it is closed."""
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError:
        return -1


def _put_back(saved: int, fd: int) -> None:
    if saved < 0:
        os.close(fd)
        return
    os.dup2(saved, fd)
    os.close(saved)
