"""`torch.distributed.elastic.utils.data.elastic_distributed_sampler`: torch's own class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....rendezvous.torchs import torchs_module

if TYPE_CHECKING:
    ElasticDistributedSampler = Any

__all__ = ["ElasticDistributedSampler"]


def __getattr__(name: str) -> Any:
    if name == "ElasticDistributedSampler":
        return getattr(torchs_module("torch.distributed.elastic.utils.data.elastic_distributed_sampler", name), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
