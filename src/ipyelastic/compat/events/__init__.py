"""`torch.distributed.elastic.events`: what an agent tells whoever watches it."""

from __future__ import annotations

import logging
import os
import socket
import traceback

from ...telemetry import events as _events
from ...telemetry.events import (
    Event,
    EventMetadataValue,
    EventSource,
    NodeState,
    RdzvEvent,
    _events_loggers,
    _get_or_create_logger,
    construct_and_record_rdzv_event,
    get_logging_handler,
    record,
    record_rdzv_event,
)
from .._face import face
from . import api, handlers

__all__ = [
    "Event",
    "EventMetadataValue",
    "EventSource",
    "NodeState",
    "RdzvEvent",
    "construct_and_record_rdzv_event",
    "get_logging_handler",
    "record",
    "record_rdzv_event",
    "api",
    "handlers",
    "_events_loggers",
    "_get_or_create_logger",
    "logging",
    "os",
    "socket",
    "traceback",
]

face(
    __name__,
    {
        "_events_loggers": [_events],
        "_get_or_create_logger": [_events],
        "construct_and_record_rdzv_event": [_events],
        "get_logging_handler": [_events],
        "logging": [_events],
        "os": [_events],
        "record": [_events],
        "record_rdzv_event": [_events],
        "socket": [_events],
        "traceback": [_events],
    },
)
