"""`torch.distributed.elastic.timer`: a worker that does not finish a block in time is ended."""

from __future__ import annotations

from . import api, debug_info_logging, file_based_local_timer, local_timer
from .api import TimerClient, TimerRequest, TimerServer, configure, expires
from .file_based_local_timer import FileTimerClient, FileTimerRequest, FileTimerServer
from .local_timer import LocalTimerClient, LocalTimerServer

__all__ = [
    "FileTimerClient",
    "FileTimerRequest",
    "FileTimerServer",
    "LocalTimerClient",
    "LocalTimerServer",
    "TimerClient",
    "TimerRequest",
    "TimerServer",
    "configure",
    "expires",
    "api",
    "debug_info_logging",
    "file_based_local_timer",
    "local_timer",
]
