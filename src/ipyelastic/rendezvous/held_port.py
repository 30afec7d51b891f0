"""MASTER_PORT on one machine, without a server: a port that nobody else gets between choosing and listening.

    agent: HeldPort() -> MASTER_PORT in every rank's environment -> rank 0 binds the same port and listens

Runs in: agent, one per attempt.
The socket is bound but never listens, with SO_REUSEADDR: the system gives the port to no one who asks for any port,
and lets rank 0 (torch's TCPStore, JAX's coordinator: both set SO_REUSEADDR) bind it.
Checked by tests/rendezvous/test_held_port.py.
"""

from __future__ import annotations

import socket
import weakref

__all__ = ["HeldPort"]


class HeldPort:
    """A TCP port of this machine, IPv4 and IPv6, held until `close` or its last reference. 0: any that is free.

    Raises OSError (EADDRINUSE, EACCES) for a port that cannot be had, OverflowError for a number that is no port.
    """

    def __init__(self, port: int = 0) -> None:
        held = _bound(port)
        self.port: int = held.getsockname()[1]
        self._end = weakref.finalize(self, held.close)

    def close(self) -> None:
        """Give the port back. Idempotent."""
        self._end()


def _bound(port: int) -> socket.socket:
    try:
        # Both families: torch listens on both, and a stranger on [::1] alone would be in its way.
        return _bind(socket.AF_INET6, "::", port)
    except OSError as error:
        if socket.has_ipv6 and _has_ipv6():
            raise error from None
    return _bind(socket.AF_INET, "", port)


def _bind(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((address, port))
    except BaseException:
        made.close()
        raise
    return made


def _has_ipv6() -> bool:
    """Whether a port of IPv6 can be had at all: it is compiled in but switched off on many machines."""
    try:
        _bind(socket.AF_INET6, "::", 0).close()
    except OSError:
        return False
    return True
