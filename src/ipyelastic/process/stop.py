"""End processes by pid: one, a group, or whatever carries a mark; or let one go on that was stopped.

Runs in: fork server (a run's end), owner (when the server itself died). Never by name, never a process not ours.
"""

from __future__ import annotations

import contextlib
import os
import signal

from .orphans import pids_marked

__all__ = ["send", "go_on", "kill_group", "kill_marked"]


def send(pid: int, signum: int) -> bool:
    """Send a signal; False when the process is gone (or, after a change of user, out of our reach)."""
    try:
        os.kill(pid, signum)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def go_on(pidfd: int) -> None:
    """Let a process go on that somebody has stopped (SIGSTOP) and that is to answer now; nothing for any other."""
    if pidfd >= 0:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)


def kill_group(group_id: int) -> bool:
    """SIGKILL a process group; False when nobody is in it."""
    try:
        os.killpg(group_id, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill_marked(entry: bytes, rounds: int = 10) -> int:
    """SIGKILL whatever was started with `entry` in its environment, again until a look finds nothing new."""
    killed: set[int] = set()
    for _ in range(rounds):
        found = set(pids_marked(entry))
        if not found:
            break
        for pid in found:
            send(pid, signal.SIGKILL)
        killed |= found
    return len(killed)
