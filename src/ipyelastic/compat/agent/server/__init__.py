"""`torch.distributed.elastic.agent.server`: agents, what they run and what they answer."""

from __future__ import annotations

from . import api as api
from . import health_check_server as health_check_server
from . import local_elastic_agent as local_elastic_agent
from .api import (
    ElasticAgent,
    RunResult,
    SimpleElasticAgent,
    Worker,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from .local_elastic_agent import TORCHELASTIC_ENABLE_FILE_TIMER, TORCHELASTIC_TIMER_FILE

__all__ = [
    "ElasticAgent",
    "RunResult",
    "SimpleElasticAgent",
    "TORCHELASTIC_ENABLE_FILE_TIMER",
    "TORCHELASTIC_TIMER_FILE",
    "Worker",
    "WorkerGroup",
    "WorkerSpec",
    "WorkerState",
]
