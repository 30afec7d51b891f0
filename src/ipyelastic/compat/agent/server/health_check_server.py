"""`torch.distributed.elastic.agent.server.health_check_server`: the place for a health check server of one's own."""

from __future__ import annotations

from ....agent import watching as _watching
from ....telemetry import health_check as _health_check
from ....telemetry.health_check import HealthCheckServer, create_healthcheck_server, log
from ..._face import face
from ...utils.logging import get_logger

__all__ = [
    "HealthCheckServer",
    "create_healthcheck_server",
    "log",
    "get_logger",
]

face(__name__, {"create_healthcheck_server": [_health_check, _watching], "log": [_health_check]})
