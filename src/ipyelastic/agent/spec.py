"""What an agent is asked to run and what it answers: torch's WorkerSpec, Worker, WorkerGroup, states and result.

Runs in: agent. Source: torch 2.13 (SEEDS section 13).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..devices.numa import NumaOptions
from ..terms.failure import ProcessFailure

__all__ = ["WorkerSpec", "Worker", "WorkerGroup", "WorkerState", "RunResult"]


@dataclass
class WorkerSpec:
    """What to run on this machine.

    `role`: a name for this kind of worker. `local_world_size`: how many. `entrypoint` and `args`: a function and its
    arguments, the same for every rank. `max_restarts`: how often the whole group may be started again. `numa_options`:
    see devices/numa.py. `virtual_local_rank`: every rank has LOCAL_RANK 0 and sees its own GPU only.
    Raises AssertionError for a size below 1 or a missing entrypoint, as torch does.
    """

    role: str
    local_world_size: int
    entrypoint: Callable[..., Any] | str
    args: tuple[Any, ...] = ()
    max_restarts: int = 0
    run_id: str = ""
    master_addr: str = "127.0.0.1"
    master_port: int = 0
    """0: any that is free."""
    numa_options: NumaOptions | None = None
    virtual_local_rank: bool = False

    def __post_init__(self) -> None:
        assert self.local_world_size > 0, "local_world_size is at least 1"
        assert self.entrypoint, "an entrypoint is needed"

    def get_entrypoint_name(self) -> str:
        """A program's file name, or a function's name."""
        if isinstance(self.entrypoint, str):
            return os.path.basename(self.entrypoint)
        for attribute in ("__qualname__", "__name__"):
            name = getattr(self.entrypoint, attribute, None)
            if isinstance(name, str):
                return name
        return type(self.entrypoint).__name__  # functools.partial has no name


@dataclass
class Worker:
    """One rank's numbers; -1 until assigned."""

    local_rank: int
    global_rank: int = -1
    role_rank: int = -1
    world_size: int = -1
    role_world_size: int = -1
    id: int | None = None


class WorkerState(str, Enum):
    """Where a worker group stands."""

    UNKNOWN = "UNKNOWN"
    INIT = "INIT"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @staticmethod
    def is_running(state: WorkerState) -> bool:
        """Whether workers of a group in this state are alive."""
        return state in (WorkerState.HEALTHY, WorkerState.UNHEALTHY)


@dataclass
class WorkerGroup:
    """All workers of one agent."""

    spec: WorkerSpec
    workers: list[Worker]
    group_rank: int = 0
    group_world_size: int = 1
    state: WorkerState = WorkerState.INIT
    master_addr: str = ""
    master_port: int = -1


@dataclass
class RunResult:
    """How it ended; values and failures by *global* rank."""

    state: WorkerState
    return_values: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, ProcessFailure] = field(default_factory=dict)

    def is_failed(self) -> bool:
        """Whether the state is FAILED."""
        return self.state == WorkerState.FAILED
