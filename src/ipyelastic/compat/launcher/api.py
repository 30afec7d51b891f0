"""`torch.distributed.launcher.api`: LaunchConfig, elastic_launch, launch_agent."""

from __future__ import annotations

import os
import sys
import uuid

from ...agent.local import LocalElasticAgent
from ...agent.spec import WorkerSpec
from ...devices.numa import NumaOptions, get_default_numa_options
from ...launcher import config as _config
from ...launcher import launch as _launch
from ...launcher.config import LaunchConfig
from ...launcher.launch import _get_addr_and_port, _get_entrypoint_name, elastic_launch, launch_agent, logger
from ...output.logs import DefaultLogsSpecs, LogsSpecs
from ...process.signals import SignalException
from ...rendezvous.endpoint import parse_rendezvous_endpoint
from ...rendezvous.handler import RendezvousParameters
from ...telemetry.health_check import HealthCheckServer, create_healthcheck_server
from ...terms import env as _env
from ...terms.errors import ChildFailedError
from .. import events, metrics
from .._face import face
from ..rendezvous import registry as rdzv_registry
from ..utils.logging import get_logger

__all__ = [
    "LaunchConfig",
    "elastic_launch",
    "launch_agent",
    "ChildFailedError",
    "DefaultLogsSpecs",
    "LocalElasticAgent",
    "LogsSpecs",
    "NumaOptions",
    "RendezvousParameters",
    "SignalException",
    "TORCHELASTIC_HEALTH_CHECK_PORT",
    "WorkerSpec",
    "_get_addr_and_port",
    "_get_entrypoint_name",
    "events",
    "get_default_numa_options",
    "get_logger",
    "logger",
    "metrics",
    "os",
    "parse_rendezvous_endpoint",
    "rdzv_registry",
    "sys",
    "uuid",
    "HealthCheckServer",
    "create_healthcheck_server",
]

TORCHELASTIC_HEALTH_CHECK_PORT = _env.HEALTH_CHECK_PORT

face(
    __name__,
    {
        "DefaultLogsSpecs": [_config],
        "LocalElasticAgent": [_launch],
        "RendezvousParameters": [_launch],
        "WorkerSpec": [_launch],
        "_get_addr_and_port": [_launch],
        "_get_entrypoint_name": [_launch],
        "events": [_launch],
        "get_default_numa_options": [_config],
        "launch_agent": [_launch],
        "logger": [_launch],
        "metrics": [_launch],
        "os": [_config, _launch],
        "parse_rendezvous_endpoint": [_launch],
        "rdzv_registry": [_launch],
        "sys": [_launch],
        "uuid": [_launch],
    },
)
