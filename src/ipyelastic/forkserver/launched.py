"""One run as its fork server holds it, from its owner's side.

    contexts/functions > [here] <-- run channel <-- group.py

Runs in: owner; the thread that waits for the run reads here.
Other end: group.py.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any, Protocol

from ..process.signals import NO_SIGPIPE
from ..process.stop import go_on, kill_marked
from ..terms import env
from .handle import close_in_children

__all__ = ["Launched"]

_MAX_MESSAGE = 1 << 16


class Holder(Protocol):
    """The process that holds a run's ranks: a fork server, or the keeper of a forked run."""

    pidfd: int
    runs: set[str]

    @property
    def is_alive(self) -> bool: ...

    def death(self) -> str: ...

    def trim(self) -> None: ...


class Launched:
    """One run as its fork server holds it. One thread at a time may `receive`; any may ask for a stop.

    `filenos()` become readable when there is something to receive.
    """

    def __init__(self, server: Holder, channel: socket.socket, run_mark: str) -> None:
        self._server, self._channel, self.run_mark = server, channel, run_mark
        channel.setblocking(False)
        close_in_children(channel)
        server.runs.add(run_mark)
        self._is_closed = False
        self.is_ended = False

    def filenos(self) -> list[int]:
        """Descriptors to poll for reading."""
        return [fd for fd in (self._channel.fileno(), self._server.pidfd) if fd >= 0]

    def receive(self) -> list[dict[str, Any]]:
        """Reports since the last call, never blocking. The last one is `ended`, or `server-died` with `error`."""
        reports: list[dict[str, Any]] = []
        is_last_look = False
        while not self.is_ended:
            try:
                data = self._channel.recv(_MAX_MESSAGE)
            except BlockingIOError:
                if self._server.is_alive:
                    break
                if not is_last_look:  # it may have reported between our look and its end
                    is_last_look = True
                    continue
                data = b""
            except ConnectionResetError:
                # The server closed its end before reading our last request; what it had reported is still to be read.
                continue
            except OSError:
                data = b""
            if not data:
                reports.append(self._after_server_death())
                break
            report = json.loads(data)
            reports.append(report)
            self.is_ended = report["ev"] == "ended"
        return reports

    def _after_server_death(self) -> dict[str, Any]:
        # Its ranks died with it (PDEATHSIG); what they had started carries the run's mark and is ours to end.
        self.is_ended = True
        said = self._server.death()
        killed = kill_marked(f"{env.RUN_MARK}={self.run_mark}".encode())
        return {"ev": "server-died", "error": said, "killed": killed, "time_ns": time.monotonic_ns()}

    def ask(self, op: str, **fields: Any) -> None:
        """Send `stop`, `kill` or `signal` (see group.Group.request); nothing happens once the run has ended."""
        with contextlib.suppress(OSError):
            self._channel.send(json.dumps({"op": op, **fields}).encode(), NO_SIGPIPE)
        go_on(self._server.pidfd)  # a server that was stopped would never read it

    def close(self) -> None:
        """Give back what the run cost here; ranks still alive are killed. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        if not self.is_ended:
            self.ask("close")
        self._channel.close()
        self._server.runs.discard(self.run_mark)
        self._server.trim()
