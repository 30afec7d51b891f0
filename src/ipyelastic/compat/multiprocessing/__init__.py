"""`torch.distributed.elastic.multiprocessing`: start functions or programs as local workers and wait for them."""

from __future__ import annotations

from ...contexts import start as _start
from ...contexts.start import start_processes
from ...devices.numa import NumaOptions
from .._face import face
from ..utils.logging import get_logger
from . import api as api
from . import errors as errors
from . import redirects as redirects
from . import subprocess_handler as subprocess_handler
from . import tail_log as tail_log
from .api import (
    DefaultLogsSpecs,
    LogsDest,
    LogsSpecs,
    MultiprocessContext,
    PContext,
    ProcessFailure,
    RunProcsResult,
    SignalException,
    Std,
    SubprocessContext,
    _validate_full_rank,
    to_map,
)

__all__ = [
    "start_processes",
    "MultiprocessContext",
    "PContext",
    "ProcessFailure",
    "RunProcsResult",
    "SignalException",
    "Std",
    "LogsDest",
    "LogsSpecs",
    "DefaultLogsSpecs",
    "SubprocessContext",
    "to_map",
    "_validate_full_rank",
    "NumaOptions",
    "get_logger",
]

face(
    __name__,
    {
        "MultiprocessContext": [_start],
        "SubprocessContext": [_start],
        "_validate_full_rank": [(_start, "validate_full_rank")],
    },
)
