"""One fork of a single-threaded server, with no signal lost on the way.

Runs in: fork server, and the keeper of a forked run.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from os import _exit  # by our own name: a rank's code may replace the one in `os`

__all__ = ["fork_into"]


def fork_into(enter: Callable[[], object]) -> int:
    """Fork; the child calls `enter` and ends when that returns. Returns the child's pid. Raises OSError.

    The child begins with every signal blocked, until it has its own handlers (worker.isolate): a fork forgets signals
    that are pending, and the server's handlers would swallow one.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            try:
                enter()
            finally:
                _exit(127)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
    return pid
