"""`torch.distributed.elastic.timer.debug_info_logging`: which timers ran out, for the log."""

from __future__ import annotations

from ...timer import pipe_server as _server
from ...timer.pipe_server import log_debug_info_for_expired_timers, logger
from .._face import face

__all__ = ["log_debug_info_for_expired_timers", "logger"]

face(__name__, {"logger": [_server]})
