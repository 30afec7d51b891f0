"""`torch.distributed.elastic.rendezvous`: agents agree on who takes part.

`dynamic_rendezvous`, `c10d_rendezvous_backend` and the `etcd_*` modules are torch's own, handed on at use.
What differs on purpose, and from what torch 2.13 does:

    where                         torch                              here
    backend "standalone"          none                               one machine: no server, a port that is held
    "static" with one node        its agent hosts a TCPStore         no server, no torch; the port is held for rank 0
    "static", rank                taken as it is                     a number among the nodes, or ValueError
    "c10d", a node joins later    finds no MASTER_ADDR, gives up     the master is agreed on anew with every round
    "c10d", MASTER_PORT           the first round's, always          another one for every round
    errors of "c10d", "etcd*"     torch's classes                    ours of the same name, torch's as their cause
    etcd without python-etcd      EtcdStubError                      ImportError that says what to install
    plug-ins                      loaded at import                   loaded when a name is asked for that is not ours
    plug-in without a creator     fails at use                       warns
    a host's own addresses        what its name resolves to          those of its network interfaces
    RendezvousError               derives from Exception             derives from IpyelasticError
"""

from __future__ import annotations

from . import api, dynamic_rendezvous, registry, utils
from .api import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousHandler,
    RendezvousHandlerCreator,
    RendezvousHandlerRegistry,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStateError,
    RendezvousStoreInfo,
    RendezvousTimeoutError,
    rendezvous_handler_registry,
)
from .registry import _register_default_handlers, _register_out_of_tree_handlers

__all__ = [
    "RendezvousClosedError",
    "RendezvousConnectionError",
    "RendezvousError",
    "RendezvousGracefulExitError",
    "RendezvousHandler",
    "RendezvousHandlerCreator",
    "RendezvousHandlerRegistry",
    "RendezvousInfo",
    "RendezvousParameters",
    "RendezvousStateError",
    "RendezvousStoreInfo",
    "RendezvousTimeoutError",
    "api",
    "dynamic_rendezvous",
    "registry",
    "rendezvous_handler_registry",
    "utils",
    "_register_default_handlers",
    "_register_out_of_tree_handlers",
]
