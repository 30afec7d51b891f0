"""The agent of one machine: starts its workers attempt by attempt, watches them, says how each attempt ended.

    engines/local, launcher/launch > [here] > contexts/start (one context per attempt)
                                     [here] > attempts (files, one tail per attempt) > sink

Runs in: the run's own thread, or the caller's. `ask` from any.
Source: torch 2.13 (SEEDS sections 13 and 14).
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from ..contexts.base import PContext, RunProcsResult
from ..contexts.settings import RankSettings
from ..contexts.start import start_processes
from ..output.logs import LogsSpecs
from ..output.tail import Tail
from ..telemetry.health_check import HealthCheckServer
from ..telemetry.metrics import prof
from ..terms import env
from ..terms.events import RunRestarted, Sink
from ..terms.failure import ProcessFailure
from .attempts import Attempt, follow
from .ranks import line_prefix, own_args, worker_environment
from .restarts import why_not_restarted
from .simple import SimpleElasticAgent
from .spec import RunResult, WorkerGroup, WorkerSpec, WorkerState
from .telling import Silent, Telling
from .watching import Watching

__all__ = ["LocalElasticAgent"]

logger = logging.getLogger("ipyelastic")

_ENDED_ON_REQUEST = ("stopped", "timed out")


class LocalElasticAgent(Watching, SimpleElasticAgent):
    """Runs one worker group on this machine; when a worker fails, all are started again while restarts are left.

    Args:
        spec: What to run.
        logs_specs: Where output goes; every attempt has its own folder.
        start_method: For functions: `"spawn"`, `"forkserver"` or `"fork"`.
        exit_barrier_timeout: Seconds that a finished agent waits for the others.
        log_line_prefix_template: Of teed lines; `${role_name}`, `${rank}` and `${local_rank}` are replaced.
        shutdown_timeout: Seconds between asking workers to end and killing them, on every path.
        health_check_server: Somebody else's, stopped with the run.
        uninterruptible_state_timeout: Seconds that a worker may hang in the kernel (state D) before it counts as
            failed; None: what TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT says; 0: for ever.
        settings: Ours: what ranks get besides torch's arguments. Its `global_ranks`, `sink` and `attempt` are set
            here; its time limit is one for all attempts.
        sink: Ours: takes events and output.
        is_output_complete: Ours: the sink wants every line, however far behind it falls.
        on_paths: Ours: called for every attempt with its stdout and stderr files, by local rank, before any of its
            ranks is started.
        each_tick: Ours: see Tail.
        on_started: Ours: called for every attempt when its ranks have been started.
        telling: Ours: hears of waits for other agents and of new attempts.

    Attributes:
        attempts: One Attempt per start of the group, the last is the current or final one.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/agent.html.
    """

    shown_progress_level = logging.DEBUG
    """At which the log says how far things are where somebody shows the run; a command's own log takes INFO."""

    def __init__(
        self,
        spec: WorkerSpec,
        logs_specs: LogsSpecs,
        start_method: str = "spawn",
        exit_barrier_timeout: float = 300,
        log_line_prefix_template: str | None = None,
        shutdown_timeout: int = 30,
        health_check_server: HealthCheckServer | None = None,
        uninterruptible_state_timeout: float | None = None,
        *,
        settings: RankSettings | None = None,
        sink: Sink | None = None,
        is_output_complete: bool = False,
        on_paths: Callable[[dict[int, str], dict[int, str]], None] | None = None,
        each_tick: Callable[[], None] | None = None,
        on_started: Callable[[], None] | None = None,
        telling: Telling | None = None,
    ) -> None:
        SimpleElasticAgent.__init__(self, spec, exit_barrier_timeout, shutdown_timeout)
        Watching.__init__(self, health_check_server, uninterruptible_state_timeout)
        self._rdzv_handler = spec.rdzv_handler
        self._logs_specs, self._start_method = logs_specs, start_method
        self._log_line_prefix_template = log_line_prefix_template
        if settings is None:
            settings = RankSettings(signals=None, is_torchs=True)
        if settings.is_torchs:
            policy = dataclasses.replace(settings.policy, grace_s=float(shutdown_timeout))
            settings = dataclasses.replace(settings, policy=policy)
        self._settings = settings
        self._sink, self._is_output_complete, self._on_paths = sink, is_output_complete, on_paths
        self._each_tick, self._on_started = each_tick, on_started
        self._telling = telling or Silent()
        if sink is not None:  # a notebook with `logging.basicConfig(level="INFO")` is to show its own words only
            self._progress_level = self.shown_progress_level
        self.attempts: list[Attempt] = []
        self._pcontext: PContext | None = None
        self._made: PContext | None = None  # the same, from before its start on
        self._tail: Tail | None = None
        self._why_not_restarted = ""
        self._is_restarting = False
        self._deadline: float | None = None
        self._lock = threading.Lock()
        self._asked: list[tuple[str, dict[str, Any]]] = []  # before the start; an end is asked of every attempt

    # ----------------------------------------------------------------------------------------------------------- asking

    def ask(self, op: str, **fields: Any) -> None:
        """`stop`, `kill` or `signal` the ranks, from any thread; after a `stop` or a `kill` of all nothing restarts.

        Before the start, and between two attempts, it is kept until ranks are started: they are ended at once.

        Args:
            op: One of these three.
            fields: `grace_s` in seconds, `signal` a number, `rank` a local rank; those that the `op` has use for.
        """
        with self._lock:
            if self._made is None or _is_end(op, fields):
                self._asked.append((op, fields))
            context = self._made
        if context is not None:
            context.ask(op, **fields)
        self._woken.set()

    @property
    def _is_asked_to_end(self) -> bool:
        return any(_is_end(op, fields) for op, fields in self._asked)

    @property
    def context(self) -> PContext | None:
        """The current attempt's context; None before the first."""
        return self._made

    # --------------------------------------------------------------------------------------------------------- starting

    @prof
    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        spec, settings = worker_group.spec, self._settings
        restart_count = spec.max_restarts - self._remaining_restarts
        base_env = os.environ if settings.base_env is None else settings.base_env
        envs: dict[int, dict[str, str]] = {}
        args: dict[int, tuple[Any, ...]] = {}
        prefixes: dict[int, str] | None = None if self._log_line_prefix_template is None else {}
        for worker in worker_group.workers:
            rank = worker.local_rank
            envs[rank] = worker_environment(worker_group, worker, base_env, restart_count)
            if settings.signals:  # torch's workers inherit it from their agent
                envs[rank][env.SIGNALS_TO_HANDLE] = settings.signals
            # Of our own launches the arguments are values, not words of a command: "$$" in them means "$$".
            args[rank] = own_args(spec.args, rank) if settings.is_torchs else spec.args
            if prefixes is not None and self._log_line_prefix_template is not None:
                prefixes[rank] = line_prefix(self._log_line_prefix_template, spec.role, worker)
        self._setup_local_watchdog(envs)
        self._setup_healthcheck()
        assert spec.entrypoint is not None
        self._pcontext = start_processes(
            name=spec.role,
            entrypoint=spec.entrypoint,
            args=args,
            envs=envs,
            logs_specs=self._logs_specs,
            log_line_prefixes=prefixes,
            start_method=self._start_method,
            numa_options=spec.numa_options,
            duplicate_stdout_filters=spec.duplicate_stdout_filters,
            duplicate_stderr_filters=spec.duplicate_stderr_filters,
            settings=self._settings_of(worker_group, restart_count),
            on_made=self._begin_attempt,
        )
        if self._on_started is not None:
            self._on_started()
        if self._sink is not None:  # the files are read from their first byte, whenever that is
            self._tail = follow(
                self._pcontext, self._global_ranks(), self._sink, self._is_output_complete, self._each_tick
            )
            self._tail.start()
        return self._pcontext.pids()

    def _settings_of(self, worker_group: WorkerGroup, attempt: int) -> RankSettings:
        settings = self._settings
        policy, now = settings.policy, time.monotonic()
        if policy.timeout_s is not None:
            if self._deadline is None:
                self._deadline = now + policy.timeout_s
            policy = dataclasses.replace(policy, timeout_s=max(0.0, self._deadline - now))
        return dataclasses.replace(
            settings,
            policy=policy,
            sink=self._sink,
            attempt=attempt,
            global_ranks={worker.local_rank: worker.global_rank for worker in worker_group.workers},
        )

    def _begin_attempt(self, context: PContext) -> None:
        """A context is made and nothing of it runs yet."""
        ranks = self._global_ranks()
        attempt = Attempt(
            self._worker_group.spec.max_restarts - self._remaining_restarts,
            stdouts={ranks[local]: path for local, path in context.stdouts.items()},
            stderrs={ranks[local]: path for local, path in context.stderrs.items()},
            started=time.time(),
        )
        self.attempts.append(attempt)
        with self._lock:
            self._made = context
            asked = self._asked
            self._asked = [(op, fields) for op, fields in asked if _is_end(op, fields)]
        for op, fields in asked:
            context.ask(op, **fields)
        if self._on_paths is not None:
            self._on_paths(context.stdouts, context.stderrs)

    def _global_ranks(self) -> dict[int, int]:
        return {worker.local_rank: worker.global_rank for worker in self._worker_group.workers}

    # --------------------------------------------------------------------------------------------------------- watching

    def _await_change(self, within_s: float) -> None:
        assert self._pcontext is not None
        self._pcontext.wait(within_s)

    @prof
    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        role, context = worker_group.spec.role, self._pcontext
        assert context is not None
        known, running = {worker.id for worker in worker_group.workers}, set(context.pids().values())
        if running and known != running:
            logger.error("[%s] worker pids do not match process_context pids. %s != %s", role, known, running)
            return RunResult(WorkerState.UNKNOWN)
        if self._uninterruptible_state_timeout > 0:
            stuck = self._check_uninterruptible_state_timeout(worker_group, self._uninterruptible_state_timeout)
            if stuck is not None:
                return stuck
        result = context.wait(0)
        if result is None:
            return RunResult(WorkerState.HEALTHY)
        return self._judge(result)

    def _judge(self, result: RunProcsResult) -> RunResult:
        ranks = self._global_ranks()
        failures, values = result.failures, result.return_values
        if result.is_failed() and self._made is not None and not self._settings.is_torchs:
            failures, values = self._made.all_failures, self._made.values_so_far
        for local_rank, failure in failures.items():
            logger.log(
                self._progress_level, "rank %s failed: local rank %s, %r", ranks[local_rank], local_rank, failure
            )
        return RunResult(
            WorkerState.FAILED if result.is_failed() else WorkerState.SUCCEEDED,
            {ranks[local]: value for local, value in values.items()},
            {ranks[local]: failure for local, failure in failures.items()},
        )

    def _is_restart_refused(self, result: RunResult) -> bool:
        if self._is_asked_to_end:
            return True
        if result.state == WorkerState.HEALTHY:
            return False
        if self._made is not None and self._made.ended_because in _ENDED_ON_REQUEST:
            return True
        if self._stuck:
            self._why_not_restarted = f"not restarted: rank {min(self._stuck)} hangs in the kernel and cannot be ended"
            return True
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return True
        self._why_not_restarted = why_not_restarted(result.failures) if self._remaining_restarts > 0 else ""
        if self._why_not_restarted and self._sink is None:  # else whoever shows the run says it with the failure
            logger.warning("[%s] %s", self._worker_group.spec.role, self._why_not_restarted)
        return bool(self._why_not_restarted)

    def _tell_restart(self, reason: str) -> None:
        event = RunRestarted(self._worker_group.spec.max_restarts - self._remaining_restarts, reason)
        self._telling.restarting(event)
        if self._sink is not None:
            self._sink(event)

    # ----------------------------------------------------------------------------------------------------------- ending

    @prof
    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        self._is_restarting = True
        try:
            self._shutdown(timeout=self._shutdown_timeout)
        finally:
            self._is_restarting = False

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        try:
            self._stop_watching(is_over=not self._is_restarting)
            if self._pcontext is not None:
                self._pcontext.close(death_sig, timeout)
        finally:
            self._end_attempt()

    def _end_attempt(self) -> None:
        """The attempt's last line is read, and how it ended is written down. Idempotent."""
        if self._tail is not None:
            self._tail.stop()
            self._tail = None
        if self._made is None or not self.attempts or self.attempts[-1].ended is not None:
            return
        ranks = self._global_ranks()
        failures: dict[int, ProcessFailure] = {}
        for local_rank, failure in self._made.all_failures.items():
            failure.stderr_path = self._made.stderrs.get(local_rank, "")
            failures[ranks[local_rank]] = failure
        failures |= self._stuck
        self.attempts[-1] = dataclasses.replace(
            self.attempts[-1], failures=failures, ended=time.time(), why_not_restarted=self._why_not_restarted
        )


def _is_end(op: str, fields: dict[str, Any]) -> bool:
    """Whether this ends all ranks."""
    return op == "stop" or (op == "kill" and fields.get("rank") is None)
