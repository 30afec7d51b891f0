"""Where a health check server would be: torch's open build has none, and so have we; the face is for plug-ins.

    LocalElasticAgent (TORCHELASTIC_HEALTH_CHECK_PORT) -> create_healthcheck_server -> start ... stop

Runs in: agent. Listens nowhere: nothing of ours opens a port (DESIGN section 1, rule 10).
Source: torch 2.13 for names and texts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

__all__ = ["HealthCheckServer", "create_healthcheck_server"]

log = logging.getLogger("ipyelastic")


class HealthCheckServer:
    """Does nothing; derive one that listens.

    Args:
        alive_callback: When the agent last got on, in seconds since 1970. For the server to call, from any thread.
        port: To listen on.
        timeout: Seconds after which an agent that has not got on counts as dead.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/agent.html.
    """

    _alive_callback: Callable[[], int]
    _port: int
    _timeout: int

    def __init__(self, alive_callback: Callable[[], int], port: int, timeout: int) -> None:
        self._alive_callback = alive_callback
        self._port = port
        self._timeout = timeout

    @property
    def alive_callback(self) -> Callable[[], int]:
        """When the agent last got on."""
        return self._alive_callback

    def start(self) -> None:
        """Begin to answer. Here: says that nothing does."""
        log.warning("No health check server started")

    def stop(self) -> None:
        """End it; called at every shutdown, before a restart too."""
        log.info("Stopping noop health check server.")


def create_healthcheck_server(alive_callback: Callable[[], int], port: int, timeout: int) -> HealthCheckServer:
    """The server of an agent, not started; replace this function to have one of your own.

    Args:
        alive_callback, port, timeout: See HealthCheckServer.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/agent.html.
    """
    return HealthCheckServer(alive_callback, port, timeout)
