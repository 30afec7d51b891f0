"""`torch.distributed.elastic.timer.file_based_local_timer`: timers over a named pipe."""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import time

from ...timer import pipe_client as _client
from ...timer import pipe_server as _server
from ...timer.countdown import TimerClient, TimerRequest
from ...timer.pipe_client import FileTimerClient, FileTimerRequest
from ...timer.pipe_server import FileTimerServer, log_debug_info_for_expired_timers, logger
from .._face import face
from ..utils.logging import get_logger

__all__ = [
    "FileTimerClient",
    "FileTimerRequest",
    "FileTimerServer",
    "log_debug_info_for_expired_timers",
    "logger",
    "os",
    "select",
    "time",
    "TimerClient",
    "TimerRequest",
    "get_logger",
    "json",
    "signal",
    "threading",
]

face(
    __name__,
    {
        "json": [_client],
        "log_debug_info_for_expired_timers": [_server],
        "logger": [_server],
        "os": [_client, _server],
        "select": [_client, _server],
        "threading": [_server],
        "time": [_client, _server],
    },
)
