"""elastic_launch: values, failures, what is left as it was, and a real training."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from copy import copy
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ipyelastic.agent.local import LocalElasticAgent
from ipyelastic.launcher import launch as launch_room
from ipyelastic.launcher.config import LaunchConfig
from ipyelastic.launcher.launch import _get_addr_and_port, _get_entrypoint_name, elastic_launch
from ipyelastic.output.logs import DefaultLogsSpecs
from ipyelastic.process.signals import SignalException
from ipyelastic.rendezvous.handler import RendezvousParameters
from ipyelastic.rendezvous.standalone import StandaloneRendezvous
from ipyelastic.terms.errors import ChildFailedError
from ipyelastic.terms.std import Std
from support import launch_bodies as bodies
from support.gates import Gate
from support.waiting import wait_until

NewConfig = Callable[..., LaunchConfig]


@pytest.fixture
def new_config(tmp_path: Path) -> NewConfig:
    """Makes a config of two ranks on this machine."""

    def make(**options: Any) -> LaunchConfig:
        logs = DefaultLogsSpecs(log_dir=str(tmp_path / "logs"), redirects=Std.ALL)
        fields = {"nproc_per_node": 2, "start_method": "forkserver", "max_restarts": 0, "logs_specs": logs, **options}
        return LaunchConfig(min_nodes=1, max_nodes=1, **fields)

    return make


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path / "gate") as gate:
        yield gate


# ---- what comes back


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_values_come_back_by_global_rank(new_config: NewConfig, method: str) -> None:
    config = new_config(start_method=method)
    assert elastic_launch(config, bodies.value_of)("x") == {0: (0, "x"), 1: (1, "x")}


def test_functions_without_a_module_can_be_launched(new_config: NewConfig) -> None:
    factor = 3
    assert elastic_launch(new_config(), lambda value: value * factor)(2) == {0: 6, 1: 6}
    assert elastic_launch(new_config(), functools.partial(pow, 2))(5) == {0: 32, 1: 32}


def test_programs_give_none(new_config: NewConfig) -> None:
    assert elastic_launch(new_config(), sys.executable)("-c", "") == {0: None, 1: None}


def test_failures_come_by_global_rank_under_the_entrypoints_name(new_config: NewConfig) -> None:
    with pytest.raises(ChildFailedError, match=r"\nfail FAILED\n") as raised:
        elastic_launch(new_config(nproc_per_node=1), bodies.fail)()
    assert {rank: one.exitcode for rank, one in raised.value.failures.items()} == {0: 1}


def test_no_entrypoint_is_an_assertion_error_as_torchs(new_config: NewConfig) -> None:
    with pytest.raises(AssertionError):
        elastic_launch(new_config(), None)()


# ---- what is left as it was


def test_the_same_config_launches_twice_and_is_not_changed(new_config: NewConfig) -> None:
    config = new_config()
    before, environment = copy(config), dict(os.environ)
    first = elastic_launch(config, bodies.environment)()
    second = elastic_launch(config, bodies.environment)()
    assert config == before
    assert config.run_id == ""
    assert dict(os.environ) == environment
    assert first[0]["TORCHELASTIC_RUN_ID"] != second[0]["TORCHELASTIC_RUN_ID"]
    assert first[0]["TORCHELASTIC_RUN_ID"] == first[1]["TORCHELASTIC_RUN_ID"]
    assert first[0]["TORCHELASTIC_SIGNALS_TO_HANDLE"] == "SIGTERM,SIGINT,SIGHUP,SIGQUIT"


def test_signal_handlers_are_given_back(new_config: NewConfig) -> None:
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)}
    elastic_launch(new_config(), bodies.value_of)(0)
    with pytest.raises(ChildFailedError):
        elastic_launch(new_config(), bodies.fail)()
    assert {one: signal.getsignal(one) for one in before} == before


# ---- ending


def test_a_signal_ends_workers_and_is_raised(new_config: NewConfig, gate: Gate, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()

    def interrupt() -> None:
        wait_until(lambda: len(list(notes.iterdir())) == 2, 30, "both ranks are up")
        os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=interrupt)
    config = new_config(signals_to_handle="SIGUSR1", max_restarts=3)
    thread.start()
    with pytest.raises(SignalException) as raised:
        elastic_launch(config, bodies.leave_note_and_wait)(str(notes), gate.path)
    thread.join()
    assert raised.value.sigval == signal.SIGUSR1
    for note in notes.iterdir():
        pid = int(note.name.rpartition("-")[2])
        wait_until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"), 20, f"{pid} is gone")


def test_a_rendezvous_that_cannot_be_shut_down_does_not_hide_the_failure(
    new_config: NewConfig, caplog: pytest.LogCaptureFixture
) -> None:
    shutdown = StandaloneRendezvous.shutdown

    def failing(self: StandaloneRendezvous) -> bool:
        shutdown(self)
        raise RuntimeError("the store is gone")

    with mock.patch.object(StandaloneRendezvous, "shutdown", failing):
        with pytest.raises(ChildFailedError):
            elastic_launch(new_config(), bodies.fail)()
        assert elastic_launch(new_config(), bodies.value_of)(1) == {0: (0, 1), 1: (1, 1)}
    assert [
        record.message for record in caplog.records if record.levelno >= logging.ERROR and "rendez" in record.message
    ]


def test_a_signalled_agent_leaves_the_rendezvous_to_the_others(new_config: NewConfig) -> None:
    handler = mock.MagicMock()
    handler.get_run_id.return_value = "run"
    with (
        mock.patch.object(launch_room.rdzv_registry, "get_rendezvous_handler", return_value=handler),
        mock.patch.object(LocalElasticAgent, "run", side_effect=SignalException("stop", signal.SIGTERM)),
        mock.patch.object(launch_room.events, "record") as record,
        pytest.raises(SignalException),
    ):
        elastic_launch(new_config(rdzv_backend="static", rdzv_endpoint="localhost:29500"), bodies.value_of)(1)
    handler.shutdown.assert_not_called()
    assert record.call_count == 1
    assert record.call_args.args[0].metadata["state"] == "FAILED"


def test_its_own_timeouts_reach_the_agent(new_config: NewConfig) -> None:
    with mock.patch.object(launch_room, "LocalElasticAgent", wraps=LocalElasticAgent) as made:
        elastic_launch(new_config(shutdown_timeout=7, exit_barrier_timeout=9), bodies.value_of)(1)
    assert made.call_args.kwargs["shutdown_timeout"] == 7
    assert made.call_args.kwargs["exit_barrier_timeout"] == 9


# ---- names, addresses, backends


class _Callable:
    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("entrypoint", "args", "name"),
    [
        (print, [], "print"),
        (functools.partial(print, 1), [], "print"),
        (functools.partial(functools.partial(print)), [], "print"),
        (_Callable(), [], "_Callable"),
        (_Callable, [], "_Callable"),
        (lambda: None, [], "<lambda>"),
        (sys.executable, ["-u", "train.py", "x"], "train.py"),
        (sys.executable, ["-m", "pkg.train"], "pkg.train"),
        (sys.executable, ["-u"], ""),
        (sys.executable, [], ""),
        (sys.executable, [3, "x"], "3"),
        (sys.executable, ["", "x"], ""),
        ("/bin/echo", ["x"], "/bin/echo"),
        (None, [], ""),
    ],
)
def test_what_an_entrypoint_is_called(entrypoint: Any, args: list[Any], name: str) -> None:
    assert _get_entrypoint_name(entrypoint, args) == name


def _parameters(backend: str, endpoint: Any) -> RendezvousParameters:
    return RendezvousParameters(backend, endpoint, "run", 1, 1)


@pytest.mark.parametrize(
    ("backend", "endpoint", "found"),
    [
        ("static", "host:1", ("host", 1)),
        ("static", " host:1 ", ("host", 1)),
        ("static", "[::1]:3", ("::1", 3)),
        ("static", "host:0", ("host", 0)),
        ("c10d", "host:1", (None, None)),
        ("c10d", "", (None, None)),
        ("standalone", "", (None, None)),
    ],
)
def test_address_and_port_are_those_of_a_static_endpoint(backend: str, endpoint: str, found: Any) -> None:
    assert _get_addr_and_port(_parameters(backend, endpoint)) == found


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("host", r"^port is missing in endpoint: host\. Try to specify --master-port$"),
        ("", r"^Endpoint is missing in endpoint\. Try to add --master-addr and --master-port$"),
        (" ", r"^Endpoint is missing"),
        (None, r"^Endpoint is missing"),
        ("host:x", "port number"),
        (":5", "hostname"),
    ],
)
def test_a_static_endpoint_that_says_too_little_is_refused(endpoint: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _get_addr_and_port(_parameters("static", endpoint))


@pytest.mark.parametrize("backend", ["", "standalone", "etcd"])
def test_one_node_without_an_endpoint_needs_no_server(new_config: NewConfig, backend: str) -> None:
    told = elastic_launch(new_config(rdzv_backend=backend), bodies.environment)()
    assert told[0]["MASTER_ADDR"] == "127.0.0.1"
    assert told[0]["TORCHELASTIC_USE_AGENT_STORE"] == "False"


def test_an_unknown_backend_is_named(new_config: NewConfig) -> None:
    with pytest.raises(ValueError, match="'zookeeper'"):
        elastic_launch(new_config(rdzv_backend="zookeeper"), bodies.value_of)(1)


# ---- a real training


@pytest.mark.torch
@pytest.mark.slow
def test_ddp_trains_and_parameters_are_equal_on_both_ranks(new_config: NewConfig) -> None:
    values = elastic_launch(new_config(), bodies.train)(30)
    for losses, _ in values.values():
        assert losses[-1] < losses[0] / 10
    assert values[0][1] == values[1][1]
    assert values[0][0] != values[1][0]
