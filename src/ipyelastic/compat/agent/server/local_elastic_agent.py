"""`torch.distributed.elastic.agent.server.local_elastic_agent`: the agent of one machine."""

from __future__ import annotations

import os
import signal
import socket
import time

from ....agent import local as _local
from ....agent.local import LocalElasticAgent, logger
from ....agent.simple import SimpleElasticAgent
from ....agent.spec import RunResult, WorkerGroup, WorkerSpec, WorkerState
from ....contexts.base import PContext
from ....contexts.start import start_processes
from ....output.logs import LogsSpecs
from ....telemetry.metrics import prof
from ....terms import env as _env
from ... import events
from ..._face import face
from ...utils import macros
from ...utils.logging import get_logger

__all__ = [
    "LocalElasticAgent",
    "TORCHELASTIC_ENABLE_FILE_TIMER",
    "TORCHELASTIC_TIMER_FILE",
    "TORCHELASTIC_HEALTH_CHECK_PORT",
    "TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT",
    "LogsSpecs",
    "PContext",
    "RunResult",
    "SimpleElasticAgent",
    "WorkerGroup",
    "WorkerSpec",
    "WorkerState",
    "events",
    "get_logger",
    "logger",
    "macros",
    "os",
    "prof",
    "signal",
    "socket",
    "start_processes",
    "time",
]

TORCHELASTIC_ENABLE_FILE_TIMER = _env.ENABLE_FILE_TIMER
TORCHELASTIC_HEALTH_CHECK_PORT = _env.HEALTH_CHECK_PORT
TORCHELASTIC_TIMER_FILE = _env.TIMER_FILE
TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT = _env.UNINTERRUPTIBLE_STATE_TIMEOUT

face(
    __name__,
    {
        "logger": [_local],
        "os": [_local],
        "start_processes": [_local],
        "time": [_local],
    },
)
