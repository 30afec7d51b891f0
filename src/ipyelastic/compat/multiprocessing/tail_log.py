"""`torch.distributed.elastic.multiprocessing.tail_log`: copy growing log files to a stream, prefixed."""

from __future__ import annotations

from ...output import tail_log as _tail_log
from ...output.tail_log import TailLog, logger, tail_logfile
from .._face import face

__all__ = ["tail_logfile", "TailLog", "logger"]

face(__name__, {"logger": [_tail_log], "tail_logfile": [_tail_log]})
