"""What an agent records of itself and its workers: events (telemetry/events.py) and metrics (telemetry/metrics.py).

    agent/simple > [Recording] > telemetry

Runs in: agent. Names used here are replaced through compat.agent.server.api.
Source: torch 2.13 (SEEDS section 13): the same events in the same order, the same metadata keys and metric names.
"""

from __future__ import annotations

import json
import socket
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..telemetry.events import Event, EventSource, record
from ..telemetry.metrics import put_metric
from .spec import RunResult, Worker, WorkerGroup, WorkerState

__all__ = ["Recording"]


def _get_fq_hostname() -> str:
    """This machine's name, without a look-up: one without a network takes seconds (SEEDS section 19, trap 7)."""
    return socket.gethostname()


class Recording:
    """The part of an agent that records."""

    _worker_group: WorkerGroup
    _remaining_restarts: int
    _total_execution_time: int

    def get_event_failed(self) -> Event:
        """The agent has failed; with the traceback of the exception being handled."""
        return self._construct_event("FAILED", EventSource.AGENT, raw_error=traceback.format_exc())

    def get_event_succeeded(self) -> Event:
        """The agent has done its work, whether or not the workers succeeded."""
        return self._construct_event("SUCCEEDED", EventSource.AGENT)

    @contextmanager
    def record_duration(self, state: str) -> Iterator[None]:
        """Record an event of `state` with how long the block took."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            took_ms = (time.perf_counter() - begin) * 1000
            self._record(self._construct_event(state, EventSource.AGENT, duration_ms=took_ms))

    def _record(self, event: Event) -> None:
        record(event, self._worker_group.spec.event_log_handler)

    def _record_worker_started(self, worker: Worker) -> None:
        self._record(self._construct_event("START", EventSource.WORKER, worker))

    def _record_worker_events(self, result: RunResult) -> None:
        for worker in self._worker_group.workers:
            failure = result.failures.get(worker.global_rank)
            event = self._construct_event(
                self._get_worker_state(worker, result),
                EventSource.WORKER,
                worker,
                raw_error=None if failure is None else json.dumps(failure.error_file_data),
                exit_code=None if failure is None else failure.exitcode,
                worker_pid=None if failure is None else failure.pid,
            )
            self._record(event)

    def _get_worker_state(self, worker: Worker, result: RunResult) -> str:
        """FAILED, or SUCCEEDED; TERMINATED: the group failed, this worker did not. Raises ValueError for a stranger."""
        if worker.global_rank in result.failures:
            return "FAILED"
        if worker.global_rank in result.return_values:
            return "SUCCEEDED"
        if result.state in (WorkerState.UNHEALTHY, WorkerState.FAILED):
            return "TERMINATED"
        raise ValueError(f"Unknown worker: {worker.global_rank}")

    def _construct_event(
        self,
        state: str,
        source: EventSource,
        worker: Worker | None = None,
        raw_error: str | None = None,
        duration_ms: float | None = None,
        exit_code: int | None = None,
        worker_pid: int | None = None,
    ) -> Event:
        group = self._worker_group
        spec = group.spec
        more: dict[str, Any] = {
            "group_world_size": group.group_world_size,
            "entry_point": spec.get_entrypoint_name(),
        }
        if worker is not None:
            more |= {
                "local_rank": (worker.local_rank,),
                "role_rank": (worker.role_rank,),
                "role_world_size": (worker.role_world_size,),
                "exit_code": (exit_code,),
                "worker_pid": (worker_pid,),
            }
        metadata: dict[str, Any] = {
            "run_id": spec.rdzv_handler.get_run_id(),
            "global_rank": None if worker is None else worker.global_rank,
            "group_rank": group.group_rank,
            "worker_id": None if worker is None else str(worker.id),
            "role": spec.role,
            "hostname": _get_fq_hostname(),
            "state": state,
            "total_run_time": self._total_execution_time,
            "rdzv_backend": spec.rdzv_handler.get_backend(),
            "raw_error": raw_error,
            "metadata": json.dumps(more),
            "agent_restarts": spec.max_restarts - self._remaining_restarts,
            "duration_ms": duration_ms,
        }
        return Event(f"torchelastic.worker.status.{state}", source=source, metadata=metadata)

    def _record_metrics(self, group_results: RunResult) -> None:
        is_failed = group_results.is_failed()
        self._record_flakiness_metric(is_failed)
        role = self._worker_group.spec.role
        is_retried = self._remaining_restarts < self._worker_group.spec.max_restarts
        put_metric(f"workers.{role}.run_total", 1)
        for name, is_so in (
            ("run_success_with_retries", not is_failed and is_retried),
            ("run_success_no_retries", not is_failed and not is_retried),
            ("run_failed_with_retries", is_failed and is_retried),
            ("run_failed_no_retries", is_failed and not is_retried),
        ):
            self._record_metric_with_condition(name, is_so)

    def _record_metric_with_condition(self, metric_name: str, condition: bool) -> None:
        put_metric(f"workers.{self._worker_group.spec.role}.{metric_name}", int(condition))

    def _record_flakiness_metric(self, is_failed: bool = False) -> None:
        """0: nothing had to be started again; 100: failed."""
        spec = self._worker_group.spec
        flakiness = 100.0 if is_failed else 100 - 100 * (self._remaining_restarts + 1) / (spec.max_restarts + 1)
        put_metric(f"workers.{spec.role}.flakiness", int(flakiness))
