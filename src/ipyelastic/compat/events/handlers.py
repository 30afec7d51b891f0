"""`torch.distributed.elastic.events.handlers`: where events go, by the destination's name."""

from __future__ import annotations

import logging

from ...telemetry import events as _events
from ...telemetry.events import _log_handlers, get_logging_handler
from .._face import face

__all__ = [
    "get_logging_handler",
    "_log_handlers",
    "logging",
]

face(__name__, {"_log_handlers": [_events], "get_logging_handler": [_events]})
