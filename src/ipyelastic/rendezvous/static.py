"""The rendezvous whose members are known beforehand: each node is told its rank and where rank 0 is.

    choose.py: "static" > [here] > one node: held_port, local_store;   several: torchs.tcp_store

Runs in: agent. One node needs neither torch nor a server; several share torch's TCPStore, hosted by rank 0's agent.
Source: torch 2.13 (SEEDS section 15). Checked by tests/rendezvous/test_static.py.
"""

from __future__ import annotations

from datetime import timedelta

from .endpoint import parse_rendezvous_endpoint
from .handler import RendezvousHandler, RendezvousInfo, RendezvousParameters, RendezvousStoreInfo, Store
from .held_port import HeldPort
from .local_store import LocalStore
from .standalone import hold_port
from .torchs import tcp_store, torchs_module

__all__ = ["StaticTCPRendezvous", "create_rdzv_handler"]

_default_timeout_seconds = 600


class StaticTCPRendezvous(RendezvousHandler):
    """Members known beforehand; never closed, nobody waits.

    Args:
        master_addr: The machine of rank 0, as all nodes reach it.
        master_port: Of several nodes: where the agent of rank 0 hosts the store that agents and workers use. Of one:
            what rank 0 of the workers listens on, held until then; 0: any that is free.
        rank: This node's, 0 .. world_size-1.
        world_size: How many nodes.
        run_id: The run's id, the prefix of all keys.
        timeout: In seconds, for reaching the store and for waits in it.

    Raises:
        ValueError: `rank` is not one of `world_size`.
        ImportError: Several nodes without torch.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """

    def __init__(
        self, master_addr: str, master_port: int, rank: int, world_size: int, run_id: str, timeout: int
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank!r}: expected 0 .. {world_size - 1} of {world_size} nodes")
        self.master_addr, self.master_port = master_addr, master_port
        self.rank, self.world_size, self.run_id = rank, world_size, run_id
        self.timeout = timedelta(seconds=timeout)
        self._store: Store | None = None
        self._held: HeldPort | None = None
        if world_size > 1:
            torchs_module("torch.distributed", "a static rendezvous of several nodes")

    def get_backend(self) -> str:
        """ "static"."""
        return "static"

    @property
    def use_agent_store(self) -> bool:
        """True for several nodes, as torch's always is. One node's agent hosts no store: its rank 0 does."""
        return self.world_size > 1

    def next_rendezvous(self) -> RendezvousInfo:
        """The ranks as given; the store of several nodes is made once and stays.

        Raises:
            RendezvousConnectionError: The port cannot be had, or the store not be reached in time.
        """
        if self.world_size > 1:
            store, port = self._shared_store(), self.master_port
        else:
            self._release()
            self._held = hold_port(self.master_port)
            store, port = LocalStore(self.timeout), self._held.port
        return RendezvousInfo(store, self.rank, self.world_size, RendezvousStoreInfo(self.master_addr, port))

    def _shared_store(self) -> Store:
        if self._store is None:
            self._store = tcp_store(
                self.master_addr, self.master_port, self.run_id, self.rank == 0, self.timeout.total_seconds()
            )
        return self._store

    def is_closed(self) -> bool:
        """False: its members are known, and none may be refused."""
        return False

    def set_closed(self) -> None:
        """Nothing: others may still come to meet."""

    def num_nodes_waiting(self) -> int:
        """0: nobody comes later."""
        return 0

    def get_run_id(self) -> str:
        """The run's id."""
        return self.run_id

    def shutdown(self) -> bool:
        """Give a held port back; True. A store that is hosted lives as long as the handler: others may still read."""
        self._release()
        return True

    def _release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


def create_rdzv_handler(params: RendezvousParameters) -> StaticTCPRendezvous:
    """A handler from parameters.

    Args:
        params: With `endpoint` as `host:port`, options `rank` and `timeout` (seconds, default 600).

    Raises:
        ValueError: No rank, endpoint or port, or one that cannot be taken.
        ImportError: Several nodes without torch.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """
    rank = params.get_as_int("rank")
    if rank is None:
        raise ValueError("rank is absent in RendezvousParameters; try --node-rank")
    endpoint = (params.endpoint or "").strip()
    if not endpoint:
        raise ValueError("endpoint is absent in RendezvousParameters; try --master-addr and --master-port")
    host, port = parse_rendezvous_endpoint(endpoint, -1)
    if port == -1:
        raise ValueError(f"port is absent in endpoint {endpoint!r}; try --master-port")
    timeout = params.get_as_int("timeout", _default_timeout_seconds)
    assert timeout is not None
    return StaticTCPRendezvous(host, port, rank, params.max_nodes, params.run_id, timeout)
