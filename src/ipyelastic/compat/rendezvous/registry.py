"""`torch.distributed.elastic.rendezvous.registry`: handlers by name."""

from __future__ import annotations

from ...rendezvous import choose as _choose
from ...rendezvous.choose import (
    _create_c10d_handler,
    _create_etcd_handler,
    _create_etcd_v2_handler,
    _create_static_handler,
    _register_default_handlers,
    _register_out_of_tree_handlers,
    entry_points,
    get_rendezvous_handler,
    log,
)
from ...rendezvous.choose import rendezvous_handler_registry as handler_registry
from ...rendezvous.handler import RendezvousHandler, RendezvousParameters
from .._face import face

__all__ = [
    "RendezvousHandler",
    "RendezvousParameters",
    "_create_c10d_handler",
    "_create_etcd_handler",
    "_create_etcd_v2_handler",
    "_create_static_handler",
    "_register_default_handlers",
    "_register_out_of_tree_handlers",
    "entry_points",
    "get_rendezvous_handler",
    "handler_registry",
    "log",
]

face(
    __name__,
    {
        "_create_c10d_handler": [_choose],
        "_create_etcd_handler": [_choose],
        "_create_etcd_v2_handler": [_choose],
        "_create_static_handler": [_choose],
        "_register_default_handlers": [_choose],
        "_register_out_of_tree_handlers": [_choose],
        "entry_points": [_choose],
        "get_rendezvous_handler": [_choose],
        "handler_registry": [(_choose, "rendezvous_handler_registry")],
        "log": [_choose],
    },
)
