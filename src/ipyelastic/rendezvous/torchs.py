"""Torch's own rendezvous behind our interface: its handlers, its store, and its errors as ours.

    choose.py: "c10d", "etcd", "etcd-v2" > [here] > torch.distributed.elastic.rendezvous > a network store
    static.py, several nodes > [tcp_store]

Runs in: agent. Torch is imported at use, never at import.
Of torch's, not ours: its dynamic rendezvous (c10d, etcd-v2) keeps its state in the network store as a *pickle*, and
unpickles what it finds there. Whoever can write to that store can run code in every agent: use these backends on a
network that you trust only (SEEDS section 18, 21). One machine needs none of them: "standalone" opens no store.
Checked by tests/rendezvous/test_torchs.py.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from ..terms import errors
from .handler import RendezvousHandler, RendezvousInfo, RendezvousParameters, RendezvousStoreInfo, Store

__all__ = [
    "TorchRendezvous",
    "as_ours",
    "create_handler",
    "is_store_error",
    "tcp_store",
    "torchs_module",
    "translated_errors",
]

_API = "torch.distributed.elastic.rendezvous.api"
_OF_ETCD = ("etcd", "etcd-v2")
_STORE_ERRORS = ("DistNetworkError", "DistStoreError")
_OURS = {
    name: getattr(errors, name)
    for name in (
        "RendezvousClosedError",
        "RendezvousTimeoutError",
        "RendezvousConnectionError",
        "RendezvousStateError",
        "RendezvousGracefulExitError",
        "RendezvousError",
    )
}


class TorchRendezvous(RendezvousHandler):
    """A handler of torch's, with our RendezvousInfo and our errors. Attributes of torch's can be read through it."""

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def __getattr__(self, name: str) -> Any:
        if name == "_handler":  # not yet set: a copy being made
            raise AttributeError(name)
        return getattr(self._handler, name)

    def get_backend(self) -> str:
        """Torch's name of it."""
        return str(self._handler.get_backend())

    @property
    def use_agent_store(self) -> bool:
        """Whether workers use a store that an agent hosts."""
        return bool(self._handler.use_agent_store)

    def next_rendezvous(self) -> RendezvousInfo:
        """Torch's, which waits for the other nodes; raises our errors, torch's as their cause."""
        # Torch 2.13's dynamic handler says where the master is in its first round only: a node that joins a later one
        # asks a table in which nobody wrote it, and gives up. Forgotten, it is agreed on anew with every round.
        if getattr(self._handler, "_bootstrap_store_info", None) is not None:
            self._handler._bootstrap_store_info = None
        with translated_errors():
            found = self._handler.next_rendezvous()
        master = found.bootstrap_store_info
        return RendezvousInfo(
            found.store, found.rank, found.world_size, RendezvousStoreInfo(master.master_addr, master.master_port)
        )

    def is_closed(self) -> bool:
        """Whether nobody can join any more."""
        with translated_errors():
            return bool(self._handler.is_closed())

    def set_closed(self) -> None:
        """Close it for everybody."""
        with translated_errors():
            self._handler.set_closed()

    def num_nodes_waiting(self) -> int:
        """How many nodes came after it was complete."""
        with translated_errors():
            return int(self._handler.num_nodes_waiting())

    def nodes_here(self) -> int | None:
        """How many nodes have come to the round that goes on, as last heard; None: this handler does not tell."""
        holder = getattr(self._handler, "_state_holder", None)  # torch 2.13's dynamic handler keeps it there
        came = getattr(getattr(holder, "state", None), "participants", None)
        return len(came) if came is not None else None

    def get_run_id(self) -> str:
        """The run's id."""
        return str(self._handler.get_run_id())

    def shutdown(self) -> bool:
        """Leave and close it; False when that did not work."""
        with translated_errors():
            return bool(self._handler.shutdown())


def create_handler(params: RendezvousParameters) -> RendezvousHandler:
    """Torch's handler for `params.backend`.

    Raises:
        ImportError: Torch, or for etcd python-etcd, is not installed; the text says what to install.
        ValueError: Torch does not take the parameters.
        RendezvousError: Its backend cannot be reached, or another of the family.
    """
    what = f"the rendezvous backend {params.backend!r}"
    registry = torchs_module("torch.distributed.elastic.rendezvous.registry", what)
    if params.backend in _OF_ETCD and importlib.util.find_spec("etcd") is None:
        raise ImportError(f"{what} needs python-etcd and an etcd server: pip install python-etcd", name="etcd")
    theirs = sys.modules[_API].RendezvousParameters(
        params.backend,
        params.endpoint,
        params.run_id,
        params.min_nodes,
        params.max_nodes,
        params.local_addr,
        **params.config,
    )
    with translated_errors():
        return TorchRendezvous(registry.get_rendezvous_handler(theirs))


def as_ours(handler: Any) -> RendezvousHandler:
    """`handler` itself, or behind our interface when it is one of torch's: what a plug-in for torch makes."""
    api = sys.modules.get(_API)  # not imported: no handler can be torch's
    if api is not None and isinstance(handler, api.RendezvousHandler):
        return TorchRendezvous(handler)
    return handler  # type: ignore[no-any-return]


@contextmanager
def translated_errors() -> Iterator[None]:
    """Torch's rendezvous errors leave it as ours, of the same name and text, with torch's as their cause."""
    try:
        yield
    except Exception as error:
        for kind in type(error).__mro__:
            if kind.__module__ == _API and kind.__name__ in _OURS:
                raise _OURS[kind.__name__](*error.args) from error
        raise


def tcp_store(host: str, port: int, run_id: str, is_master: bool, timeout_s: float) -> Store:
    """Torch's TCPStore at `host:port`, keys prefixed with `run_id`; the master's process hosts it.

    Raises:
        ImportError: Torch is not installed.
        RendezvousConnectionError: It cannot be hosted, or not reached within `timeout_s` seconds.
    """
    torchs = torchs_module("torch.distributed", "a static rendezvous of several nodes")
    try:
        store = torchs.TCPStore(
            host, port, is_master=is_master, timeout=timedelta(seconds=timeout_s), multi_tenant=True
        )
    except RuntimeError as error:  # torch's DistError family
        doing = "hosted" if is_master else "reached"
        raise errors.RendezvousConnectionError(
            f"the store of run {run_id!r} at {host}:{port} cannot be {doing}: {str(error).splitlines()[0]}"
        ) from error
    prefixed: Store = torchs.PrefixStore(run_id, store)
    return prefixed


def is_store_error(error: BaseException) -> bool:
    """Whether the agents' common store could not be reached, or answered no more."""
    return isinstance(error, errors.RendezvousConnectionError) or any(
        kind.__module__.startswith("torch") and kind.__name__ in _STORE_ERRORS for kind in type(error).__mro__
    )


def torchs_module(name: str, what: str) -> Any:
    """The module `name` of torch's; ImportError, which says that `what` needs torch, when torch is not installed."""
    if name in sys.modules:
        return sys.modules[name]
    if importlib.util.find_spec("torch") is None:
        raise ImportError(f"{what} needs torch, which is not installed: pip install torch", name="torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says at its own import is nothing of the user's doing
        return importlib.import_module(name)
