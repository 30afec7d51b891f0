"""`torch.multiprocessing.spawn`: start functions in child processes and join them."""

from __future__ import annotations

from ..contexts import spawn as _spawn
from ..contexts.spawn import (
    ENV_VAR_PARALLEL_START,
    ProcessContext,
    ProcessException,
    ProcessExitedException,
    ProcessRaisedException,
    SpawnContext,
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
]

face(__name__, {"ProcessContext": [_spawn], "start_processes": [_spawn]})
