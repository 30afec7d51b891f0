"""`torch.distributed.elastic.timer.local_timer`: timers over a multiprocessing queue."""

from __future__ import annotations

import os
import time

from ...timer import local as _local
from ...timer.local import LocalTimerClient, LocalTimerServer, MultiprocessingRequestQueue, logger
from .._face import face

__all__ = ["LocalTimerClient", "MultiprocessingRequestQueue", "LocalTimerServer", "logger", "os", "time"]

face(__name__, {"logger": [_local], "os": [_local], "time": [_local]})
