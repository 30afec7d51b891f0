"""The children's side of spawn.py: do the work, leave word of an exception, end with the owner.

    wrap(fn, i, args) -> exit code;  an exception -> its traceback's text, pickled, in an error file -> read_error

Runs in: children (`wrap` and what it calls) and owner (the rest). A child that starts from nothing imports this and not
spawn.py: keep it small.
Source: torch 2.13 (SEEDS section 10).
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ..process.orphans import die_with_parent

__all__ = ["wrap", "error_file", "read_error", "parent_to_find"]

OTHER_THREAD = 0
FORK_SERVER = -1


def wrap(fn: Callable[..., Any], i: int, args: Sequence[Any], error_path: str, parent_pid: int) -> None:
    """What a child runs: `fn(i, *args)`.

    KeyboardInterrupt ends it quietly with exit code 0; `sys.exit` keeps its meaning; any other exception is written to
    `error_path`, exit code 1. `parent_pid` is `parent_to_find`'s answer.
    """
    try:
        _end_with_owner(parent_pid)
        fn(i, *args)
    except KeyboardInterrupt:
        pass  # the owner died, or a person interrupted: nobody waits for words
    except SystemExit:
        raise
    except BaseException as error:
        _write_error(error_path, _traceback_text(error))
        sys.exit(1)


def parent_to_find(start_method: str) -> int:
    """Asked in the owner: the pid that a child must find as its parent's, or FORK_SERVER, or OTHER_THREAD.

    The kernel's parent-death signal comes at the end of the starting *thread*. The fork server has one thread; of ours
    only the main one is known to live as long as the process.
    """
    if start_method == "forkserver":
        return FORK_SERVER
    return os.getpid() if threading.current_thread() is threading.main_thread() else OTHER_THREAD


def error_file(index: int) -> str:
    """A path that nobody can guess; no file stands there unless the child fails."""
    import tempfile  # the owner's alone

    return os.path.join(tempfile.gettempdir(), f"ipyelastic-errorfile-{os.urandom(16).hex()}-{index}.pickle")


def read_error(path: str) -> str | None:
    """The traceback's text; None when the child left none, or nothing that can be read."""
    try:
        with open(path, "rb") as file:
            return str(pickle.load(file))
    except Exception:  # the caller reports the exit code instead, which a damaged file must not hide
        return None


def _end_with_owner(parent_pid: int) -> None:
    """Have a signal sent to us when the owner dies: SIGINT, which `wrap` ends quietly on."""
    if sys.platform != "linux":
        return
    # A shell's background job ignores SIGINT, and so would we.
    signum = signal.SIGTERM if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else signal.SIGINT
    if parent_pid > 0:
        die_with_parent(parent_pid, signum)
        return
    if parent_pid == FORK_SERVER:
        die_with_parent(os.getppid(), signum)
    # The fork server outlives a killed owner: its children hold the pipe that tells it. Our own pipe's other end is the
    # owner's alone (after a fork also our younger siblings', who go first), and a pipe can tell of its end by a signal.
    owner = multiprocessing.parent_process()
    if owner is None:
        return
    sentinel = owner.sentinel
    try:
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sentinel, fcntl.F_SETSIG, signum)
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)
    except OSError:  # a sandbox without such signals: as untied as torch's
        return
    if not owner.is_alive():  # it died before we asked
        os._exit(1)


def _traceback_text(error: BaseException) -> str:
    """As Python prints it, without our own frame, unless it is the only one."""
    import traceback  # not every child fails

    frames = error.__traceback__
    return "".join(traceback.format_exception(type(error), error, (frames and frames.tb_next) or frames))


def _write_error(path: str, text: str) -> None:
    part = path + ".part"
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            pickle.dump(text, file)
        os.rename(part, path)  # whole or not at all
    except OSError as error:
        print(f"{text}\n(this traceback is here because {path} could not be written: {error})", file=sys.stderr)
