"""Launch a job as torch does: one agent here, more on other machines, values back by global rank.

    a program -> [elastic_launch > launch_agent] > rendezvous.choose, agent/local > ... -> {rank: value}

Runs in: owner, the caller's thread. Blocks until the job's end.
Source: torch 2.13 (SEEDS section 12). Different: neither the config nor `os.environ` is changed, a rendezvous that
cannot be shut down does not hide how the workers ended, and a single node without an endpoint needs no server.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from ..agent.local import LocalElasticAgent
from ..agent.spec import RunResult, WorkerSpec
from ..agent.telling import Silent, Telling
from ..contexts.settings import RankSettings
from ..output import retention
from ..output.logs import DefaultLogsSpecs
from ..process.signals import SignalException, taken_from_env
from ..rendezvous import choose as rdzv_registry
from ..rendezvous.endpoint import parse_rendezvous_endpoint
from ..rendezvous.handler import RendezvousHandler, RendezvousParameters
from ..telemetry import events, metrics
from ..terms.errors import ChildFailedError, first_line
from .config import LaunchConfig

__all__ = ["elastic_launch", "launch_agent"]

logger = logging.getLogger("ipyelastic")

STANDALONE = "standalone"


class elastic_launch:
    """Launches a function or a program on this node's workers and waits for the job's end.

    Args:
        config: See LaunchConfig. Stays as it is: it may be launched again.
        entrypoint: A function, or a program's path.
        health_check_server: Somebody's own, stopped with the run.

    Example:
        >>> from ipyelastic.launcher.config import LaunchConfig
        >>> config = LaunchConfig(1, 1, 2, rdzv_backend="standalone", start_method="forkserver")
        >>> elastic_launch(config, abs)(-3)
        {0: 3, 1: 3}

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/run.html.
    """

    def __init__(
        self,
        config: LaunchConfig,
        entrypoint: Callable[..., Any] | str | None,
        health_check_server: Any = None,
    ) -> None:
        self._config, self._entrypoint, self._health_check_server = config, entrypoint, health_check_server

    def __call__(self, *args: Any) -> dict[int, Any]:
        """Launch with these arguments, the same for every worker; `{global rank: value}`. Raises as `launch_agent`
        does.

        Args:
            args: Of a function any values; of a program words.
        """
        return launch_agent(self._config, self._entrypoint, list(args), self._health_check_server)


def launch_agent(
    config: LaunchConfig,
    entrypoint: Callable[..., Any] | str | None,
    args: list[Any],
    health_check_server: Any = None,
    *,
    telling: Telling | None = None,
) -> dict[int, Any]:
    """Run this node's workers to the job's end.

    Args:
        config: See LaunchConfig. Stays as it is.
        entrypoint: A function, or a program's path.
        args: Its arguments, the same for every worker; in texts `${local_rank}` is replaced.
        health_check_server: Somebody's own, stopped with the run.
        telling: Ours: hears of waits for other agents and of new attempts.

    Returns:
        `{global rank: value}` of this node's workers; for programs `{global rank: None}`.

    Raises:
        ChildFailedError: Workers failed, and there are no restarts left.
        SignalException: A signal came to this process; the workers were asked to end by the same.
        RendezvousError: The agents could not meet.
        ValueError: No such rendezvous, or parameters that it does not take.
        AssertionError: No entrypoint, as torch has it.
        OptionError, UnpicklableError, ServerError, OSError: Workers could not be started.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/run.html.
    """
    run_id = config.run_id or str(uuid.uuid4().int)
    entrypoint_name = _get_entrypoint_name(entrypoint, args)
    logger.info(
        "Starting elastic_operator with launch configs: run_id %s, entrypoint %s, %s", run_id, entrypoint_name, config
    )
    parameters = RendezvousParameters(
        backend=_backend(config),
        endpoint=config.rdzv_endpoint,
        run_id=run_id,
        min_nodes=config.min_nodes,
        max_nodes=config.max_nodes,
        local_addr=config.local_addr,
        **config.rdzv_configs,
    )
    master_addr, master_port = _get_addr_and_port(parameters)
    with (telling or Silent()).waiting("reach"):
        rdzv_handler = rdzv_registry.get_rendezvous_handler(parameters)
    agent: LocalElasticAgent | None = None
    is_signalled = False
    with ExitStack() as undo:
        if threading.current_thread() is threading.main_thread():
            # For the whole job: an agent that waits for others to come has no workers that could take them.
            undo.enter_context(taken_from_env(config.signals_to_handle))
        try:
            spec = WorkerSpec(
                role=config.role,
                local_world_size=config.nproc_per_node,
                entrypoint=entrypoint,
                args=tuple(args),
                rdzv_handler=rdzv_handler,
                max_restarts=config.max_restarts,
                monitor_interval=config.monitor_interval,
                master_addr=master_addr,
                master_port=master_port,
                local_addr=config.local_addr,
                event_log_handler=config.event_log_handler,
                numa_options=config.numa_options,
                duplicate_stdout_filters=config.duplicate_stdout_filters,
                duplicate_stderr_filters=config.duplicate_stderr_filters,
                virtual_local_rank=config.virtual_local_rank,
            )
            assert config.logs_specs is not None
            assert config.shutdown_timeout is not None
            assert config.exit_barrier_timeout is not None
            agent = LocalElasticAgent(
                spec=spec,
                logs_specs=config.logs_specs,
                start_method=config.start_method,
                exit_barrier_timeout=config.exit_barrier_timeout,
                log_line_prefix_template=config.log_line_prefix_template,
                shutdown_timeout=config.shutdown_timeout,
                health_check_server=health_check_server,
                settings=RankSettings(signals=config.signals_to_handle, is_torchs=True, logs_failure=telling is None),
                telling=telling,
            )
            metrics.initialize_metrics(metrics.MetricsConfig(config.metrics_cfg))
            result = agent.run()
            # The agent did its work, also when workers failed.
            events.record(agent.get_event_succeeded(), config.event_log_handler)
            return _values(result, entrypoint_name, config)
        except ChildFailedError:
            raise
        except SignalException:
            is_signalled = True
            if agent is not None:
                events.record(agent.get_event_failed(), config.event_log_handler)
            raise
        except Exception:
            if agent is not None:
                events.record(agent.get_event_failed(), config.event_log_handler)
            raise
        finally:
            _shut_down(rdzv_handler, is_signalled)


def _values(result: RunResult, name: str, config: LaunchConfig) -> dict[int, Any]:
    if not result.is_failed():
        return dict(sorted(result.return_values.items()))  # by rank, whichever ended first
    logs = config.logs_specs
    if isinstance(logs, DefaultLogsSpecs) and logs.root_log_dir.startswith(retention.root_folder() + os.sep):
        retention.mark_failed(logs.run_log_dir)
    if not result.failures:
        raise RuntimeError(f"{name}: the worker group failed and names no failed worker")
    raise ChildFailedError(name=name, failures=result.failures)


def _shut_down(rdzv_handler: RendezvousHandler, is_signalled: bool) -> None:
    # After a signal the job goes on elsewhere: shutting down would close it for the other agents.
    if is_signalled and rdzv_handler.get_backend() != STANDALONE:
        return
    try:
        rdzv_handler.shutdown()
    except Exception as error:  # how the workers ended matters more (SEEDS section 18, 11)
        logger.error("the rendezvous could not be shut down: %s", first_line(error))
        logger.debug("what its shutdown raised:", exc_info=True)


def _backend(config: LaunchConfig) -> str:
    """The rendezvous to use: torch's default of "etcd" means nothing on one node without an endpoint."""
    is_default = config.rdzv_backend in ("", "etcd") and not config.rdzv_endpoint
    return STANDALONE if not config.rdzv_backend or (is_default and config.max_nodes == 1) else config.rdzv_backend


def _get_entrypoint_name(entrypoint: Callable[..., Any] | str | None, args: list[Any]) -> str:
    """What a person calls it: a function's name; a program's path, or with this Python the script it runs."""
    if entrypoint is None:
        return ""
    if not isinstance(entrypoint, str):
        while hasattr(entrypoint, "func"):  # functools.partial and its like
            entrypoint = entrypoint.func
        return str(getattr(entrypoint, "__name__", type(entrypoint).__name__))
    if entrypoint == sys.executable:
        return next((str(arg) for arg in args if not str(arg).startswith("-")), "")
    return entrypoint


def _get_addr_and_port(rdzv_parameters: RendezvousParameters) -> tuple[str | None, int | None]:
    """MASTER_ADDR and MASTER_PORT of a static rendezvous; (None, None) for all others.

    Raises ValueError when its endpoint is missing, has no port or is malformed.
    """
    if rdzv_parameters.backend != "static":
        return None, None
    endpoint = (rdzv_parameters.endpoint or "").strip()
    if not endpoint:
        raise ValueError("Endpoint is missing in endpoint. Try to add --master-addr and --master-port")
    address, port = parse_rendezvous_endpoint(endpoint, default_port=-1)
    if port == -1:
        raise ValueError(f"port is missing in endpoint: {endpoint}. Try to specify --master-port")
    return address, port
