"""What an agent watches besides ends: its workers' timers, hangs in the kernel, a health check."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ipyelastic.agent import watching
from ipyelastic.agent.local import LocalElasticAgent
from ipyelastic.agent.spec import RunResult, WorkerSpec, WorkerState
from ipyelastic.agent.watching import resolve_uninterruptible_state_timeout
from ipyelastic.output.logs import DefaultLogsSpecs
from ipyelastic.process import states
from ipyelastic.rendezvous.standalone import StandaloneRendezvous
from ipyelastic.terms.std import Std
from support import agent_bodies as bodies
from support.gates import Gate

MakeAgent = Callable[..., LocalElasticAgent]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path / "gate") as gate:
        yield gate


@pytest.fixture
def new_agent(tmp_path: Path) -> Iterator[MakeAgent]:
    handlers = []

    def make(entrypoint: Any, *args: Any, max_restarts: int = 0, **options: Any) -> LocalElasticAgent:
        handler = StandaloneRendezvous("run")
        handlers.append(handler)
        spec = WorkerSpec(
            "trainer", 1, handler, entrypoint=entrypoint, args=args, max_restarts=max_restarts, monitor_interval=0.01
        )
        logs = DefaultLogsSpecs(log_dir=str(tmp_path / "logs"), redirects=Std.ALL)
        return LocalElasticAgent(spec, logs, "forkserver", **options)

    yield make
    for handler in handlers:
        handler.shutdown()


# ---- hangs in the kernel


@pytest.mark.parametrize(
    ("given", "in_environment", "seconds"),
    [
        (None, None, 0),
        (None, "3", 3),
        (None, "0", 0),
        (None, "-2", 0),
        (None, "x", 0),
        (None, "", 0),
        (0, "3", 0),
        (5, "3", 5),
        (-1, "3", 0),
    ],
)
def test_how_long_a_worker_may_hang(
    monkeypatch: pytest.MonkeyPatch, given: float | None, in_environment: str | None, seconds: float
) -> None:
    if in_environment is not None:
        monkeypatch.setenv("TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT", in_environment)
    assert resolve_uninterruptible_state_timeout(given) == seconds


def test_a_worker_that_hangs_in_the_kernel_is_a_failure_and_is_not_restarted(new_agent: MakeAgent, gate: Gate) -> None:
    agent = new_agent(bodies.wait_at_gate, gate.path, max_restarts=3, uninterruptible_state_timeout=0.05)
    # No test can make a process hang there on time: what /proc says is replaced, nothing else.
    with mock.patch.object(states, "read_proc_state", return_value="D"):
        result = agent.run()
    assert result.state == WorkerState.FAILED
    failure = result.failures[0]
    assert failure.pid == agent.get_worker_group().workers[0].id
    assert f"process {failure.pid} has hung in the kernel" in str(failure.message)
    assert len(agent.attempts) == 1
    assert agent.attempts[0].failures[0].message == failure.message
    assert agent.attempts[0].why_not_restarted == "not restarted: rank 0 hangs in the kernel and cannot be ended"


def test_a_worker_that_does_not_hang_is_left_alone(new_agent: MakeAgent) -> None:
    agent = new_agent(bodies.attempt, uninterruptible_state_timeout=0.001)
    assert agent.run().return_values == {0: 0}


# ---- timers


@pytest.mark.parametrize("path", ["", "own-pipe"])
def test_workers_are_told_of_the_timers_pipe_which_goes_with_the_run(
    new_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch, folder: Path, path: str
) -> None:
    monkeypatch.setenv("TORCHELASTIC_ENABLE_FILE_TIMER", "1")
    if path:
        monkeypatch.setenv("TORCHELASTIC_TIMER_FILE", str(folder / path))
    environment = new_agent(bodies.environment).run().return_values[0]
    told = environment["TORCHELASTIC_TIMER_FILE"]
    assert told == str(folder / path) if path else "watchdog_timer_" in told
    assert not os.path.exists(told)


def test_without_being_asked_there_is_no_pipe(new_agent: MakeAgent) -> None:
    assert "TORCHELASTIC_TIMER_FILE" not in new_agent(bodies.environment).run().return_values[0]


def test_a_worker_whose_time_is_up_is_killed_and_started_again(
    new_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setenv("TORCHELASTIC_ENABLE_FILE_TIMER", "1")
    agent = new_agent(bodies.run_out_of_time, gate.path, max_restarts=1)
    with mock.patch.object(watching.events, "record") as record:
        result = agent.run()
    assert result.return_values == {0: 1}
    assert agent.attempts[0].failures[0].exitcode == -signal.SIGKILL
    told = [json.loads(call.args[0].metadata["metadata"]) for call in record.call_args_list]
    killed = [one for one in told if one["watchdog_event"] == "kill worker process"]
    assert [one["scope_id"] for one in killed] == ["too long"]


# ---- health check


def test_a_health_check_lives_as_long_as_the_run(new_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_HEALTH_CHECK_PORT", "12345")
    with mock.patch.object(watching, "create_healthcheck_server") as made:
        agent = new_agent(bodies.fail_until, 1, 0, max_restarts=1)
        agent.run()
    ((alive, port, timeout),) = (call.args for call in made.call_args_list)
    assert (port, timeout) == (12345, 60)
    assert alive() > 0
    made.return_value.start.assert_called_once_with()
    made.return_value.stop.assert_called_once_with()


def test_a_port_that_is_no_number_starts_none(new_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_HEALTH_CHECK_PORT", "twelve")
    with mock.patch.object(watching, "create_healthcheck_server") as made:
        result: RunResult = new_agent(bodies.attempt).run()
    assert not result.is_failed()
    assert not made.called


def test_somebodys_own_server_is_stopped_with_the_run(new_agent: MakeAgent) -> None:
    server = mock.MagicMock()
    new_agent(bodies.attempt, health_check_server=server).run()
    server.stop.assert_called_once_with()
