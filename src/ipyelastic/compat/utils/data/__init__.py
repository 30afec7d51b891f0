"""`torch.distributed.elastic.utils.data`: epochs one after another, and torch's elastic sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import cycling_iterator, elastic_distributed_sampler
from .cycling_iterator import CyclingIterator

if TYPE_CHECKING:
    from .elastic_distributed_sampler import ElasticDistributedSampler

__all__ = ["CyclingIterator", "ElasticDistributedSampler", "cycling_iterator", "elastic_distributed_sampler"]


def __getattr__(name: str) -> Any:
    if name == "ElasticDistributedSampler":
        return getattr(elastic_distributed_sampler, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
