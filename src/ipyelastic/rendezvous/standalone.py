"""The rendezvous of a run on one machine: nobody to wait for, no server, only a port to hold.

    choose.py: "standalone" > [here] > held_port, local_store;   agent: MASTER_ADDR and MASTER_PORT of the ranks

Runs in: agent. Ready in well under a millisecond: no address is looked up, nothing listens.
Checked by tests/rendezvous/test_standalone.py.
"""

from __future__ import annotations

from ..terms.errors import RendezvousClosedError, RendezvousConnectionError
from .endpoint import parse_rendezvous_endpoint
from .handler import RendezvousHandler, RendezvousInfo, RendezvousParameters, RendezvousStoreInfo
from .held_port import HeldPort
from .local_store import LocalStore

__all__ = ["LOOPBACK", "StandaloneRendezvous", "create_handler", "hold_port"]

LOOPBACK = "127.0.0.1"


class StandaloneRendezvous(RendezvousHandler):
    """One node, always complete; every attempt gets a table and a port of its own.

    Args:
        run_id: The run's id.
        master_addr: What the ranks connect to.
        master_port: The port they use; 0: any that is free, another one for every attempt.

    The port of an attempt stays held until the next attempt, `shutdown`, or the handler's own end.
    """

    def __init__(self, run_id: str, *, master_addr: str = LOOPBACK, master_port: int = 0) -> None:
        self._run_id, self._master_addr, self._master_port = run_id, master_addr, master_port
        self._held: HeldPort | None = None
        self._is_closed = False

    def get_backend(self) -> str:
        """ "standalone"."""
        return "standalone"

    def next_rendezvous(self) -> RendezvousInfo:
        """Rank 0 of 1, a new table, and a port that is held.

        Raises:
            RendezvousClosedError: After `set_closed` or `shutdown`.
            RendezvousConnectionError: `master_port` cannot be had.
        """
        if self._is_closed:
            raise RendezvousClosedError(f"the rendezvous of run {self._run_id!r} is closed")
        if self._master_port:
            self._release()
        held = hold_port(self._master_port)
        # Released after the new one is had: the system cannot give the same port to two attempts.
        self._release()
        self._held = held
        return RendezvousInfo(LocalStore(), 0, 1, RendezvousStoreInfo(self._master_addr, held.port))

    def is_closed(self) -> bool:
        """Whether it was closed or shut down."""
        return self._is_closed

    def set_closed(self) -> None:
        """No further attempt."""
        self._is_closed = True

    def num_nodes_waiting(self) -> int:
        """0: nobody else can come."""
        return 0

    def get_run_id(self) -> str:
        """The run's id."""
        return self._run_id

    def shutdown(self) -> bool:
        """Give the port back; always True. Idempotent."""
        self._is_closed = True
        self._release()
        return True

    def _release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


def hold_port(port: int) -> HeldPort:
    """A HeldPort; RendezvousConnectionError, which names the port, when it cannot be had."""
    try:
        return HeldPort(port)
    except (OSError, OverflowError) as error:
        which = f"port {port}" if port else "a free port"
        raise RendezvousConnectionError(
            f"{which} of this machine cannot be had for the ranks: {error}; port 0 takes any that is free"
        ) from error


def create_handler(params: RendezvousParameters) -> StandaloneRendezvous:
    """A handler from parameters.

    `endpoint` may be empty (127.0.0.1 and any port), a host, or `host:port`.
    Raises ValueError for an endpoint of another form, and for more than one node.
    """
    if params.min_nodes > 1:
        raise ValueError(
            f"min_nodes={params.min_nodes!r}: the rendezvous backend 'standalone' is for one machine;"
            " several need 'c10d' or 'static', with torch installed"
        )
    if not (params.endpoint or "").strip():
        return StandaloneRendezvous(params.run_id)
    host, port = parse_rendezvous_endpoint(params.endpoint, 0)
    return StandaloneRendezvous(params.run_id, master_addr=LOOPBACK if host == "localhost" else host, master_port=port)
