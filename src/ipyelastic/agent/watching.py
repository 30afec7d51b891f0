"""What an agent watches besides its workers' ends: their timers, hangs in the kernel, and its own liveness for others.

    agent/local > [Watching] > timer/pipe_server (thread), process/states, telemetry/health_check

Runs in: agent. All three are off unless the environment or the constructor asks for them.
Source: torch 2.13 (SEEDS section 13). Different: a worker that hangs in the kernel is a failure with its pid; an
expired timer ends the worker, not the agent.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import tempfile
import time
import uuid
from typing import Any

from ..process.states import UninterruptibleWatch
from ..telemetry import events
from ..telemetry.health_check import HealthCheckServer, create_healthcheck_server
from ..terms import env
from ..terms.failure import ProcessFailure
from ..timer.pipe_client import FileTimerRequest
from ..timer.pipe_server import FileTimerServer
from . import recording
from .spec import RunResult, WorkerGroup, WorkerState

__all__ = ["Watching", "resolve_uninterruptible_state_timeout"]

logger = logging.getLogger("ipyelastic")

_LOOK_FOR_ENDED_S = 0.1
_HEALTH_CHECK_S = 60


def resolve_uninterruptible_state_timeout(explicit: float | None) -> float:
    """Seconds a worker may hang in the kernel: as given, else as the environment says, else (or not positive) 0."""
    value: Any = os.environ.get(env.UNINTERRUPTIBLE_STATE_TIMEOUT, "0") if explicit is None else explicit
    try:
        seconds = float(value)
    except ValueError:
        logger.warning("%s=%r: expected seconds; not watched", env.UNINTERRUPTIBLE_STATE_TIMEOUT, value)
        return 0.0
    return seconds if seconds > 0 else 0.0


class Watching:
    """The part of a LocalElasticAgent that watches."""

    _worker_group: WorkerGroup
    _in_exit_barrier: bool
    _remaining_restarts: int
    _total_execution_time: int

    def __init__(
        self, health_check_server: HealthCheckServer | None, uninterruptible_state_timeout: float | None
    ) -> None:
        self._worker_watchdog: FileTimerServer | None = None
        self._health_check_server = health_check_server
        self._uninterruptible_state_timeout = resolve_uninterruptible_state_timeout(uninterruptible_state_timeout)
        self._uninterruptible = UninterruptibleWatch(self._uninterruptible_state_timeout)
        self._stuck: dict[int, ProcessFailure] = {}  # by global rank

    # -------------------------------------------------------------------------------------------------- workers' timers

    def _setup_local_watchdog(self, envs: dict[int, dict[str, str]]) -> None:
        """With TORCHELASTIC_ENABLE_FILE_TIMER=1, serve workers' timers; the pipe's path goes into `envs`."""
        if os.environ.get(env.ENABLE_FILE_TIMER) != "1":
            return
        path = os.environ.get(env.TIMER_FILE) or os.path.join(tempfile.gettempdir(), f"watchdog_timer_{uuid.uuid4()}")
        self._worker_watchdog = FileTimerServer(
            file_path=path,
            run_id=self._worker_group.spec.rdzv_handler.get_run_id(),
            max_interval=_LOOK_FOR_ENDED_S,
            daemon=True,
            log_event=self._log_watchdog_event,
        )
        self._worker_watchdog.start()
        for environment in envs.values():
            environment[env.TIMER_FILE] = path

    def _log_watchdog_event(self, name: str, request: FileTimerRequest | None) -> None:
        spec = self._worker_group.spec
        metadata: dict[str, Any] = {
            "run_id": spec.rdzv_handler.get_run_id(),
            "global_rank": None,
            "group_rank": self._worker_group.group_rank,
            "worker_id": None,
            "role": spec.role,
            "hostname": self._get_fq_hostname(),
            "state": "RUNNING",
            "total_run_time": self._total_execution_time,
            "rdzv_backend": spec.rdzv_handler.get_backend(),
            "raw_error": None,
            "metadata": json.dumps(_told_of(name, request)),
            "agent_restarts": spec.max_restarts - self._remaining_restarts,
        }
        events.record(
            events.Event(name=name, source=events.EventSource.AGENT, metadata=metadata), spec.event_log_handler
        )

    # -------------------------------------------------------------------------------------------------- the agent's own

    def _setup_healthcheck(self) -> None:
        """With TORCHELASTIC_HEALTH_CHECK_PORT, start what that names (a plug-in's server; ours does nothing)."""
        port = os.environ.get(env.HEALTH_CHECK_PORT)
        if self._health_check_server is not None or port is None:
            return
        try:
            number = int(port)
        except ValueError:
            logger.info(
                "Invalid healthcheck port value: '%s', expecting integer. Not starting healthcheck server.", port
            )
            return
        server = create_healthcheck_server(self._get_alive_time, number, _HEALTH_CHECK_S)
        server.start()
        self._health_check_server = server

    @staticmethod
    def _get_current_time_secs() -> int:
        """Seconds since 1970."""
        return int(time.time())

    def _get_alive_time(self) -> int:
        """When the agent was last known to make progress, in seconds since 1970."""
        if self._worker_watchdog is not None and not self._in_exit_barrier:
            return self._worker_watchdog.get_last_progress_time()
        return self._get_current_time_secs()

    def _get_fq_hostname(self) -> str:
        return recording._get_fq_hostname()

    # ---------------------------------------------------------------------------------------------- hangs in the kernel

    def _check_uninterruptible_state_timeout(self, worker_group: WorkerGroup, timeout: float) -> RunResult | None:
        """UNHEALTHY, with a failure for each worker that has hung in the kernel for `timeout` seconds; None: none."""
        self._uninterruptible.timeout_s = timeout
        stuck = {
            one.pid: one.seconds for one in self._uninterruptible.look(worker.id for worker in worker_group.workers)
        }
        for worker in worker_group.workers:
            if worker.id in stuck:
                failure = _failure_of_stuck(worker.local_rank, worker.id, stuck[worker.id])
                self._stuck[worker.global_rank] = failure
                logger.error("[%s] rank %s: %s", worker_group.spec.role, worker.global_rank, failure.message)
        return RunResult(WorkerState.UNHEALTHY, failures=dict(self._stuck)) if stuck else None

    # ----------------------------------------------------------------------------------------------------------- ending

    def _stop_watching(self, is_over: bool) -> None:
        """Stop the timers' server; `is_over`: and what tells others that the agent lives."""
        if self._worker_watchdog is not None:
            self._worker_watchdog.stop()
            self._worker_watchdog = None
        if is_over and self._health_check_server is not None:
            self._health_check_server.stop()
            self._health_check_server = None


def _told_of(name: str, request: FileTimerRequest | None) -> dict[str, str]:
    told = {"watchdog_event": name}
    if request is not None:
        told |= {
            "worker_pid": str(request.worker_pid),
            "scope_id": request.scope_id,
            "expiration_time": str(request.expiration_time),
            "signal": str(request.signal),
        }
    return told


def _failure_of_stuck(local_rank: int, pid: int, seconds: float) -> ProcessFailure:
    failure = ProcessFailure(local_rank=local_rank, pid=pid, exitcode=-signal.SIGKILL, error_file="")
    failure.message = (
        f"process {pid} has hung in the kernel (uninterruptible sleep) for {seconds:.0f} s: a disk, a network share or"
        " a driver does not answer, and no signal ends it"
    )
    failure.error_file_data = {"message": failure.message, "errorTraits": failure.error_file_data.get("errorTraits")}
    failure.note = failure.message
    failure.timestamp_ns = time.monotonic_ns()
    return failure
