"""What an agent is asked to run and what it answers: torch's WorkerSpec, Worker, WorkerGroup, states and result.

Runs in: agent. Source: torch 2.13 (SEEDS section 13).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..devices.numa import NumaOptions
from ..rendezvous.handler import RendezvousHandler, Store
from ..terms.failure import ProcessFailure

__all__ = ["WorkerSpec", "Worker", "WorkerGroup", "WorkerState", "RunResult"]


@dataclass
class WorkerSpec:
    """What to run on this machine.

    Args:
        role: A name for this kind of worker.
        local_world_size: How many on this machine.
        rdzv_handler: How this agent meets the others; one for a single machine is rendezvous.standalone's.
        fn: Deprecated name of `entrypoint`.
        entrypoint: A function, or a program's path.
        args: Its arguments, the same for every rank; in texts `${local_rank}` is replaced.
        max_restarts: How often the whole group may be started again after a failure.
        monitor_interval: Seconds between two looks for nodes that wait to join. Ends are noticed at once.
        master_port, master_addr: MASTER_PORT and MASTER_ADDR; None: what the rendezvous came to.
        local_addr: This machine's address; not used by the agent itself.
        event_log_handler: Destination of the run's events (see telemetry).
        numa_options: See devices/numa.py.
        duplicate_stdout_filters, duplicate_stderr_filters: See contexts/base.PContext.
        virtual_local_rank: Every rank has LOCAL_RANK 0 and sees its own GPU only.

    Raises AssertionError for a size or interval that is not positive or a missing entrypoint, as torch does.
    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/agent.html.
    """

    role: str
    local_world_size: int
    rdzv_handler: RendezvousHandler
    fn: Callable[..., Any] | None = None
    entrypoint: Callable[..., Any] | str | None = None
    args: tuple[Any, ...] = ()
    max_restarts: int = 3
    monitor_interval: float = 0.1
    master_port: int | None = None
    master_addr: str | None = None
    local_addr: str | None = None
    event_log_handler: str = "null"
    numa_options: NumaOptions | None = None
    duplicate_stdout_filters: list[str] | None = None
    duplicate_stderr_filters: list[str] | None = None
    virtual_local_rank: bool = False

    def __post_init__(self) -> None:
        assert self.local_world_size > 0, f"local_world_size={self.local_world_size!r}: expected at least 1"
        assert self.monitor_interval > 0, f"monitor_interval={self.monitor_interval!r}: expected more than 0 seconds"
        if self.fn:
            warnings.warn(
                "WorkerSpec.fn will be deprecated, please use WorkerSpec.entrypoint instead",
                category=DeprecationWarning,
                stacklevel=3,
            )
            self.entrypoint = self.fn
        assert self.entrypoint, "an entrypoint is needed: a function or a program's path"

    def get_entrypoint_name(self) -> str:
        """A program's file name, or a function's name."""
        if isinstance(self.entrypoint, str):
            return os.path.basename(self.entrypoint)
        for attribute in ("__qualname__", "__name__"):
            name = getattr(self.entrypoint, attribute, None)
            if isinstance(name, str):
                return name
        return type(self.entrypoint).__name__  # functools.partial has no name


class Worker:
    """One rank's numbers.

    Args:
        local_rank, global_rank, role_rank, world_size, role_world_size: See below.

    Attributes:
        id: Its process id, once it is started; None before.
        local_rank: Within this agent.
        global_rank, world_size: Within the run; -1 until assigned, like the next two.
        role_rank, role_world_size: Among the workers of its role.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/agent.html.
    """

    __slots__ = ["id", "local_rank", "global_rank", "role_rank", "world_size", "role_world_size"]  # noqa: RUF023

    def __init__(
        self,
        local_rank: int,
        global_rank: int = -1,
        role_rank: int = -1,
        world_size: int = -1,
        role_world_size: int = -1,
    ) -> None:
        self.id: Any = None
        self.local_rank, self.global_rank, self.role_rank = local_rank, global_rank, role_rank
        self.world_size, self.role_world_size = world_size, role_world_size

    def __str__(self) -> str:
        return ",".join(f"{name}={getattr(self, name)}" for name in self.__slots__[1:])

    def __repr__(self) -> str:
        return str(self)


class WorkerState(str, Enum):
    """Where a worker group stands.

    UNKNOWN: nobody knows; the agent raises. INIT: not started. HEALTHY: runs. UNHEALTHY: runs, and something is wrong.
    STOPPED: ended by the agent. SUCCEEDED: all ended well. FAILED: one failed, and no restart is left.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/agent.html.
    """

    UNKNOWN = "UNKNOWN"
    INIT = "INIT"
    HEALTHY = "HEALTHY"
    UNHEALTHY = "UNHEALTHY"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @staticmethod
    def is_running(state: WorkerState) -> bool:
        """Whether workers of a group in this `state` are alive: HEALTHY or UNHEALTHY."""
        return state in (WorkerState.HEALTHY, WorkerState.UNHEALTHY)


class WorkerGroup:
    """All workers of one agent.

    Attributes:
        spec: What they run.
        workers: By local rank.
        store: The agents' table; None before the rendezvous, like all that follow.
        group_rank, group_world_size: This agent among the agents.
        master_addr, master_port: Where the workers meet.
        state: See WorkerState.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/agent.html.
    """

    __slots__ = ["spec", "workers", "store", "group_rank", "group_world_size", "state", "master_addr", "master_port"]  # noqa: RUF023

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.workers = [Worker(local_rank) for local_rank in range(spec.local_world_size)]
        self.store: Store | None = None
        self.group_rank: int | None = None
        self.group_world_size: int | None = None
        self.master_addr: str | None = None
        self.master_port: int | None = None
        self.state = WorkerState.INIT


@dataclass
class RunResult:
    """How a run ended; values and failures by *global* rank.

    Attributes:
        state: SUCCEEDED or FAILED, a WorkerState.
        return_values: What each worker returned, None for programs; empty when any failed.
        failures: A ProcessFailure of each that failed.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/agent.html.
    """

    state: WorkerState
    return_values: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, ProcessFailure] = field(default_factory=dict)

    def is_failed(self) -> bool:
        """Whether the state is FAILED."""
        return self.state == WorkerState.FAILED
