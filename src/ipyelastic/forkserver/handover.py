"""The spares of one server, in their owner's hands: a call goes to them without a detour through the server.

    server --control socket: pid, SCM_RIGHTS--> [take_in] -> hand_over --call's descriptors--> worker.run_spare
                                                          -> tell_ahead --a guess--> worker.run_spare   (ahead.py)

Three processes waking each other one after the other take most of a millisecond longer than two.

Runs in: owner, under the lock of client.ForkServers.
Other end: spares.py makes them, worker.run_spare takes the call.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Sequence

from ..payload.delivery import HANDOVER
from ..process.descriptors import send_with

__all__ = ["Handover", "status_page"]


class Handover:
    """The spares that a server has announced, oldest first.

    Args:
        keep_to_us: Has a socket closed in children that this process forks without exec.
    """

    def __init__(self, keep_to_us: Callable[[socket.socket], None]) -> None:
        self._keep_to_us = keep_to_us
        self._ready: deque[tuple[int, socket.socket]] = deque()

    def take_in(self, pid: int, end_fd: int) -> None:
        """One more was announced."""
        end = socket.socket(fileno=end_fd)
        self._keep_to_us(end)
        self._ready.append((pid, end))

    def hand_over(self, nprocs: int, fds: Sequence[int]) -> list[int]:
        """Make ranks of as many as there are, from local rank 0 on; returns their pids, at most `nprocs`.

        `fds`: the call's (CallFds), ranks' end of the value channel, status page, and descriptors 1 and 2 to be.
        """
        pids: list[int] = []
        while self._ready and len(pids) < nprocs:
            pid, end = self._ready.popleft()
            with end, contextlib.suppress(OSError):  # it has died meanwhile
                send_with(end, HANDOVER.pack(len(pids), False), fds)
                pids.append(pid)
        return pids

    def count(self) -> int:
        """How many live."""
        self._forget_dead()
        return len(self._ready)

    def tell_ahead(self, nprocs: int, fds: Sequence[int]) -> list[int]:
        """Tell the oldest `nprocs` what their call will probably bring; returns their pids, by the local rank that each
        is to be. Raises OSError: one has died just now.

        `fds`: as `hand_over` takes them. A spare that was told is one like any other for `hand_over`.
        """
        told = list(itertools.islice(self._ready, nprocs))
        for local_rank, (_, end) in enumerate(told):
            send_with(end, HANDOVER.pack(local_rank, True), fds, socket.MSG_DONTWAIT)
        return [pid for pid, _ in told]

    def are_there(self, pids: Sequence[int]) -> bool:
        """Whether they still wait here, alive, and before all others."""
        self._forget_dead()
        return [pid for pid, _ in itertools.islice(self._ready, len(pids))] == list(pids)

    def take(self, count: int) -> list[socket.socket]:
        """The sockets of the oldest so many, which are no spares from now on; the caller's to close."""
        return [self._ready.popleft()[1] for _ in range(count)]

    def dismiss(self, count: int) -> list[int]:
        """Let go of all but `count`; returns the pids of those that the server is to end."""
        if len(self._ready) > count:
            self._forget_dead()
        gone = []
        while len(self._ready) > count:
            pid, end = self._ready.pop()
            end.close()
            gone.append(pid)
        return gone

    def _forget_dead(self) -> None:
        """The server has others in their place by now."""
        poller = select.poll()
        for _, end in self._ready:
            poller.register(end, 0)  # only whether the other end is closed
        dead = {fd for fd, _ in poller.poll(0)}
        for _, end in [one for one in self._ready if one[1].fileno() in dead]:
            end.close()
        self._ready = deque(one for one in self._ready if one[1].fileno() >= 0)


def status_page(nprocs: int) -> int:
    """One byte per rank, written by the rank when its word is out: tells an exit with a value from one without.

    Returns the descriptor, the caller's. Raises OSError.
    """
    try:
        fd = os.memfd_create("ipyelastic-status", os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, max(nprocs, 1))
    return fd
