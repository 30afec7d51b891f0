"""The timers that run, by worker and name, and the workers they belong to.

Runs in: the process of a timer server, one thread at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from .countdown import TimerRequest

if TYPE_CHECKING:
    import psutil

__all__ = ["Timers", "Workers"]

R = TypeVar("R", bound=TimerRequest)


class Timers(dict[tuple[Any, str], R]):
    """`{(worker id, scope): request}`."""

    def take(self, requests: Iterable[R]) -> None:
        """Start and release what is asked for, in this order."""
        for request in requests:
            key = (request.worker_id, request.scope_id)
            if request.expiration_time < 0:
                self.pop(key, None)
            else:
                self[key] = request

    def drop(self, worker_ids: Iterable[Any]) -> None:
        """Forget all timers of these workers."""
        dropped = set(worker_ids)
        for key in list(self):
            if key[0] in dropped:
                self.pop(key, None)

    def expired(self, deadline: float) -> dict[Any, list[R]]:
        """Timers that have run out at `deadline`, that instant included, by worker."""
        found: dict[Any, list[R]] = {}
        for (worker_id, _), request in list(self.items()):
            if request.expiration_time <= deadline:
                found.setdefault(worker_id, []).append(request)
        return found

    def seconds_to_next(self, now: float, at_most: float) -> float:
        """How long nothing runs out. What has run out already is looked at again after `at_most`, not at once."""
        ahead = [left for request in list(self.values()) if (left := request.expiration_time - now) > 0]
        return min([*ahead, at_most])


class Workers:
    """Which process a pid was when it asked for its first timer: a pid that came to another is left alone."""

    def __init__(self) -> None:
        self._seen: dict[int, psutil.Process | None] = {}

    def note(self, pid: int) -> None:
        """`pid` asked for a timer just now."""
        import psutil  # a worker's end of this room does without

        seen = self._seen.get(pid)
        if seen is None or not seen.is_running():
            try:
                self._seen[pid] = psutil.Process(pid)
            except (psutil.Error, ValueError):  # gone already, or no pid
                self._seen[pid] = None

    def is_gone(self, pid: int) -> bool:
        """Whether the process that asked has ended, even if its parent does not know yet or another has its pid."""
        import psutil

        if pid not in self._seen:
            return not is_running(pid)
        seen = self._seen[pid]
        try:
            return seen is None or not seen.is_running() or seen.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def forget(self, pid: int) -> None:
        """Its timers are gone."""
        self._seen.pop(pid, None)


def is_running(pid: int) -> bool:
    """Whether there is a process with this pid; one of another user counts."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
