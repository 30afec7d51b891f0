"""The agent of one machine: gives ranks their numbers and environment, starts them, waits, reports.

    engines/local > [here] > contexts/functions > ranks
                    [here] > output/tail (one thread) > sink

Runs in: the run's own thread. Source: torch 2.13 (SEEDS sections 13 and 14). Restarts come with issue 6: this agent
takes `max_restarts=0` and its `run` is one attempt.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable
from typing import Any

from ..contexts.functions import MultiprocessContext
from ..contexts.settings import RankSettings
from ..output.logs import LogsSpecs
from ..output.tail import Tail, TailedFile
from ..rendezvous.held_port import HeldPort
from ..terms import env
from ..terms.events import Sink, Stream
from .ranks import worker_environment
from .spec import RunResult, Worker, WorkerGroup, WorkerSpec, WorkerState

__all__ = ["LocalElasticAgent"]


class LocalElasticAgent:
    """Runs one worker group on this machine.

    Args:
        spec: What to run.
        logs_specs: Where output goes.
        start_method: See MultiprocessContext.
        settings: What ranks get besides torch's arguments; its `global_ranks` and `sink` are set here.
        sink: Takes events and output.
        is_output_complete: The sink wants every line, however far behind it falls.
        on_paths: Called with the ranks' stdout and stderr files, by local rank, before any rank is started.
        each_tick: See Tail.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        logs_specs: LogsSpecs,
        start_method: str = "forkserver",
        *,
        settings: RankSettings | None = None,
        sink: Sink | None = None,
        is_output_complete: bool = False,
        on_paths: Callable[[dict[int, str], dict[int, str]], None] | None = None,
        each_tick: Callable[[], None] | None = None,
    ) -> None:
        if spec.max_restarts != 0:
            raise NotImplementedError("max_restarts comes with issue 6: this agent makes one attempt")
        self._spec, self._logs_specs, self._start_method = spec, logs_specs, start_method
        self._settings = settings or RankSettings()
        self._sink, self._is_output_complete, self._on_paths = sink, is_output_complete, on_paths
        self._each_tick = each_tick
        self._worker_group = WorkerGroup(spec, [Worker(local_rank=rank) for rank in range(spec.local_world_size)])
        self._pcontext: MultiprocessContext | None = None
        self._lock = threading.Lock()
        self._asked: list[tuple[str, dict[str, Any]]] = []

    def run(self) -> RunResult:
        """Start the workers and wait for their end, whatever it is.

        Returns:
            SUCCEEDED with all values, or FAILED with the failures and the values there are.

        Raises:
            OptionError, UnpicklableError, ServerError, OSError: Nothing could be started.
        """
        port = HeldPort(self._spec.master_port)
        tail = None
        try:
            self._assign_worker_ranks(port.port)
            base_env = os.environ if self._settings.base_env is None else self._settings.base_env
            gpus = base_env.get(env.CUDA_VISIBLE_DEVICES)
            envs = {
                worker.local_rank: worker_environment(self._worker_group, worker, gpus)
                for worker in self._worker_group.workers
            }
            settings = dataclasses.replace(
                self._settings,
                sink=self._sink,
                global_ranks={worker.local_rank: worker.global_rank for worker in self._worker_group.workers},
            )
            args = dict.fromkeys(envs, self._spec.args)
            context = self._new_context(args, envs, settings)
            tail = self._follow(context)
            with self._lock:
                self._pcontext = context
                for op, fields in self._asked:
                    context.ask(op, **fields)
            context.start()
            self._worker_group.state = WorkerState.HEALTHY
            result = context.wait()
            assert result is not None
        finally:
            if tail is not None:
                tail.stop()
            if self._pcontext is not None:
                self._pcontext.close()
            port.close()
        return self._judge(result)

    def _new_context(self, args: Any, envs: dict[int, dict[str, str]], settings: RankSettings) -> MultiprocessContext:
        assert callable(self._spec.entrypoint)
        return MultiprocessContext(
            self._spec.role,
            self._spec.entrypoint,
            args,
            envs,
            self._start_method,
            self._logs_specs,
            numa_options=self._spec.numa_options,
            settings=settings,
        )

    def _judge(self, result: Any) -> RunResult:
        ranks = {worker.local_rank: worker.global_rank for worker in self._worker_group.workers}
        context = self._pcontext
        assert context is not None
        state = WorkerState.FAILED if result.is_failed() else WorkerState.SUCCEEDED
        self._worker_group.state = state
        return RunResult(
            state,
            {ranks[local]: value for local, value in context.values_so_far.items()},
            {ranks[local]: failure for local, failure in context.all_failures.items()},
        )

    def ask(self, op: str, **fields: Any) -> None:
        """`stop`, `kill` or `signal` the ranks, from any thread; before the start it is kept until then."""
        with self._lock:
            if self._pcontext is None:
                self._asked.append((op, fields))
            else:
                self._pcontext.ask(op, **fields)

    @property
    def context(self) -> MultiprocessContext | None:
        """The current attempt's context; None before the start."""
        return self._pcontext

    def _assign_worker_ranks(self, master_port: int) -> None:
        group, size = self._worker_group, self._spec.local_world_size
        group.master_addr, group.master_port = self._spec.master_addr, master_port
        for worker in group.workers:
            worker.global_rank = worker.role_rank = worker.local_rank
            worker.world_size = worker.role_world_size = size

    def _follow(self, context: MultiprocessContext) -> Tail | None:
        if self._on_paths is not None:
            self._on_paths(context.stdouts, context.stderrs)
        if self._sink is None:
            return None
        files = []
        both: tuple[tuple[Stream, dict[int, str]], ...] = (("stdout", context.stdouts), ("stderr", context.stderrs))
        for worker in self._worker_group.workers:
            for stream, paths in both:
                path = paths[worker.local_rank]
                if path and path != os.devnull:
                    files.append(TailedFile(worker.global_rank, stream, path))
        tail = Tail(files, self._sink, is_complete=self._is_output_complete, each_tick=self._each_tick)
        tail.start()
        return tail
