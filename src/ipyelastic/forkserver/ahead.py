"""What the next run's ranks are told before there is a call: a guess, for as many spares as the last run had ranks.

    a run has ended -> client.tell_ahead -> [here] --circumstances, descriptors--> spares (worker.run_spare)
    the next launch -> client.launch_ahead -> contexts/functions: call and what has changed --> the gate opens

A launch that is like the one before it then sends its call only. What is guessed is the owner's own (environment,
folder, limits, paths, log files), and never anything of a rank. A guess that turns out wrong costs its launch nothing:
the changes go out with the call, and a spare that gets another call forgets the guess.

Runs in: owner.
Other end: worker.run_spare.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..payload.delivery import Delivery
from ..payload.values import channel_pair
from .handover import status_page

if TYPE_CHECKING:
    from ..payload.circumstances import Circumstances
    from .handle import ServerProcess

__all__ = ["Ahead", "guess"]


@dataclass
class Ahead:
    """Ranks of a run that there may be.

    Attributes:
        server: Whose spares they are.
        pids: Theirs, by local rank.
        given: What they were told.
        delivery: Where their call will come from.
        values: The owner's end of the value channel, until `take_values`.
        status: The status page (handover.status_page).
        ends: Their sockets, once they are spares no more.
    """

    server: ServerProcess
    pids: list[int]
    given: Circumstances
    delivery: Delivery
    values: socket.socket | None
    status: int
    ends: list[socket.socket] = field(default_factory=list)

    def take_values(self) -> socket.socket:
        """The owner's end of the value channel, the caller's from now on."""
        assert self.values is not None, "it is taken once"
        values, self.values = self.values, None
        return values

    def close(self) -> None:
        """Give back what is still held. Spares forget what they were told; those whose sockets are here end."""
        self.delivery.close()
        os.close(self.status)
        for end in (*self.ends, *([] if self.values is None else [self.values])):
            end.close()


def guess(server: ServerProcess, given: Circumstances, nprocs: int) -> Ahead:
    """Tell spares of `server`, which has so many. Raises OSError for want of room, or when one has died just now."""
    with contextlib.ExitStack() as stack:
        delivery = Delivery(pickle.dumps(given), nprocs, None)
        stack.callback(delivery.close)
        values, theirs = channel_pair()
        stack.callback(values.close)
        status = status_page(nprocs)
        stack.callback(os.close, status)
        with theirs:
            pids = server.tell_ahead(nprocs, [*delivery.fds, theirs.fileno(), status])
        delivery.forget_readers()
        stack.pop_all()
        return Ahead(server, pids, given, delivery, values, status)
