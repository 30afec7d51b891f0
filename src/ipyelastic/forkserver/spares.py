"""Ranks forked ahead: each has left the server's session, signals, descriptors and exit handlers, and waits for a call.

    server, idle -> add -> fork -> worker.run_spare (waits) --its pid and a socket--> owner (handover.py)
    owner --call, SCM_RIGHTS--> worker.run_spare goes on as a rank;   owner --run, pids--> group.start -> adopt

A spare serves one call, as any rank does, so nothing of one run can meet the next. What its owner guesses of the call
(ahead.py: environment, limits, paths, streams) it takes over ahead; the folder, the mark, random numbers, and whatever
has changed, when the call comes. It costs 4 to 6 MB of its own.
One that dies while it waits is replaced, and nobody is told; one that was handed a call is a rank, and its end is told,
even if it comes before the owner's word that it is one. Only the owner dismisses spares: it may be handing over a call
at any moment.

Runs in: fork server.
Other end: worker.run_spare, handover.py.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterable

from .. import worker
from ..process.stop import send
from .fork import fork_into

__all__ = ["Spares"]

_MOST_DEATHS = 64
"""Between two launches; more have a reason that another fork would not mend."""


class Spares:
    """The ranks that wait.

    Args:
        mark_address: See worker.carry_mark.
        announce: Gives the owner a new one's pid and its end of the socket; False: there is none any more.
    """

    def __init__(self, mark_address: int, announce: Callable[[int, socket.socket], bool]) -> None:
        self._mark_address, self._announce = mark_address, announce
        self._wanted = self._deaths = 0
        self._waiting: set[int] = set()
        self._ended: dict[int, int] = {}  # pid -> status: the owner may have made ranks of them, and not yet said so

    def __contains__(self, pid: int) -> bool:
        return pid in self._waiting

    def want(self, count: int) -> None:
        """Keep so many from now on."""
        self._wanted, self._deaths = count, 0

    def dismiss(self, pids: Iterable[int]) -> None:
        """End those; the owner will not use them."""
        for pid in pids:
            if pid in self._waiting:
                self._waiting.discard(pid)
                send(pid, signal.SIGKILL)

    @property
    def is_short(self) -> bool:
        """Whether `add` should be called."""
        return len(self._waiting) < self._wanted and self._deaths < _MOST_DEATHS

    def add(self) -> None:
        """Fork one more. A fork that the system refuses is tried again after the next launch only."""
        server = os.getpid()
        try:
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            self._wanted = 0
            return
        with here, there:
            try:
                pid = fork_into(lambda: worker.run_spare(there.fileno(), server, self._mark_address))
            except OSError:  # the next launch forks by itself, and says it
                self._wanted = 0
                return
            self._waiting.add(pid)
            self._ended.pop(pid, None)  # another process had this number
            if not self._announce(pid, here):
                self.want(0)
                self.dismiss([pid])

    def adopt(self, pid: int) -> int | None:
        """It was handed a call and is a rank now. Returns None, or its status when it has ended already."""
        self._waiting.discard(pid)
        return self._ended.pop(pid, None)

    def buried(self, pid: int, status: int) -> bool:
        """Whether the process that was reaped was one of them."""
        if pid not in self._waiting:
            return False
        self._waiting.discard(pid)
        self._deaths += 1
        self._ended[pid] = status
        if len(self._ended) > _MOST_DEATHS:
            del self._ended[next(iter(self._ended))]
        return True

    def end(self) -> None:
        """No launch will come any more."""
        self.want(0)
        self.dismiss(list(self._waiting))
