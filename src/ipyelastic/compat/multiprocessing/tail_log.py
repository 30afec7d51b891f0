"""`torch.distributed.elastic.multiprocessing.tail_log`: copy growing log files to a stream, prefixed."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from ...output import tail_log as _tail_log
from ...output.tail_log import TailLog, logger, tail_logfile
from .._face import face

__all__ = [
    "tail_logfile",
    "TailLog",
    "logger",
    "Event",
    "ThreadPoolExecutor",
    "os",
    "time",
]

face(__name__, {"ThreadPoolExecutor": [_tail_log], "logger": [_tail_log], "tail_logfile": [_tail_log]})
