"""MASTER_PORT on one machine, without a server: a port that nobody else gets between choosing and listening.

    agent: HeldPort() -> MASTER_PORT in every rank's environment -> rank 0 binds the same port and listens

Runs in: agent, one per attempt.
The socket is bound but never listens, with SO_REUSEADDR: the system gives the port to no one who asks for any port,
and lets rank 0 (torch's TCPStore, JAX's coordinator: both set SO_REUSEADDR) bind it.
Checked by tests/rendezvous/test_held_port.py.
"""

from __future__ import annotations

import socket

__all__ = ["HeldPort"]


class HeldPort:
    """A TCP port of this machine, held until `close`. 0: any that is free.

    Raises OSError (EADDRINUSE, EACCES) for a port that cannot be had.
    """

    def __init__(self, port: int = 0) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(("", port))
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give the port back. Idempotent."""
        self._socket.close()
