"""`torch.distributed.elastic.utils.store`: what agents do with their common store."""

from __future__ import annotations

from ...agent import barrier as _barrier
from ...agent.barrier import barrier, get_all, store_timeout, synchronize
from .._face import face

__all__ = ["barrier", "get_all", "store_timeout", "synchronize"]

face(
    __name__,
    {
        "barrier": [_barrier],
        "get_all": [_barrier],
        "store_timeout": [_barrier],
        "synchronize": [_barrier],
    },
)
