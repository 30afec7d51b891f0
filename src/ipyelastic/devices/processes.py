"""All processes of this machine at one moment: who belongs to whom, and what each has used so far.

    /proc, or psutil where there is none -> [here] -> usage.py

Runs in: owner, the sampling thread.
Source: proc_pid_stat(5) for the fields of `/proc/<pid>/stat`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import NamedTuple

import psutil

__all__ = ["ProcessUse", "children_of", "cpu_between", "look", "tree"]


class ProcessUse(NamedTuple):
    """One process. Times in seconds of CPU; `started_s` on a clock of its own, good for comparison only."""

    parent: int
    session: int
    started_s: float
    cpu_s: float
    children_cpu_s: float
    """Of children that ended and were waited for, theirs included."""
    rss_bytes: int


def look() -> dict[int, ProcessUse]:
    """Every process that can be read, by pid. About 12 us each on Linux; those that vanish meanwhile are left out."""
    return _from_proc() if sys.platform == "linux" else _from_psutil()


def tree(root: int, uses: dict[int, ProcessUse], children: dict[int, list[int]]) -> list[int]:
    """The pids of a rank: itself first, all below it, and all of its session, which orphans stay in.

    Args:
        root: The rank's pid.
        uses: What `look` gave.
        children: `{pid: its children}`, made of the same.
    """
    if root not in uses:
        return []
    found = dict.fromkeys([root])
    if uses[root].session == root:  # else it shares somebody's session: the kernel's, say
        found.update((pid, None) for pid, use in uses.items() if use.session == root)
    queue = list(found)
    for pid in queue:
        for child in children.get(pid, ()):
            if child not in found:
                found[child] = None
                queue.append(child)
    return list(found)


def _from_proc() -> dict[int, ProcessUse]:
    tick_s, page_bytes = 1 / os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb", buffering=0) as file:
                fields = file.read().rpartition(b")")[2].split()  # a command's name may hold anything
            found[int(entry)] = ProcessUse(
                parent=int(fields[1]),
                session=int(fields[3]),
                started_s=int(fields[19]) * tick_s,
                cpu_s=(int(fields[11]) + int(fields[12])) * tick_s,
                children_cpu_s=(int(fields[13]) + int(fields[14])) * tick_s,
                rss_bytes=int(fields[21]) * page_bytes,
            )
        except (OSError, IndexError, ValueError):  # it ended between the listing and here
            continue
    return found


def _from_psutil() -> dict[int, ProcessUse]:
    found = {}
    wanted = ["pid", "ppid", "create_time", "cpu_times", "memory_info"]
    for process in psutil.process_iter(wanted):
        info = process.info
        if info["cpu_times"] is None or info["memory_info"] is None:  # somebody else's
            continue
        times = info["cpu_times"]
        found[info["pid"]] = ProcessUse(
            parent=info["ppid"] or 0,
            session=-1,
            started_s=info["create_time"],
            cpu_s=times.user + times.system,
            children_cpu_s=getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0),
            rss_bytes=info["memory_info"].rss,
        )
    return found


def children_of(uses: dict[int, ProcessUse]) -> dict[int, list[int]]:
    """`{pid: its children}`."""
    found: dict[int, list[int]] = {}
    for pid, use in uses.items():
        found.setdefault(use.parent, []).append(pid)
    return found


def cpu_between(pids: Iterable[int], before: dict[int, ProcessUse], now: dict[int, ProcessUse]) -> float:
    """Seconds of CPU that a rank's processes used between two looks.

    Args:
        pids: The rank's processes, those of the earlier look included.
        before: The rank's processes at the earlier look.
        now: Those now.

    What a child used until it ended is found with the parent that waited for it; what was counted of it before is
    taken off there. A child that nobody of the rank waits for loses what it used since the look before its end.
    """
    gone = {pid for pid in pids if pid in before and not _is_same(before[pid], now.get(pid))}
    counted: dict[int, float] = {}  # by the nearest ancestor still there: what was counted of those that are gone
    for pid in gone:
        heir = before[pid].parent
        while heir in gone:
            heir = before[heir].parent
        counted[heir] = counted.get(heir, 0.0) + before[pid].cpu_s + before[pid].children_cpu_s
    total = 0.0
    for pid in pids:
        use = now.get(pid)
        if use is None:
            continue
        if pid not in before or pid in gone:  # it began since then
            total += use.cpu_s + use.children_cpu_s
            continue
        old = before[pid]
        total += use.cpu_s - old.cpu_s
        total += max(0.0, use.children_cpu_s - old.children_cpu_s - counted.get(pid, 0.0))
    return total


def _is_same(one: ProcessUse, other: ProcessUse | None) -> bool:
    return other is not None and one.started_s == other.started_s
