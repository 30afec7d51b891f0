"""What a process is doing, as the kernel sees it; and how long it has hung in the kernel.

    /proc/<pid>/stat -> read_proc_state -> UninterruptibleWatch.look -> agent: these workers are stuck

Runs in: agent. Linux; elsewhere no state is known, and nothing is ever stuck.
Source: torch 2.13 for the two functions' names and answers; proc_pid_stat(5) for the states.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .orphans import _stat_fields

__all__ = ["read_proc_state", "is_uninterruptible_state", "Stuck", "UninterruptibleWatch", "uninterruptible_since"]


def read_proc_state(pid: int) -> str | None:
    """The state's letter (`R` runs, `S` sleeps, `D` hangs in the kernel, `Z` has ended, ...), of the main thread.

    Args:
        pid: Of the process.

    Returns:
        The letter; None when it cannot be read: not Linux, the process is gone, or it is not ours to see.

    Source: torch 2.13 for the name, proc_pid_stat(5) for the states.
    """
    try:
        return _stat_fields(pid)[0].decode("ascii")
    except (OSError, IndexError, UnicodeDecodeError):
        return None


def is_uninterruptible_state(state: str | None) -> bool:
    """Whether this is the sleep that no signal ends, SIGKILL included: a dead disk or network share, a stuck driver.

    Args:
        state: A letter as `read_proc_state` gives it; None: not known, so no.

    Source: torch 2.13 for the name, proc_pid_stat(5) for the states.
    """
    return state is not None and state.startswith("D")


def uninterruptible_since(since: Mapping[int, float], states: Mapping[int, str | None], now: float) -> dict[int, float]:
    """From when on each process that hangs now has been seen to hang, without a look between that saw otherwise.

    Args:
        since: What this function said at the look before; empty at the first.
        states: `{pid: state}` of all processes looked at, at `now`.
        now: Seconds of a monotonic clock.
    """
    return {pid: since.get(pid, now) for pid, state in states.items() if is_uninterruptible_state(state)}


@dataclass(frozen=True)
class Stuck:
    """A process that has hung for too long: its pid, and for how many seconds at least."""

    pid: int
    seconds: float


class UninterruptibleWatch:
    """Names processes that are seen in the uninterruptible state at every look for longer than a limit.

    Args:
        timeout_s: The limit in seconds; 0 or below: never.

    Raises ValueError for a limit that is no number.

    Runs in: agent, in the thread that calls `look`.
    """

    def __init__(self, timeout_s: float) -> None:
        if timeout_s != timeout_s:
            raise ValueError(f"timeout_s={timeout_s!r}: expected seconds, 0 for never")
        self.timeout_s = timeout_s
        self._since: dict[int, float] = {}

    def look(self, pids: Iterable[int], now: float | None = None) -> list[Stuck]:
        """Look at these processes (one that is left out begins anew); those over the limit, in the order of `pids`.

        `now` is `time.monotonic()` by default.
        """
        if self.timeout_s <= 0:
            return []
        now = time.monotonic() if now is None else now
        self._since = uninterruptible_since(self._since, {pid: read_proc_state(pid) for pid in pids}, now)
        return [Stuck(pid, now - began) for pid, began in self._since.items() if now - began >= self.timeout_s]
