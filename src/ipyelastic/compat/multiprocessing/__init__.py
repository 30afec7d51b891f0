"""`torch.distributed.elastic.multiprocessing`: start functions or programs as local workers and wait for them."""

from __future__ import annotations

from ...contexts import start as _start
from ...contexts.start import start_processes
from .._face import face
from . import api as api
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
]

face(
    __name__,
    {
        "MultiprocessContext": [_start],
        "SubprocessContext": [_start],
        "_validate_full_rank": [(_start, "validate_full_rank")],
    },
)
