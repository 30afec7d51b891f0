"""Descriptors sent beside a message through a socket; what `socket.send_fds` and `recv_fds` do, with flags.

Runs in: owner, fork server, ranks. Python 3.11's own take flags and leave them out: what was received is inherited by
every program that is started, and a call that must not wait does.
Source: unix(7), SCM_RIGHTS.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Sequence

from .signals import NO_SIGPIPE

__all__ = ["receive_with", "send_with"]

_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


def send_with(end: socket.socket, data: bytes, fds: Sequence[int], flags: int = 0) -> None:
    """Send a message and copies of descriptors; raises what `socket.sendmsg` raises."""
    end.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))], flags | NO_SIGPIPE)


def receive_with(end: socket.socket, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """One message of at most `size` bytes and at most `most` descriptors, which are close-on-exec and the caller's.

    Empty when the other end is closed; raises what `socket.recvmsg` raises.
    """
    fds = array.array("i")
    data, beside, _, _ = end.recvmsg(size, socket.CMSG_LEN(most * fds.itemsize), flags | _CLOSE_ON_EXEC)
    for level, kind, payload in beside:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)
