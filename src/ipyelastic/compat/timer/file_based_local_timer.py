"""`torch.distributed.elastic.timer.file_based_local_timer`: timers over a named pipe."""

from __future__ import annotations

import os
import select
import time

from ...timer import pipe_client as _client
from ...timer import pipe_server as _server
from ...timer.pipe_client import FileTimerClient, FileTimerRequest
from ...timer.pipe_server import FileTimerServer, log_debug_info_for_expired_timers, logger
from .._face import face

__all__ = [
    "FileTimerClient",
    "FileTimerRequest",
    "FileTimerServer",
    "log_debug_info_for_expired_timers",
    "logger",
    "os",
    "select",
    "time",
]

face(
    __name__,
    {
        "log_debug_info_for_expired_timers": [_server],
        "logger": [_server],
        "os": [_client, _server],
        "select": [_client, _server],
        "time": [_client, _server],
    },
)
