"""`torch.distributed.elastic.timer.local_timer`: timers over a multiprocessing queue."""

from __future__ import annotations

import os
import signal
import time
from queue import Empty

from ...timer import local as _local
from ...timer.countdown import TimerClient, TimerRequest
from ...timer.local import LocalTimerClient, LocalTimerServer, MultiprocessingRequestQueue, logger
from ...timer.watchdog import RequestQueue, TimerServer
from .._face import face

__all__ = [
    "LocalTimerClient",
    "MultiprocessingRequestQueue",
    "LocalTimerServer",
    "logger",
    "os",
    "time",
    "Empty",
    "RequestQueue",
    "TimerClient",
    "TimerRequest",
    "TimerServer",
    "signal",
]

face(__name__, {"logger": [_local], "os": [_local], "signal": [_local], "time": [_local]})
