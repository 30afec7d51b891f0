"""`torch.distributed.elastic.rendezvous.api`: the handler's interface, its parameters, registry and errors."""

from __future__ import annotations

import socket

from ...rendezvous import choose as _choose
from ...rendezvous import handler as _handler
from ...rendezvous.choose import rendezvous_handler_registry
from ...rendezvous.handler import (
    RendezvousHandler,
    RendezvousHandlerCreator,
    RendezvousHandlerRegistry,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    Store,
)
from ...rendezvous.handler import _free_port as get_free_port
from ...terms.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousStateError,
    RendezvousTimeoutError,
)
from .._face import face

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
    "Store",
    "get_free_port",
    "rendezvous_handler_registry",
    "socket",
]

face(
    __name__,
    {
        "RendezvousInfo": [_handler],
        "RendezvousStoreInfo": [_handler],
        "get_free_port": [(_handler, "_free_port")],
        "rendezvous_handler_registry": [_choose],
        "socket": [_handler],
    },
)
