"""`torch.multiprocessing.spawn`: start functions in child processes and join them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
import warnings

from ..contexts import spawn as _spawn
from ..contexts.spawn import (
    ENV_VAR_PARALLEL_START,
    ProcessContext,
    ProcessException,
    ProcessExitedException,
    ProcessRaisedException,
    SpawnContext,
    log,
    spawn,
    start_processes,
)
from ._face import face

__all__ = [
    "ENV_VAR_PARALLEL_START",
    "ProcessContext",
    "ProcessException",
    "ProcessExitedException",
    "ProcessRaisedException",
    "SpawnContext",
    "spawn",
    "start_processes",
    "log",
    "logging",
    "multiprocessing",
    "os",
    "signal",
    "time",
    "warnings",
]

face(
    __name__,
    {
        "ProcessContext": [_spawn],
        "log": [_spawn],
        "multiprocessing": [_spawn],
        "os": [_spawn],
        "signal": [_spawn],
        "start_processes": [_spawn],
        "time": [_spawn],
        "warnings": [_spawn],
    },
)
