"""`torch.distributed.elastic.utils.log_level`."""

from __future__ import annotations

__all__ = ["get_log_level"]


def get_log_level() -> str:
    """The level of loggers whose level LOGLEVEL does not say: "WARNING".

    Source: torch 2.13, `torch.distributed.elastic.utils.log_level`.
    """
    return "WARNING"
