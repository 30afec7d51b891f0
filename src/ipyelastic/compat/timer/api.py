"""`torch.distributed.elastic.timer.api`: requests, clients, servers, `expires`."""

from __future__ import annotations

import abc
import logging
import threading
import time

from ...timer import countdown as _countdown
from ...timer import watchdog as _watchdog
from ...timer.countdown import TimerClient, TimerRequest, configure, expires, logger
from ...timer.watchdog import RequestQueue, TimerServer
from .._face import face

__all__ = [
    "TimerRequest",
    "TimerClient",
    "RequestQueue",
    "TimerServer",
    "configure",
    "expires",
    "logger",
    "time",
    "abc",
    "logging",
    "threading",
]

face(__name__, {"logger": [_countdown, _watchdog], "time": [_countdown, _watchdog]})
