"""`torch.distributed.elastic.events.api`: the events themselves."""

from __future__ import annotations

import json

from ...telemetry.events import Event, EventMetadataValue, EventSource, NodeState, RdzvEvent

__all__ = [
    "EventSource",
    "Event",
    "NodeState",
    "RdzvEvent",
    "EventMetadataValue",
    "json",
]
