"""What an agent tells whoever sits before it, beyond its log: that it waits for other agents, that it starts again.

    simple (loop), launcher/launch > [Telling] <- cli/meeting.py prints it;   [Silent]: nobody sits there

Runs in: agent.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol

from ..rendezvous.handler import RendezvousHandler
from ..terms.events import RunRestarted

__all__ = ["Silent", "Telling", "Wait"]

Wait = Literal["reach", "meet", "leave"]
"""For the rendezvous' server; for other agents to come; for them to finish."""


class Telling(Protocol):
    """Hears of waits and of new attempts, in the agent's thread."""

    def waiting(self, what: Wait, handler: RendezvousHandler | None = None) -> AbstractContextManager[object]:
        """Entered before a wait that others end, left after it."""

    def restarting(self, event: RunRestarted) -> None:
        """The workers of one attempt are gone, those of the next are about to start."""


class Silent:
    """Tells nobody."""

    def waiting(self, what: Wait, handler: RendezvousHandler | None = None) -> AbstractContextManager[object]:
        """See Telling."""
        return nullcontext()

    def restarting(self, event: RunRestarted) -> None:
        """See Telling."""
