"""What a person who started one of several machines reads: who is missing, why ranks start again, what was lost.

    agent, launcher > agent/telling.Telling <- [here] > endings.say

Runs in: owner (a shell's process), main thread; a wait that lasts is told by a timer's thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..agent.telling import Wait
from ..launcher.config import LaunchConfig
from ..rendezvous.handler import RendezvousHandler
from ..rendezvous.torchs import is_store_error
from ..terms.errors import RendezvousClosedError, RendezvousTimeoutError, first_line
from ..terms.events import RunRestarted
from ..view.text import restart_words
from .endings import say

__all__ = ["Meeting"]

_PATIENCE_S = 2.0  # machines that are started together have met by then


class Meeting:
    """One machine's part in a job, told in single lines. See agent/telling.Telling."""

    def __init__(self, config: LaunchConfig) -> None:
        self._config = config
        self._has_met = False

    @contextmanager
    def waiting(self, what: Wait, handler: RendezvousHandler | None = None) -> Iterator[None]:
        """Say what is waited for once it has taken a while."""
        timer = threading.Timer(_PATIENCE_S, lambda: say(self._wait_words(what, handler)))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
        self._has_met = self._has_met or what == "meet"

    def restarting(self, event: RunRestarted) -> None:
        """Say why, and which attempt begins."""
        say(f"{restart_words(event)} (attempt {event.attempt + 1} of {self._config.max_restarts + 1})")

    def words_of(self, error: BaseException) -> str:
        """What kept the machines from meeting, or from going on together, as one sentence."""
        config, where = self._config, self._config.rdzv_endpoint
        if isinstance(error, RendezvousTimeoutError):
            return (
                f"too few machines came to {where} in time: {config.min_nodes} are needed"
                " (--rdzv-conf join_timeout=SECONDS says how long to wait)"
            )
        if isinstance(error, RendezvousClosedError):
            return f"the job {config.run_id!r} at {where} is over: nobody can join it any more"
        if not is_store_error(error):
            return first_line(error)
        if self._has_met:
            return f"the job's meeting point {where} is gone: its machine has ended or cannot be reached any more"
        if _is_port_taken(error):
            return f"no meeting point at {where}: this port is in use"
        return f"no answer from {where}: is the job started there, and can this machine reach it?"

    def _wait_words(self, what: Wait, handler: RendezvousHandler | None) -> str:
        config, where = self._config, self._config.rdzv_endpoint
        if what == "reach":
            return f"waiting for an answer from {where}"
        if what == "leave":
            left_s = config.exit_barrier_timeout or 0.0
            return f"this machine's ranks have finished; waiting up to {left_s:g} s for the other machines"
        count = getattr(handler, "nodes_here", lambda: None)()
        if count is None:
            return f"waiting for the other machines at {where} ({config.min_nodes} take part)"
        if count < config.min_nodes:
            missing = config.min_nodes - count
            more = f"{missing} more machine{'' if missing == 1 else 's'}"
            return f"waiting for {more} at {where} ({count} of {config.min_nodes} here)"
        if count < config.max_nodes:
            return (
                f"{count} machines are here, enough to start; waiting a while for up to {config.max_nodes}, at {where}"
            )
        return f"all {config.max_nodes} places are taken; waiting for one at {where}"


def _is_port_taken(error: BaseException | None) -> bool:
    """torch's store knows an error's number only as a word of its text."""
    while error is not None:
        if "EADDRINUSE" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
