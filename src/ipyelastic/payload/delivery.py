"""A call that follows its ranks: what they can do without it they do while their owner still packs it.

    owner: Delivery(head) -> fds -> fork server -> ranks: read_head
           deliver(call) --> call file, then a byte for each rank through the gate (a pipe) --> ranks: await_call

What spares were told ahead of their call (forkserver/ahead.py) is a guess; the call brings what has changed since.

Runs in: owner (Delivery), ranks and the fork server (the rest).
Other end: worker.py takes what contexts/functions.py hands over.
"""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .call import PackedCall, load_call
from .shared import blank_file, read_sections, write_sections
from .sources import Sources, install

__all__ = ["HANDOVER", "CallFds", "Delivery", "Load", "await_call", "read_head"]

HANDOVER = struct.Struct("<i?")
"""What a spare is sent, beside descriptors: its local rank, and whether that is said ahead of a call."""

Load = Callable[[], "tuple[Callable[..., Any], dict[int, tuple[Any, ...]]]"]
"""What gives a rank the function and every rank's arguments. It runs user code, and may wait."""


class CallFds(NamedTuple):
    """The descriptors by which a call travels: the circumstances, the call, and the pipe that says it is there."""

    head: int
    call: int
    gate: int

    def close(self) -> None:
        """Close all three."""
        for fd in self:
            os.close(fd)


class Delivery:
    """One call on its way to `nprocs` ranks, from its owner's side.

    Args:
        head: What ranks need before the call.
        nprocs: How many will wait for it.
        folder: Where unlinked files go when the system refuses memory files; None: the temp folder.

    Raises:
        OSError: Neither memory nor the folder has room.
    """

    def __init__(self, head: bytes, nprocs: int, folder: str | None) -> None:
        self._nprocs = nprocs
        gate, self._opener = os.pipe()
        opened = [gate, self._opener]
        try:
            opened.append(write_sections([head], folder))
            opened.append(blank_file(folder))
        except BaseException:
            for fd in opened:
                os.close(fd)
            raise
        self.fds = CallFds(opened[-2], opened[-1], gate)
        """Theirs; closed by `close`."""
        self._held = [gate, opened[-2], opened[-1], self._opener]

    def deliver(self, call: PackedCall, sources: Sources, changes: Mapping[str, Any] | None = None) -> None:
        """Let the ranks go on. Raises OSError when there is no room for the call: nothing has gone out then.

        `changes`: to what they were told ahead (changes.py).
        """
        call.write(self.fds.call, pickle.dumps((sources, changes)))
        left = self._nprocs
        while left:
            left -= os.write(self._opener, bytes(min(left, 1 << 12)))

    def forget_readers(self) -> None:
        """All ranks have their copies of `fds`: keep no more than `deliver` needs."""
        for fd in (self.fds.head, self.fds.gate):
            self._held.remove(fd)
            os.close(fd)

    def close(self) -> None:
        """Give all descriptors back; ranks that still wait end. Idempotent."""
        while self._held:
            os.close(self._held.pop())


def read_head(head_fd: int) -> memoryview:
    """The circumstances, pickled."""
    return read_sections(head_fd)[0]


def await_call(fds: CallFds) -> tuple[Load, Mapping[str, Any] | None]:
    """Wait for the call; returns what loads it, and what has changed since its ranks were told ahead.

    Its descriptors are closed. Raises EOFError when none will come.
    """
    try:
        # A byte and no end of file: a child that the owner forked meanwhile may hold the other end open for ever.
        if not os.read(fds.gate, 1):
            raise EOFError
        head, load = load_call(fds.call)
    finally:
        fds.close()
    sources, changes = pickle.loads(head)
    install(sources)
    return load, changes
