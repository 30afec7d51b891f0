"""What a rendezvous is: agents agree on who takes part, and each gets its rank, the world's size and a store.

    launcher: RendezvousParameters > choose.py > [RendezvousHandler].next_rendezvous() -> RendezvousInfo > agent

Runs in: agent, launcher. Imports nothing heavy: the handlers live in the files beside this one.
Source: torch 2.13 (SEEDS section 15); outcomes compared with torch's in tests/rendezvous/test_handler.py.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, Protocol

from ..terms import env
from .held_port import HeldPort

__all__ = [
    "RendezvousHandler",
    "RendezvousHandlerCreator",
    "RendezvousHandlerRegistry",
    "RendezvousInfo",
    "RendezvousParameters",
    "RendezvousStoreInfo",
    "Store",
]


class Store(Protocol):
    """The table that agents share: what of torch's Store an agent uses. `local_store.LocalStore` is one.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """

    def set(self, key: str, value: str) -> None:
        """Set the value of `key`. Values are bytes; a text `value` is encoded as UTF-8."""

    def get(self, key: str) -> bytes:
        """The value of `key`; waits until it is set."""

    def add(self, key: str, amount: int, /) -> int:
        """Add `amount` to the counter `key`, which begins at 0; its new value."""

    def wait(self, keys: list[str], timeout: timedelta = ..., /) -> None:
        """Wait until all `keys` are set; the store's own timeout error when they are not in time.

        Args:
            keys: Their names.
            timeout: A timedelta; by default the store's own.
        """

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """The values of `keys`; waits until all are set."""

    def multi_set(self, keys: list[str], values: list[str]) -> None:
        """Set several keys: `values` in the order of `keys`."""


@dataclass
class RendezvousStoreInfo:
    """Where the workers' own store is: MASTER_ADDR and MASTER_PORT of a run.

    Attributes:
        master_addr: Host name or address of the machine of rank 0.
        master_port: TCP port on it.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """

    MASTER_ADDR_KEY: ClassVar[str] = env.MASTER_ADDR
    MASTER_PORT_KEY: ClassVar[str] = env.MASTER_PORT
    master_addr: str
    master_port: int

    @staticmethod
    def build(rank: int, store: Store, local_addr: str | None, server_port: int | None = None) -> RendezvousStoreInfo:
        """Agree on the master through the agents' store: rank 0 publishes it, every agent reads it.

        Args:
            rank: Of this agent.
            store: Shared by all agents of the rendezvous.
            local_addr: This machine's address; None or empty: its fully qualified name, which other machines can
                look up (without a network the look-up can take seconds).
            server_port: A port on which something of rank 0 listens already; None: one that is free now. Nothing
                holds that port until a worker listens: who can, passes the port of a `HeldPort`.
        """
        if rank == 0:
            address = local_addr or socket.getfqdn()
            store.set(RendezvousStoreInfo.MASTER_ADDR_KEY, address)
            store.set(RendezvousStoreInfo.MASTER_PORT_KEY, str(server_port or _free_port()))
        address = store.get(RendezvousStoreInfo.MASTER_ADDR_KEY).decode("utf-8")
        port = int(store.get(RendezvousStoreInfo.MASTER_PORT_KEY).decode("utf-8"))
        return RendezvousStoreInfo(address, port)


def _free_port() -> int:
    """A TCP port of this machine that is free now; nothing holds it. In `compat`: `get_free_port`.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """
    held = HeldPort()
    held.close()
    return held.port


class RendezvousInfo:
    """What a rendezvous came to, for this agent. Read-only.

    Args:
        store, rank, world_size, bootstrap_store_info: See the properties of these names.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """

    def __init__(self, store: Store, rank: int, world_size: int, bootstrap_store_info: RendezvousStoreInfo) -> None:
        self._store, self._rank, self._world_size = store, rank, world_size
        self._bootstrap_store_info = bootstrap_store_info

    @property
    def store(self) -> Store:
        """The agents' table."""
        return self._store

    @property
    def rank(self) -> int:
        """This agent's rank among the agents (GROUP_RANK of its workers), 0 .. world_size-1."""
        return self._rank

    @property
    def world_size(self) -> int:
        """How many agents take part."""
        return self._world_size

    @property
    def bootstrap_store_info(self) -> RendezvousStoreInfo:
        """Where the workers meet; an agent whose spec names a master overrides it."""
        return self._bootstrap_store_info


class RendezvousHandler(ABC):
    """How agents find each other. Plug-ins derive from it (entry points of group `torchrun.handlers`).

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """

    @abstractmethod
    def get_backend(self) -> str:
        """The name that the handler is registered under."""

    @property
    def use_agent_store(self) -> bool:
        """Whether workers use a store at MASTER_ADDR:MASTER_PORT that an agent hosts, not rank 0 itself."""
        return False

    @abstractmethod
    def next_rendezvous(self) -> RendezvousInfo:
        """Wait until enough agents are there; called for every attempt.

        Raises:
            RendezvousClosedError: The rendezvous is closed.
            RendezvousTimeoutError: It did not complete in time.
            RendezvousConnectionError: Its backend cannot be reached.
            RendezvousStateError: Its state is damaged.
            RendezvousGracefulExitError: This node is not needed any more.
        """

    @abstractmethod
    def is_closed(self) -> bool:
        """Whether nobody can join any more. Cheap and possibly late."""

    @abstractmethod
    def set_closed(self) -> None:
        """Close it for everybody."""

    @abstractmethod
    def num_nodes_waiting(self) -> int:
        """How many nodes came after it was complete: more than 0 makes the agents meet again."""

    @abstractmethod
    def get_run_id(self) -> str:
        """The run's id, the same on every node."""

    @abstractmethod
    def shutdown(self) -> bool:
        """Give everything back; False when that did not work."""


_TRUE = ("1", "true", "t", "yes", "y")
_FALSE = ("0", "false", "f", "no", "n")


class RendezvousParameters:
    """What a handler is made from.

    Args:
        backend: Name of the rendezvous ("standalone", "static", "c10d", ...).
        endpoint: `host[:port]` of its backend; empty where there is none.
        run_id: The run's id, the same on every node.
        min_nodes: How many nodes there must be, at least 1.
        max_nodes: How many there may be, at least `min_nodes`.
        local_addr: This machine's address as others see it; None: found out.
        **kwargs: The backend's own options.

    Raises:
        ValueError: No backend's name, or node numbers out of order.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """

    def __init__(
        self,
        backend: str,
        endpoint: str,
        run_id: str,
        min_nodes: int,
        max_nodes: int,
        local_addr: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not backend:
            raise ValueError(f"backend={backend!r}: the rendezvous backend name must be a non-empty string")
        if min_nodes < 1:
            raise ValueError(f"min_nodes={min_nodes!r}: expected a number greater than 0")
        if max_nodes < min_nodes:
            raise ValueError(f"max_nodes={max_nodes!r}: expected min_nodes ({min_nodes!r}) or more")
        self.backend, self.endpoint, self.run_id = backend, endpoint, run_id
        self.min_nodes, self.max_nodes, self.local_addr = min_nodes, max_nodes, local_addr
        self.config: dict[str, Any] = kwargs

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items() if name != "config")
        # Options of a plug-in may be secret: names only.
        return f"RendezvousParameters({fields}, options: {sorted(self.config)})"

    def get(self, key: str, default: Any = None) -> Any:
        """The backend's option `key`; `default` when it is not there."""
        return self.config.get(key, default)

    def get_as_bool(self, key: str, default: bool | None = None) -> bool | None:
        """The option `key` as a bool; `default` when it is None or not there.

        Taken are bools, 0, 1, and in any case "1", "true", "t", "yes", "y", "0", "false", "f", "no", "n".
        Raises ValueError for anything else.
        """
        value = self.get(key, default)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int) and value in (0, 1):
            return bool(value)
        if isinstance(value, str) and value.lower() in _TRUE + _FALSE:
            return value.lower() in _TRUE
        raise ValueError(
            f"the rendezvous configuration option {key!r} does not represent a valid boolean value: {value!r};"
            f" expected one of {', '.join(_TRUE + _FALSE)}"
        )

    def get_as_int(self, key: str, default: int | None = None) -> int | None:
        """The option `key` as an int; `default` when it is None or not there.

        Raises ValueError for text that is no number, TypeError for what `int` does not take.
        """
        value = self.get(key, default)
        if value is None:
            return None
        try:
            return int(value)
        except ValueError as error:
            raise ValueError(
                f"the rendezvous configuration option {key!r} does not represent a valid integer value: {value!r}"
            ) from error


RendezvousHandlerCreator = Callable[[RendezvousParameters], RendezvousHandler]


class RendezvousHandlerRegistry:
    """Handlers by name.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/rendezvous.html.
    """

    def __init__(self) -> None:
        self._registry: dict[str, RendezvousHandlerCreator] = {}

    def register(self, backend: str, creator: RendezvousHandlerCreator) -> None:
        """Make `creator` known as `backend`; the same one again changes nothing.

        Raises ValueError for no name, or one that another creator has.
        """
        if not backend:
            raise ValueError(f"backend={backend!r}: the rendezvous backend name must be a non-empty string")
        known = self._registry.get(backend)
        if known is not None and known != creator:
            raise ValueError(
                f"the rendezvous backend {backend!r} cannot be registered with {creator!r}:"
                f" it is already registered with {known!r}"
            )
        self._registry[backend] = creator

    def create_handler(self, params: RendezvousParameters) -> RendezvousHandler:
        """A handler for `params.backend`.

        Raises:
            ValueError: No such backend.
            RuntimeError: The handler that was made has another backend's name.
        """
        try:
            creator = self._registry[params.backend]
        except KeyError as error:
            known = ", ".join(sorted(self._registry)) or "none"
            raise ValueError(
                f"the rendezvous backend {params.backend!r} is not registered; there are: {known}."
                " Did you forget to call `register`?"
            ) from error
        handler = creator(params)
        if handler.get_backend() != params.backend:
            raise RuntimeError(
                f"the rendezvous backend {handler.get_backend()!r} does not match the requested backend"
                f" {params.backend!r}"
            )
        return handler
