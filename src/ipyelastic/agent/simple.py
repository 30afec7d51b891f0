"""An agent without its workers: rendezvous, ranks, the loop that watches and restarts, the end.

    launcher > [SimpleElasticAgent.run] > restarts (decisions), ranks, barrier;   local.py fills in the workers

Runs in: agent, one thread. Derive from it and fill in the four abstract methods.
Source: torch 2.13 (SEEDS section 13). Different: the loop waits for events, not for an interval; a graceful exit has a
result; a group that is given up has FAILED; `shutdown_timeout` holds on every path.
"""

from __future__ import annotations

import abc
import json
import logging
import os
import signal
import threading
import time
from datetime import timedelta
from typing import Any

from ..process.signals import SignalException
from ..telemetry.metrics import prof, put_metric
from ..terms import env
from ..terms.errors import RendezvousGracefulExitError, first_line
from . import barrier as store_util
from .ranks import RoleInstanceInfo, assign, identical_workers
from .recording import Recording
from .restarts import Step, next_step, restart_reason
from .spec import RunResult, Worker, WorkerGroup, WorkerSpec, WorkerState
from .telling import Silent, Telling

__all__ = ["DEFAULT_ROLE", "ElasticAgent", "SimpleElasticAgent"]

logger = logging.getLogger("ipyelastic")

DEFAULT_ROLE = "default"
_LOOK_S = 0.05  # between two looks for what another machine is to write
_STORE_S = 300.0  # what torch's stores wait by default
_TERMINAL_STATE_SYNC_ID = "torchelastic/agent/terminal_state"
_ROLE_INFO, _ASSIGNED_RANKS = "torchelastic/role_info/", "torchelastic/assigned_ranks/"


class ElasticAgent(abc.ABC):
    """Starts one machine's workers and looks after them. Derive from it, or better from SimpleElasticAgent.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/agent.html.
    """

    @abc.abstractmethod
    def run(self, role: str = DEFAULT_ROLE) -> RunResult:
        """Run the workers to their end, restarts included. Raises whatever keeps the agent from doing so.

        Args:
            role: Which workers; an agent of one role ignores it.
        """

    @abc.abstractmethod
    def get_worker_group(self, role: str = DEFAULT_ROLE) -> WorkerGroup:
        """The workers of this `role`, for looking at."""


class SimpleElasticAgent(Recording, ElasticAgent):
    """An agent for one role. Derive from it and fill in its four abstract methods: `_start_workers`, `_stop_workers`,
    `_monitor_workers` and `_shutdown`.

    Args:
        spec: What to run.
        exit_barrier_timeout: Seconds that a finished agent waits for the others.
        shutdown_timeout: Seconds between asking workers to end and killing them.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/agent.html.
    """

    _telling: Telling = Silent()
    _progress_level = logging.INFO
    """At which the log says how far things are; below it where somebody shows the run anyway."""

    def __init__(self, spec: WorkerSpec, exit_barrier_timeout: float = 300, shutdown_timeout: int = 30) -> None:
        self._worker_group = WorkerGroup(spec)
        self._remaining_restarts = spec.max_restarts
        self._store: Any = None
        self._exit_barrier_timeout, self._shutdown_timeout = exit_barrier_timeout, shutdown_timeout
        self._total_execution_time = 0
        self._in_exit_barrier = False
        self._restart_reason = ""
        self._woken = threading.Event()

    def get_worker_group(self, role: str = DEFAULT_ROLE) -> WorkerGroup:
        """The workers, for looking at. There is one group, whatever the `role`."""
        return self._worker_group

    # ------------------------------------------------------------------------------------------------- to be filled in

    @abc.abstractmethod
    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        """Start them; `{local_rank: worker id}`."""

    @abc.abstractmethod
    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        """End them all."""

    @abc.abstractmethod
    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """One look at them."""

    @abc.abstractmethod
    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        """Give everything back: ask workers to end with `death_sig`, kill what is left after `timeout` seconds."""

    # ------------------------------------------------------------------------------------------------ may be overridden

    def _await_change(self, within_s: float) -> None:
        """Return when a look at the workers may show something new, at the latest after `within_s` seconds."""
        self._woken.wait(within_s)

    def _is_restart_refused(self, result: RunResult) -> bool:
        """Whether the group must not be started again although restarts are left."""
        return False

    def _tell_restart(self, reason: str) -> None:
        """The workers of one attempt are gone, those of the next are about to start."""

    # -------------------------------------------------------------------------------------------------------- beginning

    @prof
    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        """Meet the other agents; afterwards every worker knows its ranks. Raises what the handler raises."""
        spec = worker_group.spec
        with self._telling.waiting("meet", spec.rdzv_handler):
            with self.record_duration("RENDEZVOUS"):
                met = spec.rdzv_handler.next_rendezvous()
            self._store = met.store
            with self.record_duration("ASSIGN_WORKER_RANKS"):
                workers = self._assign_worker_ranks(met.store, met.rank, met.world_size, spec)
        worker_group.workers, worker_group.store = workers, met.store
        worker_group.group_rank, worker_group.group_world_size = met.rank, met.world_size
        worker_group.master_addr = spec.master_addr or met.bootstrap_store_info.master_addr
        worker_group.master_port = spec.master_port or met.bootstrap_store_info.master_port
        logger.log(
            self._progress_level,
            "[%s] rendezvous complete for workers: attempt %s, master %s:%s, group rank %s of %s, global ranks %s",
            spec.role,
            spec.max_restarts - self._remaining_restarts,
            worker_group.master_addr,
            worker_group.master_port,
            met.rank,
            met.world_size,
            [worker.global_rank for worker in workers],
        )

    @prof
    def _assign_worker_ranks(
        self, store: Any, group_rank: int, group_world_size: int, spec: WorkerSpec
    ) -> list[Worker]:
        """Workers with all their ranks: counted where all agents are alike, else exchanged through the store."""
        size = spec.local_world_size
        if group_world_size == 1 or os.environ.get(env.WORKER_IDENTICAL, "0") == "1":
            return identical_workers(group_rank, group_world_size, size)
        own = RoleInstanceInfo(spec.role, group_rank, size)
        store.set(f"{_ROLE_INFO}{group_rank}", own.serialize())
        if group_rank == 0:
            _await_keys(store, [f"{_ROLE_INFO}{rank}" for rank in range(group_world_size)])
            told = store.multi_get([f"{_ROLE_INFO}{rank}" for rank in range(group_world_size)])
            assigned = assign([RoleInstanceInfo.deserialize(data) for data in told])
            # Torch's order of the four numbers: agents of both may meet.
            values = [json.dumps([first, world, role_first, role]) for first, world, role_first, role in assigned]
            store.multi_set([f"{_ASSIGNED_RANKS}{rank}" for rank in range(group_world_size)], values)
        _await_keys(store, [f"{_ASSIGNED_RANKS}{group_rank}"])
        first, world_size, role_first, role_world_size = json.loads(store.get(f"{_ASSIGNED_RANKS}{group_rank}"))
        return [Worker(local, first + local, role_first + local, world_size, role_world_size) for local in range(size)]

    @prof
    def _initialize_workers(self, worker_group: WorkerGroup) -> None:
        """Meet, number, start."""
        self._rendezvous(worker_group)
        ids = self._start_workers(worker_group)
        for worker in worker_group.workers:
            worker.id = ids.get(worker.local_rank)
            self._record_worker_started(worker)
        worker_group.state = WorkerState.HEALTHY

    @prof
    def _restart_workers(self, worker_group: WorkerGroup) -> None:
        """End all workers of this agent, then start them again as after a new rendezvous."""
        logger.log(self._progress_level, "[%s] Stopping worker group", worker_group.spec.role)
        self._stop_workers(worker_group)
        worker_group.state = WorkerState.STOPPED
        self._tell_restart(self._restart_reason)
        self._initialize_workers(worker_group)

    # --------------------------------------------------------------------------------------------------------- the run

    @prof
    def run(self, role: str = DEFAULT_ROLE) -> RunResult:
        """Run the workers to their end, restarts included.

        Args:
            role: Not used: there is one.

        Returns:
            SUCCEEDED with values, or FAILED with failures. SUCCEEDED with neither: the rendezvous needs this node no
            more, and nothing runs on it.

        Raises:
            SignalException: A signal came; the workers were asked to end by the same.
            RendezvousError: The agents could not meet.
            OptionError, UnpicklableError, ServerError, OSError: Workers could not be started.
        """
        began = time.monotonic()
        is_shut_down = False
        try:
            result = self._invoke_run(role)
            self._total_execution_time = int(time.monotonic() - began)
            self._record_metrics(result)
            self._record_worker_events(result)
            return result
        except RendezvousGracefulExitError as error:
            logger.info("Rendezvous gracefully exited: %s", error)
            return RunResult(WorkerState.SUCCEEDED)
        except SignalException as error:
            logger.warning("Received %s death signal, shutting down workers", error.sigval)
            self._shutdown(error.sigval, timeout=self._shutdown_timeout)
            is_shut_down = True
            raise
        finally:
            if not is_shut_down:
                self._shutdown(timeout=self._shutdown_timeout)
            self._total_execution_time = int(time.monotonic() - began)

    def _invoke_run(self, role: str = DEFAULT_ROLE) -> RunResult:
        """Start, then watch until the group has succeeded or is given up."""
        group = self._worker_group
        spec = group.spec
        logger.log(
            self._progress_level, "[%s] starting workers for entrypoint: %s", spec.role, spec.get_entrypoint_name()
        )
        self._initialize_workers(group)
        while True:
            assert group.state != WorkerState.INIT
            self._await_change(spec.monitor_interval)
            result = self._monitor_workers(group)
            group.state = result.state
            put_metric(f"workers.{spec.role}.remaining_restarts", self._remaining_restarts)
            put_metric(f"workers.{spec.role}.{result.state.value.lower()}", 1)
            waiting = spec.rdzv_handler.num_nodes_waiting() if result.state == WorkerState.HEALTHY else 0
            step = next_step(
                result.state,
                remaining_restarts=self._remaining_restarts,
                nodes_waiting=waiting,
                is_restart_refused=self._is_restart_refused(result),
            )
            if step is Step.FINISH:
                logger.log(self._progress_level, "[%s] worker group successfully finished", spec.role)
                self._exit_barrier()
                return result
            if step is Step.GIVE_UP:
                self._stop_workers(group)
                group.state = WorkerState.FAILED
                # Torch hands on UNHEALTHY, which counts as success (SEEDS section 18, 12).
                return RunResult(WorkerState.FAILED, result.return_values, result.failures)
            if step is Step.RESTART:
                left, size = self._remaining_restarts, spec.max_restarts
                words = "[%s] worker group %s: %s of %s restarts left"
                logger.log(self._progress_level, words, spec.role, result.state.name, left, size)
                self._remaining_restarts -= 1
                self._restart(restart_reason(result.failures))
            elif step is Step.RESTART_FREE:
                logger.info("[%s] %s nodes wait to join: workers are started again", spec.role, waiting)
                self._restart(f"{waiting} other node{'s' if waiting > 1 else ''} joined, or started again")
            elif step is Step.REFUSE:
                raise Exception(f"[{spec.role}] Worker group in {result.state.name} state")

    def _restart(self, reason: str) -> None:
        self._restart_reason = reason
        self._restart_workers(self._worker_group)

    def _exit_barrier(self) -> None:
        """Wait for the other agents: one that goes would look like a node that was lost. Never in the run's way."""
        words = "local worker group finished; waiting %s s for the other agents"
        logger.log(self._progress_level, words, self._exit_barrier_timeout)
        began = time.monotonic()
        self._in_exit_barrier = True
        try:
            with self._telling.waiting("leave"):
                store_util.barrier(
                    store=self._store,
                    world_size=self._worker_group.group_world_size or 1,
                    key_prefix=_TERMINAL_STATE_SYNC_ID,
                    barrier_timeout=self._exit_barrier_timeout,
                )
        except SignalException as error:
            logger.warning("Got termination signal: %s", error.sigval)
            raise
        except Exception as error:
            took_s, said = time.monotonic() - began, first_line(error)
            logger.warning("waiting for the other agents to finish ended after %.0f s: %s", took_s, said)
            logger.debug("what the exit barrier raised:", exc_info=True)
        finally:
            self._in_exit_barrier = False


def _await_keys(store: Any, keys: list[str]) -> None:
    """Wait for other agents' words, looking from Python: torch's own wait hears no signal before its time is up.

    Returns when the store's time is up, too: whoever reads then gets the store's own error.
    """
    timeout = getattr(store, "timeout", None)
    deadline = time.monotonic() + (timeout.total_seconds() if isinstance(timeout, timedelta) else _STORE_S)
    while not store.check(keys) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
