"""A process that was forked leaves its parent behind: session, signals, descriptors, and the mark that others see.

Runs in: ranks, and the keeper of a forked run, as their first act.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

__all__ = ["isolate", "carry_mark"]


def isolate(keep: Sequence[int], *, has_owners_objects: bool = False) -> None:
    """Leave the parent's session, signals and descriptors behind.

    A fork server's stdin stays: it is what its ranks are to read (forkserver/handle.py), as a rule the null device.
    `has_owners_objects`: this process was forked from the owner's memory; its stdin becomes the null device.
    """
    signal.set_wakeup_fd(-1)
    for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if os.getsid(0) != os.getpid():
        os.setsid()
    if not (has_owners_objects and _block(keep)):
        last = 2
        for fd in sorted(keep):
            os.closerange(last + 1, fd)
            last = fd
        os.closerange(last + 1, os.sysconf("SC_OPEN_MAX"))
    if has_owners_objects:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.close(null)


def _block(keep: Sequence[int]) -> bool:
    """Close every inherited descriptor but those of `keep`, and leave its number taken; False where that is refused.

    The owner's files, sockets and pipes are Python objects here too. When one of them is collected it closes its
    number once more: a number that had been given out again would be a pipe of the rank's own by then, and its pool,
    say, would wait for ever. What takes the number's place can be closed, and is refused (EBADF) for all else.
    """
    try:
        taken = {int(name) for name in os.listdir("/proc/self/fd")} - {0, 1, 2, *keep}
        block = os.open("/", os.O_PATH | os.O_CLOEXEC)
    except OSError:  # no /proc, or no descriptor left
        return False
    for fd in taken - {block}:  # the listing's own number is free again, and may be `block`'s
        os.dup2(block, fd, inheritable=False)
    return True


def carry_mark(address: int, run_mark: str) -> None:
    """Write the run's mark over the server's in the memory that /proc/<pid>/environ shows: a fork keeps that block."""
    if address:
        import ctypes  # loaded by process/orphans.py

        ctypes.memmove(address, run_mark.encode(), len(run_mark))
