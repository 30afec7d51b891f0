"""`torch.distributed.elastic.utils.logging`: a logger at the level that LOGLEVEL says."""

from __future__ import annotations

import inspect
import logging
import os

from ...terms import env
from .log_level import get_log_level

__all__ = ["get_logger"]


def get_logger(name: str | None = None) -> logging.Logger:
    """A logger at the level of LOGLEVEL (default WARNING).

    Args:
        name: Its name; None: the calling module's.

    Source: torch 2.13, `torch.distributed.elastic.utils.logging`.
    """
    logger = logging.getLogger(name or _derive_module_name(depth=2))
    logger.setLevel(os.environ.get(env.LOGLEVEL, get_log_level()))
    return logger


def _derive_module_name(depth: int = 1) -> str | None:
    """The module of the frame `depth` calls up; its file's name without suffix when it has no module."""
    try:
        frame = inspect.stack()[depth].frame
        module = inspect.getmodule(frame)
        if module is not None:
            return module.__name__
        return os.path.splitext(os.path.basename(frame.f_code.co_filename))[0]
    except Exception:
        return None
