"""`torch.distributed.elastic.agent.server.local_elastic_agent`: the agent of one machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
import time
import uuid

from ....agent import local as _local
from ....agent import watching as _watching
from ....agent.local import LocalElasticAgent, logger
from ....agent.simple import SimpleElasticAgent
from ....agent.spec import RunResult, WorkerGroup, WorkerSpec, WorkerState
from ....agent.watching import resolve_uninterruptible_state_timeout as _resolve_uninterruptible_state_timeout
from ....contexts.base import PContext
from ....contexts.start import start_processes
from ....output.logs import LogsSpecs
from ....process import states as _states
from ....process.states import is_uninterruptible_state, read_proc_state
from ....telemetry.health_check import HealthCheckServer, create_healthcheck_server
from ....telemetry.metrics import prof
from ....terms import env as _env
from ... import events, timer
from ..._face import face
from ...utils import macros
from ...utils.logging import get_logger

__all__ = [
    "LocalElasticAgent",
    "TORCHELASTIC_ENABLE_FILE_TIMER",
    "TORCHELASTIC_TIMER_FILE",
    "TORCHELASTIC_HEALTH_CHECK_PORT",
    "TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT",
    "HealthCheckServer",
    "LogsSpecs",
    "PContext",
    "RunResult",
    "SimpleElasticAgent",
    "WorkerGroup",
    "WorkerSpec",
    "WorkerState",
    "_resolve_uninterruptible_state_timeout",
    "create_healthcheck_server",
    "events",
    "get_logger",
    "is_uninterruptible_state",
    "json",
    "logger",
    "macros",
    "os",
    "prof",
    "read_proc_state",
    "signal",
    "socket",
    "start_processes",
    "tempfile",
    "time",
    "timer",
    "uuid",
]

TORCHELASTIC_ENABLE_FILE_TIMER = _env.ENABLE_FILE_TIMER
TORCHELASTIC_HEALTH_CHECK_PORT = _env.HEALTH_CHECK_PORT
TORCHELASTIC_TIMER_FILE = _env.TIMER_FILE
TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT = _env.UNINTERRUPTIBLE_STATE_TIMEOUT

face(
    __name__,
    {
        "_resolve_uninterruptible_state_timeout": [(_watching, "resolve_uninterruptible_state_timeout")],
        "create_healthcheck_server": [_watching],
        "events": [_watching],
        "is_uninterruptible_state": [_states],
        "json": [_watching],
        "logger": [_local, _watching],
        "os": [_local, _watching],
        "read_proc_state": [_states],
        "start_processes": [_local],
        "tempfile": [_watching],
        "time": [_local, _watching],
        "uuid": [_watching],
    },
)
