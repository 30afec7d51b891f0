"""`torch.distributed.elastic.agent.server.api`: agents, and their loop."""

from __future__ import annotations

import abc
import json
import os
import signal
import socket
import time
import traceback
import warnings

from ....agent import recording as _recording
from ....agent import simple as _simple
from ....agent.ranks import RoleInstanceInfo as _RoleInstanceInfo
from ....agent.recording import _get_fq_hostname
from ....agent.simple import _TERMINAL_STATE_SYNC_ID, DEFAULT_ROLE, ElasticAgent, SimpleElasticAgent, logger
from ....agent.spec import RunResult, Worker, WorkerGroup, WorkerSpec, WorkerState
from ....devices.numa import NumaOptions
from ....process.signals import SignalException
from ....telemetry.events import Event, EventSource, record
from ....telemetry.metrics import prof, put_metric
from ....terms.errors import RendezvousGracefulExitError
from ....terms.failure import ProcessFailure
from ... import rendezvous as rdzv
from ..._face import face
from ...utils import store as store_util
from ...utils.logging import get_logger

__all__ = [
    "WorkerSpec",
    "Worker",
    "WorkerState",
    "WorkerGroup",
    "RunResult",
    "ElasticAgent",
    "SimpleElasticAgent",
    "DEFAULT_ROLE",
    "Event",
    "EventSource",
    "NumaOptions",
    "ProcessFailure",
    "RendezvousGracefulExitError",
    "SignalException",
    "_RoleInstanceInfo",
    "_TERMINAL_STATE_SYNC_ID",
    "_get_fq_hostname",
    "abc",
    "get_logger",
    "json",
    "logger",
    "os",
    "prof",
    "put_metric",
    "rdzv",
    "record",
    "signal",
    "socket",
    "store_util",
    "time",
    "traceback",
    "warnings",
]

face(
    __name__,
    {
        "_RoleInstanceInfo": [(_simple, "RoleInstanceInfo")],
        "_TERMINAL_STATE_SYNC_ID": [_simple],
        "_get_fq_hostname": [_recording],
        "json": [_simple, _recording],
        "logger": [_simple],
        "os": [_simple],
        "put_metric": [_simple, _recording],
        "record": [_recording],
        "socket": [_recording],
        "store_util": [_simple],
        "time": [_simple, _recording],
        "traceback": [_recording],
    },
)
