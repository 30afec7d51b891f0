"""How a job is launched: torch's LaunchConfig.

    a program -> [LaunchConfig] -> launch.elastic_launch > agent

Runs in: owner. Source: torch 2.13 (SEEDS section 12). Different: the caller's dicts stay as they are, no CUDA is
touched (GPUs are counted by NVML), and a negative time from the environment is refused like one from the caller.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from ..devices.gpus import visible_gpu_count
from ..devices.numa import NumaOptions, get_default_numa_options
from ..output import retention
from ..output.logs import DefaultLogsSpecs, LogsSpecs
from ..process.signals import DEFAULT_SIGNALS
from ..terms import env

__all__ = ["LaunchConfig"]

_RENDEZVOUS_S = 900
_SHUTDOWN_S = 30
_EXIT_BARRIER_S = 300.0


@dataclass
class LaunchConfig:
    """What to launch, how often to try again, and how agents meet.

    Args:
        min_nodes, max_nodes: How many machines take part; more than `min_nodes` join when they come.
        nproc_per_node: Workers on each.
        logs_specs: Where output goes; None: error files only, in a folder that goes with this process.
        run_id: The job's id, the same on every node; empty: a new one for every launch.
        role: A name for these workers.
        rdzv_endpoint: `host:port` where agents meet.
        rdzv_backend: How: "c10d" and "etcd" (torch's own, when it is installed), "static", a plug-in's name, or
            "standalone" (one machine, no server); empty: standalone.
        rdzv_configs: The backend's options. Copied.
        rdzv_timeout: Seconds for agents to meet; -1: `rdzv_configs["timeout"]`, or 900.
        max_restarts: How often each agent starts its workers again after a failure.
        monitor_interval: Seconds between two looks for nodes that wait to join.
        start_method: For functions: "spawn", "forkserver" or "fork".
        log_line_prefix_template: Of teed lines; `${role_name}`, `${rank}` and `${local_rank}` are replaced.
        metrics_cfg: For the metrics' handler.
        local_addr: This machine's address as others see it; None: looked up when it is needed.
        event_log_handler: Where events go.
        numa_options: CPUs of the workers.
        signals_to_handle: Signals that end the job, names joined by commas.
        duplicate_stdout_filters, duplicate_stderr_filters: See contexts/base.PContext.
        virtual_local_rank: Every worker has LOCAL_RANK 0 and sees its own GPU only.
        shutdown_timeout: Seconds between asking workers to end and killing them; None: what
            TORCH_ELASTIC_SHUTDOWN_TIMEOUT says, or 30.
        exit_barrier_timeout: Seconds that a finished agent waits for the others; None: what
            TORCH_ELASTIC_EXIT_BARRIER_TIMEOUT says, or 300.

    Raises:
        ValueError: A negative timeout, or one in the environment that is no number.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/run.html.
    """

    min_nodes: int
    max_nodes: int
    nproc_per_node: int
    logs_specs: LogsSpecs | None = None
    run_id: str = ""
    role: str = "default_role"
    rdzv_endpoint: str = ""
    rdzv_backend: str = "etcd"
    rdzv_configs: dict[str, Any] = field(default_factory=dict)
    rdzv_timeout: int = -1
    max_restarts: int = 3
    monitor_interval: float = 0.1
    start_method: str = "spawn"
    log_line_prefix_template: str | None = None
    metrics_cfg: dict[str, str] = field(default_factory=dict)
    local_addr: str | None = None
    event_log_handler: str = "null"
    numa_options: NumaOptions | None = None
    signals_to_handle: str = DEFAULT_SIGNALS
    duplicate_stdout_filters: list[str] | None = None
    duplicate_stderr_filters: list[str] | None = None
    virtual_local_rank: bool = False
    shutdown_timeout: int | None = None
    exit_barrier_timeout: float | None = None

    def __post_init__(self) -> None:
        self.rdzv_configs = dict(self.rdzv_configs)
        if self.rdzv_timeout != -1:
            self.rdzv_configs["timeout"] = self.rdzv_timeout
        else:
            self.rdzv_configs.setdefault("timeout", _RENDEZVOUS_S)
        if self.numa_options is None and visible_gpu_count() == self.nproc_per_node:
            self.numa_options = get_default_numa_options()
        if self.logs_specs is None:
            self.logs_specs = DefaultLogsSpecs(log_dir=retention.owner_folder())
        if self.shutdown_timeout is None:
            self.shutdown_timeout = int(os.environ.get(env.SHUTDOWN_TIMEOUT, _SHUTDOWN_S))
        if self.exit_barrier_timeout is None:
            self.exit_barrier_timeout = float(os.environ.get(env.EXIT_BARRIER_TIMEOUT, _EXIT_BARRIER_S))
        for name in ("shutdown_timeout", "exit_barrier_timeout"):
            value = getattr(self, name)
            if not value >= 0:
                raise ValueError(f"{name} must be non-negative, got {value}")
