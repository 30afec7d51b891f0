"""Who belongs to whom: parents that take their children along, children that lost their parent, marks that stay.

    prctl in the fork server and in ranks;  /proc read by the fork server and, when that died, by its client

Runs in: fork server, ranks, owner. Linux; elsewhere each function says that it found nothing or did nothing.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterator

__all__ = [
    "become_subreaper",
    "die_with_parent",
    "children_of",
    "pids_marked",
    "session_of",
    "environment_has",
    "is_zombie_or_gone",
]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@functools.cache
def libc() -> ctypes.CDLL:
    """The C library of this process; loaded before the first fork, used in every rank."""
    return ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> bool:
    """Make this process the parent of all orphans below it. Returns whether the system took it."""
    return sys.platform == "linux" and bool(libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def die_with_parent(parent_pid: int, signum: int) -> None:
    """Ask for `signum` when the parent *thread* ends; exit at once if it already has.

    The flag survives exec but no fork, and follows the thread that forked: call it only in children of a thread that
    lives as long as they should.
    """
    if sys.platform != "linux":
        return
    libc().prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died between our fork and the line above
        os._exit(1)


def _stat_fields(pid: int) -> list[bytes]:
    """Fields of /proc/<pid>/stat from the state on; the command's name before it may hold anything."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def is_zombie_or_gone(pid: int) -> bool:
    """Whether nothing of that process runs any more."""
    try:
        return _stat_fields(pid)[0] in (b"Z", b"X")
    except OSError:
        return True


def session_of(pid: int) -> int:
    """The session id of a process, 0 when it is gone."""
    try:
        return int(_stat_fields(pid)[3])
    except OSError:
        return 0


def _all_pids() -> Iterator[int]:
    try:
        entries = os.listdir("/proc")
    except OSError:
        return
    for entry in entries:
        if entry.isdigit():
            yield int(entry)


def children_of(pid: int) -> list[int]:
    """The direct children of a process, zombies included, adopted ones too."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        pass
    found = []  # a kernel without CONFIG_PROC_CHILDREN
    for other in _all_pids():
        try:
            if int(_stat_fields(other)[1]) == pid:
                found.append(other)
        except OSError:
            continue
    return found


def environment_has(pid: int, entry: bytes) -> bool:
    """Whether a process was started with this text (`NAME=VALUE`, or the beginning of it) in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return (b"\0" + file.read()).find(b"\0" + entry) >= 0
    except OSError:
        return False


def pids_marked(entry: bytes) -> list[int]:
    """Processes of this user whose environment holds `entry` (see `environment_has`), this one left out."""
    me, uid = os.getpid(), os.getuid()
    found = []
    for pid in _all_pids():
        try:
            if pid == me or os.stat(f"/proc/{pid}").st_uid != uid:
                continue
        except OSError:
            continue
        if environment_has(pid, entry) and not is_zombie_or_gone(pid):
            found.append(pid)
    return found
