"""Ranks forked ahead: each has left the server's session, signals, descriptors and exit handlers, and waits for a call.

    server, idle -> add -> fork -> worker.run_spare (waits)
    a launch -> group.start -> hand_over --socket pair, SCM_RIGHTS--> worker.run_spare goes on as a rank

A spare serves one call, as any rank does, so nothing of one run can meet the next; what a call brings (environment,
folder, limits, paths, streams, mark, random numbers) it takes over when the call comes. It costs 1 to 2 MiB of its own.
One that dies while it waits is replaced, and nobody is told; one that was handed a call is a rank, and its end is told.

Runs in: fork server.
Other end: worker.run_spare.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Sequence

from .. import worker
from ..process.stop import send
from .fork import fork_into

__all__ = ["Spares"]

_MOST_DEATHS = 64
"""Between two launches; more have a reason that another fork would not mend."""


class Spares:
    """The ranks that wait, oldest first.

    Args:
        mark_address: See worker.carry_mark.
    """

    def __init__(self, mark_address: int) -> None:
        self._mark_address = mark_address
        self._wanted = 0
        self._deaths = 0
        self._waiting: dict[int, socket.socket] = {}

    def __contains__(self, pid: int) -> bool:
        return pid in self._waiting

    def want(self, count: int) -> None:
        """Keep so many from now on; those that are too many go."""
        self._wanted, self._deaths = count, 0
        while len(self._waiting) > count:
            self._dismiss(*self._waiting.popitem())

    @property
    def is_short(self) -> bool:
        """Whether `add` should be called."""
        return len(self._waiting) < self._wanted and self._deaths < _MOST_DEATHS

    def add(self) -> None:
        """Fork one more. A fork that the system refuses is tried again after the next launch only."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        server = os.getpid()
        try:
            pid = fork_into(lambda: worker.run_spare(there.fileno(), server, self._mark_address))
        except OSError:  # the next launch forks by itself, and says it
            here.close()
            self._deaths = _MOST_DEATHS
        else:
            self._waiting[pid] = here
        finally:
            there.close()

    def hand_over(self, local_rank: int, fds: Sequence[int]) -> int:
        """Make the next one the rank `local_rank` and return its pid; 0 when there is none.

        `fds`: the call's (CallFds), ranks' end of the value channel, status page, and descriptors 1 and 2 to be.
        """
        message = struct.pack(worker.HANDOVER, local_rank)
        while self._waiting:
            pid = next(iter(self._waiting))
            with self._waiting.pop(pid) as end:
                try:
                    socket.send_fds(end, [message], list(fds))
                    return pid
                except OSError:
                    continue  # it died, and has not been reaped yet
        return 0

    def buried(self, pid: int) -> bool:
        """Whether the process that was reaped was one of them."""
        end = self._waiting.pop(pid, None)
        if end is None:
            return False
        end.close()
        self._deaths += 1
        return True

    def end(self) -> None:
        """No launch will come any more."""
        self.want(0)

    def _dismiss(self, pid: int, end: socket.socket) -> None:
        end.close()
        send(pid, signal.SIGKILL)
