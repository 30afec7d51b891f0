"""What a process has: children, threads, descriptors. Compared before and after a test; and strays of any owner."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ipyelastic.forkserver.handle import NO_RUN

__all__ = ["Census", "marked_processes", "run_processes", "is_running"]


@dataclass(frozen=True)
class Census:
    """One count."""

    children: frozenset[int]
    threads: frozenset[str]
    fds: frozenset[str]

    @classmethod
    def take(cls, with_fds: bool = True) -> Census:
        """Count now."""
        return cls(
            frozenset(_children(os.getpid())),
            frozenset(thread.name for thread in threading.enumerate() if thread.is_alive()),
            frozenset(_fds() if with_fds else ()),
        )

    @classmethod
    def take_until(cls, is_right: Callable[[Census], bool], within_s: float, with_fds: bool = True) -> None:
        """Count again until it is right or time is up."""
        deadline = time.monotonic() + within_s
        while not is_right(cls.take(with_fds)) and time.monotonic() < deadline:
            threading.Event().wait(0.01)

    def more_than(self, before: Census) -> str:
        """What there is now and was not before, in words; empty for nothing."""
        words = []
        for pid in self.children - before.children:
            words.append(f"child {pid} {_command(pid)}")
        for name in self.threads - before.threads:
            words.append(f"thread {name}")
        for fd in self.fds - before.fds:
            words.append(f"descriptor {fd}")
        return "; ".join(words)


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        listed = [int(child) for child in file.read().split()]
    return [child for child in listed if "resource_tracker" not in _command(child)]


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode("utf-8", "replace")[:200]
    except OSError:
        return ""


def _fds() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(f"{fd} -> {os.readlink(f'/proc/self/fd/{fd}')}")
        except OSError:
            continue
    return [entry for entry in found if "/proc/" not in entry]


def marked_processes(owner_mark: str) -> list[int]:
    """Live processes of an owner: its fork servers, its ranks, and what those started."""
    needle = f"IPYELASTIC_RUN_MARK={owner_mark}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/environ", "rb") as file:
                    if needle in file.read() and is_running(int(entry)):
                        found.append(int(entry))
            except OSError:
                continue
    return found


def run_processes(owner_mark: str) -> list[int]:
    """Live processes of an owner's runs: its ranks, and what those started. Not its fork servers and their spares."""
    return sorted(set(marked_processes(owner_mark)) - set(marked_processes(f"{owner_mark}-{NO_RUN}")))


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False
