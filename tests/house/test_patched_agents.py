"""A name replaced in `compat.agent` or `compat.launcher` is replaced where it is used: SEEDS section 17, one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ipyelastic.compat.agent.server import SimpleElasticAgent, WorkerSpec, WorkerState, api
from ipyelastic.compat.agent.server.local_elastic_agent import LocalElasticAgent
from ipyelastic.compat.launcher import LaunchConfig, elastic_launch
from ipyelastic.compat.multiprocessing import DefaultLogsSpecs, PContext, Std
from ipyelastic.compat.rendezvous import RendezvousHandler
from ipyelastic.devices import gpus
from ipyelastic.launcher import config as config_room
from ipyelastic.rendezvous.local_store import LocalStore
from ipyelastic.rendezvous.standalone import StandaloneRendezvous

API = "ipyelastic.compat.agent.server.api"
LOCAL = "ipyelastic.compat.agent.server.local_elastic_agent"
LAUNCHER = "ipyelastic.compat.launcher.api"
MakeAgent = Callable[..., LocalElasticAgent]


@pytest.fixture
def handler() -> Iterator[RendezvousHandler]:
    handler = StandaloneRendezvous("run")
    yield handler
    handler.shutdown()


@pytest.fixture
def new_agent(tmp_path: Path, handler: RendezvousHandler) -> MakeAgent:
    """Makes an agent of one rank whose value is its pid."""

    def make(**options: Any) -> LocalElasticAgent:
        spec = WorkerSpec("trainer", 1, handler, entrypoint=os.getpid, max_restarts=2)
        logs = DefaultLogsSpecs(log_dir=str(tmp_path / "logs"), redirects=Std.ALL)
        return LocalElasticAgent(spec, logs, "forkserver", **options)

    return make


@pytest.fixture
def config(tmp_path: Path) -> LaunchConfig:
    logs = DefaultLogsSpecs(log_dir=str(tmp_path / "logs"), redirects=Std.ALL)
    return LaunchConfig(1, 1, 1, logs_specs=logs, start_method="forkserver", rdzv_backend="standalone")


# ---- agents


def test_patched_put_metric_gets_what_an_agent_measures(new_agent: MakeAgent) -> None:
    with mock.patch(f"{API}.put_metric") as put:
        new_agent().run()
    assert mock.call("workers.trainer.run_success_no_retries", 1) in put.call_args_list
    assert mock.call("workers.trainer.remaining_restarts", 2) in put.call_args_list


@pytest.mark.parametrize(
    ("max_restarts", "left", "is_failed", "flakiness"),
    [(1, 1, False, 0), (10, 3, False, 63), (0, 0, False, 0), (1, 1, True, 100)],
)
def test_flakiness(new_agent: MakeAgent, max_restarts: int, left: int, is_failed: bool, flakiness: int) -> None:
    agent = new_agent()
    agent._worker_group.spec.max_restarts, agent._remaining_restarts = max_restarts, left
    with mock.patch(f"{API}.put_metric") as put:
        agent._record_flakiness_metric(is_failed)
    put.assert_called_once_with("workers.trainer.flakiness", flakiness)


def test_patched_host_name_is_the_events(new_agent: MakeAgent) -> None:
    with mock.patch(f"{API}._get_fq_hostname", return_value="node-b"):
        assert new_agent().get_event_succeeded().metadata["hostname"] == "node-b"


def test_patched_role_info_is_what_agents_exchange(new_agent: MakeAgent) -> None:
    agent = new_agent()
    with mock.patch(f"{API}._RoleInstanceInfo", wraps=api._RoleInstanceInfo) as info:
        info.deserialize = api._RoleInstanceInfo.deserialize
        store = LocalStore()
        store.set("torchelastic/role_info/1", b'{"role": "trainer", "rank": 1, "local_world_size": 2}')
        workers = agent._assign_worker_ranks(store, 0, 2, agent._worker_group.spec)
    info.assert_called_once_with("trainer", 0, 1)
    assert [(worker.global_rank, worker.world_size) for worker in workers] == [(0, 3)]


@pytest.mark.parametrize("name", [f"{API}.store_util.barrier", "ipyelastic.compat.utils.store.barrier"])
def test_patched_barrier_is_the_exit_barrier_and_its_errors_are_swallowed(new_agent: MakeAgent, name: str) -> None:
    with mock.patch(name, side_effect=RuntimeError("gone")) as barrier:
        assert not new_agent().run().is_failed()
    barrier.assert_called_once()


def test_patched_start_processes_starts_the_workers(new_agent: MakeAgent) -> None:
    context = mock.MagicMock(spec=PContext)
    context.pids.return_value = {0: 99}
    context.wait.return_value = mock.Mock(is_failed=lambda: False, failures={}, return_values={0: "value"})
    with mock.patch(f"{LOCAL}.start_processes", return_value=context) as start:
        result = new_agent(shutdown_timeout=7, log_line_prefix_template="[${rank}]:").run()
    assert result.return_values == {0: "value"}
    assert start.call_args.kwargs["name"] == "trainer"
    assert start.call_args.kwargs["log_line_prefixes"] == {0: "[0]:"}
    assert start.call_args.kwargs["envs"][0]["RANK"] == "0"
    assert all(call.args[1] == 7 for call in context.close.call_args_list)


def test_patched_record_takes_an_agents_events(new_agent: MakeAgent) -> None:
    with mock.patch(f"{API}.record") as record:
        new_agent().run()
    states = [call.args[0].metadata["state"] for call in record.call_args_list]
    assert states == ["RENDEZVOUS", "ASSIGN_WORKER_RANKS", "START", "SUCCEEDED"]


def test_attributes_that_callers_use_are_there(new_agent: MakeAgent) -> None:
    agent = new_agent(exit_barrier_timeout=3, shutdown_timeout=4)
    assert isinstance(agent, SimpleElasticAgent)
    assert (agent._remaining_restarts, agent._exit_barrier_timeout, agent._shutdown_timeout) == (2, 3, 4)
    assert agent._pcontext is None
    assert agent._worker_group is agent.get_worker_group()
    assert agent._worker_group.state == WorkerState.INIT


# ---- launches


def test_patched_agent_is_the_one_that_runs(config: LaunchConfig) -> None:
    with mock.patch(f"{LAUNCHER}.LocalElasticAgent") as agent:
        agent.return_value.run.return_value = mock.Mock(is_failed=lambda: False, return_values={0: "value"})
        assert elastic_launch(config, os.getpid)() == {0: "value"}
    assert agent.call_args.kwargs["spec"].local_world_size == 1


def test_patched_run_of_the_agent_is_what_is_waited_for(config: LaunchConfig) -> None:
    with (
        mock.patch(f"{LOCAL}.LocalElasticAgent.run", side_effect=KeyError("own")),
        pytest.raises(KeyError, match="own"),
    ):
        elastic_launch(config, os.getpid)()


def test_exactly_one_event_is_recorded_by_the_launcher(config: LaunchConfig) -> None:
    with mock.patch(f"{LAUNCHER}.events.record") as record:
        elastic_launch(config, os.getpid)()
    record.assert_called_once()
    assert record.call_args.args[0].metadata["state"] == "SUCCEEDED"


def test_patched_registry_makes_the_rendezvous(config: LaunchConfig) -> None:
    name = f"{LAUNCHER}.rdzv_registry.get_rendezvous_handler"
    with mock.patch(name, side_effect=LookupError("own")) as get, pytest.raises(LookupError, match="own"):
        elastic_launch(config, os.getpid)()
    assert get.call_args.args[0].backend == "standalone"


@pytest.mark.parametrize(("count", "is_asked"), [(1, True), (2, False), (0, False)])
def test_patched_default_numa_options_are_asked_for_when_each_gpu_has_its_worker(count: int, is_asked: bool) -> None:
    assert gpus.visible_gpu_count is config_room.visible_gpu_count
    with (
        mock.patch.object(config_room, "visible_gpu_count", return_value=count),
        mock.patch(f"{LAUNCHER}.get_default_numa_options", return_value="bound") as asked,
    ):
        assert LaunchConfig(1, 1, 1).numa_options == ("bound" if is_asked else None)
    assert asked.called is is_asked


# ---- whole trees


@pytest.mark.torch
@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        ("ipyelastic.compat.agent.server", "torch.distributed.elastic.agent.server"),
        (API, "torch.distributed.elastic.agent.server.api"),
        (LOCAL, "torch.distributed.elastic.agent.server.local_elastic_agent"),
        ("ipyelastic.compat.launcher", "torch.distributed.launcher"),
        (LAUNCHER, "torch.distributed.launcher.api"),
    ],
)
def test_torchs_public_names_are_there(ours: str, torchs: str) -> None:
    import importlib
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = getattr(importlib.import_module(torchs), "__all__", [])
    assert [name for name in names if not hasattr(importlib.import_module(ours), name)] == []


@pytest.mark.torch
def test_methods_have_torchs_parameters() -> None:
    import inspect
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.distributed.elastic.agent.server import api as theirs
        from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent as TheirLocal

    def parameters(kind: Any, name: str) -> list[tuple[str, Any]]:
        signature = inspect.signature(getattr(kind, name))
        plain = [one for one in signature.parameters.values() if one.kind is not one.KEYWORD_ONLY]
        return [(one.name, one.default) for one in plain]

    for their, our in ((theirs.SimpleElasticAgent, SimpleElasticAgent), (TheirLocal, LocalElasticAgent)):
        for name in [*(name for name in vars(their) if inspect.isfunction(vars(their)[name])), "__init__"]:
            if name != "_update_uninterruptible_dwell" and name != "_set_local_rank_env":
                assert parameters(our, name) == parameters(their, name), name
    for name in ("WorkerSpec", "Worker", "WorkerGroup", "RunResult", "_RoleInstanceInfo"):
        assert list(inspect.signature(getattr(api, name)).parameters) == list(
            inspect.signature(getattr(theirs, name)).parameters
        )
