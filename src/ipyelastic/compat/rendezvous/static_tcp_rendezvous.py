"""`torch.distributed.elastic.rendezvous.static_tcp_rendezvous`: members known beforehand."""

from __future__ import annotations

from ...rendezvous import static as _static
from ...rendezvous.endpoint import parse_rendezvous_endpoint
from ...rendezvous.handler import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    Store,
)
from ...rendezvous.static import (
    StaticTCPRendezvous,
    _default_timeout_seconds,
    create_rdzv_handler,
)
from .._face import face

__all__ = [
    "StaticTCPRendezvous",
    "_default_timeout_seconds",
    "create_rdzv_handler",
    "parse_rendezvous_endpoint",
    "RendezvousHandler",
    "RendezvousInfo",
    "RendezvousParameters",
    "RendezvousStoreInfo",
    "Store",
]

face(
    __name__,
    {
        "RendezvousInfo": [_static],
        "RendezvousStoreInfo": [_static],
        "StaticTCPRendezvous": [_static],
        "_default_timeout_seconds": [_static],
        "create_rdzv_handler": [_static],
        "parse_rendezvous_endpoint": [_static],
    },
)
