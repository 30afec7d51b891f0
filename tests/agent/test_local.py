"""The agent with real workers: attempts, restarts, stops, time limits, what is told and what is left."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.agent.local import LocalElasticAgent
from ipyelastic.agent.spec import RunResult, WorkerSpec, WorkerState
from ipyelastic.contexts.settings import RankSettings
from ipyelastic.output.logs import DefaultLogsSpecs
from ipyelastic.rendezvous.standalone import StandaloneRendezvous
from ipyelastic.terms.events import OutputChunk, RunRestarted, WorkerEnded, WorkerStarted
from ipyelastic.terms.policy import Policy
from ipyelastic.terms.std import Std
from support import agent_bodies as bodies
from support.gates import Gate
from support.gone import pids_in
from support.waiting import wait_until

MakeAgent = Callable[..., LocalElasticAgent]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of this test and its workers."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path / "gate") as gate:
        yield gate


@pytest.fixture
def new_agent(tmp_path: Path) -> Iterator[MakeAgent]:
    """Makes an agent of two ranks; `args`, `max_restarts` and so on are WorkerSpec's, the rest the agent's."""
    handlers = []

    def make(entrypoint: Any, *args: Any, max_restarts: int = 0, nproc: int = 2, **options: Any) -> LocalElasticAgent:
        handler = StandaloneRendezvous("run")
        handlers.append(handler)
        spec = WorkerSpec("trainer", nproc, handler, entrypoint=entrypoint, args=args, max_restarts=max_restarts)
        logs = DefaultLogsSpecs(log_dir=str(tmp_path / "logs"), redirects=Std.ALL)
        return LocalElasticAgent(spec, logs, options.pop("start_method", "forkserver"), **options)

    yield make
    for handler in handlers:
        handler.shutdown()


def _run_aside(agent: LocalElasticAgent) -> Callable[[], RunResult]:
    """Run it in a thread; what is returned waits for the result."""
    results: list[RunResult] = []
    thread = threading.Thread(target=lambda: results.append(agent.run()))
    thread.start()

    def wait() -> RunResult:
        thread.join(60)
        assert results, "the agent has not ended"
        return results[0]

    return wait


OURS = {"settings": RankSettings()}


# ---- attempts


@pytest.mark.parametrize("options", [{}, OURS], ids=["torchs", "ours"])
def test_a_group_that_fails_twice_succeeds_at_the_third_attempt(new_agent: MakeAgent, options: Any) -> None:
    agent = new_agent(bodies.fail_until, 2, max_restarts=3, **options)
    result = agent.run()
    assert result.state == WorkerState.SUCCEEDED
    assert {rank: value[0] for rank, value in result.return_values.items()} == {0: 2, 1: 2}
    assert [attempt.attempt for attempt in agent.attempts] == [0, 1, 2]
    assert agent._remaining_restarts == 1


def test_programs_are_restarted_too(new_agent: MakeAgent) -> None:
    agent = new_agent(sys.executable, "-c", bodies.PROGRAM, 2, "${local_rank}", max_restarts=2)  # torch's macro
    result = agent.run()
    assert result.state == WorkerState.SUCCEEDED
    assert result.return_values == {0: None, 1: None}
    assert Path(agent.attempts[2].stdouts[1]).read_text() == "attempt 2 rank 1 1\n"


def test_every_attempt_keeps_its_failures_and_files(new_agent: MakeAgent) -> None:
    agent = new_agent(bodies.fail_until, 2, max_restarts=2)
    agent.run()
    first, second, third = agent.attempts
    assert third.failures == {}
    for number, attempt in enumerate((first, second)):
        failure = attempt.failures[1]
        assert failure.exception is not None
        assert failure.exception.message == f"attempt {number}"
        assert failure.stderr_path == attempt.stderrs[1]
    for number, attempt in enumerate(agent.attempts):
        assert Path(attempt.stdouts[1]).read_text() == f"attempt {number} rank 1\n"
        assert Path(attempt.stdouts[1]).parts[-3:] == (f"attempt_{number}", "1", "stdout.log")
        assert attempt.ended is not None
        assert attempt.started <= attempt.ended
        assert attempt.why_not_restarted == ""


def test_restarts_that_run_out_end_in_failure(new_agent: MakeAgent) -> None:
    agent = new_agent(bodies.fail_until, 9, max_restarts=2)
    result = agent.run()
    assert result.is_failed()
    assert set(result.failures) == {1}
    assert result.failures[1].exception is not None
    assert result.failures[1].exception.message == "attempt 2"
    assert len(agent.attempts) == 3
    assert agent.get_worker_group().state == WorkerState.FAILED


def test_every_attempt_has_a_port_of_its_own(new_agent: MakeAgent) -> None:
    ports = []
    agent = new_agent(bodies.fail_until, 2, max_restarts=2)
    rendezvous = agent.get_worker_group().spec.rdzv_handler
    meet = rendezvous.next_rendezvous

    def noting() -> Any:
        met = meet()
        ports.append(str(met.bootstrap_store_info.master_port))
        return met

    rendezvous.next_rendezvous = noting  # type: ignore[method-assign]
    result = agent.run()
    assert len(set(ports)) == 3
    assert {value[1] for value in result.return_values.values()} == {ports[-1]}


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_every_start_method_restarts(new_agent: MakeAgent, method: str) -> None:
    result = new_agent(bodies.fail_until, 1, max_restarts=1, start_method=method).run()
    assert {value[0] for value in result.return_values.values()} == {1}


def test_an_end_is_noticed_at_once_however_long_the_interval(new_agent: MakeAgent) -> None:
    agent = new_agent(bodies.fail_until, 1, max_restarts=1)
    agent.get_worker_group().spec.monitor_interval = 3600
    assert {value[0] for value in agent.run().return_values.values()} == {1}


def test_arguments_of_our_own_launches_are_handed_on_as_they_are(new_agent: MakeAgent) -> None:
    values = new_agent(bodies.give, "$$ ${local_rank}", **OURS).run().return_values
    assert values == {0: "$$ ${local_rank}", 1: "$$ ${local_rank}"}


# ---- what is told


def test_a_restart_is_told_between_the_attempts(new_agent: MakeAgent) -> None:
    told: list[Any] = []
    paths: list[dict[int, str]] = []
    agent = new_agent(
        bodies.fail_until, 1, max_restarts=1, sink=told.append, on_paths=lambda out, _: paths.append(out), **OURS
    )
    agent.run()
    at = [index for index, event in enumerate(told) if isinstance(event, RunRestarted)]
    assert [told[index] for index in at] == [RunRestarted(1, "rank 1 failed: ValueError: attempt 0")]
    before, after = told[: at[0]], told[at[0] + 1 :]
    for number, events in enumerate((before, after)):
        assert {event.attempt for event in events if isinstance(event, (WorkerStarted, WorkerEnded))} == {number}
        texts = {event.rank: event.text for event in events if isinstance(event, OutputChunk)}
        assert texts[1] == f"attempt {number} rank 1\n"
        assert paths[number] == dict(agent.attempts[number].stdouts)


def test_programs_tell_their_starts_and_ends(new_agent: MakeAgent) -> None:
    told: list[Any] = []
    new_agent(sys.executable, "-c", bodies.PROGRAM, 1, max_restarts=1, sink=told.append, **OURS).run()
    ended = {(event.attempt, event.rank): event.failure for event in told if isinstance(event, WorkerEnded)}
    assert set(ended) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert ended[0, 1] is not None
    assert (ended[1, 0], ended[1, 1]) == (None, None)
    assert len([event for event in told if isinstance(event, WorkerStarted)]) == 4


# ---- what is not restarted


def test_an_early_import_error_is_not_restarted_and_says_why(new_agent: MakeAgent) -> None:
    agent = new_agent(bodies.raise_import_error, max_restarts=3, nproc=1)
    assert agent.run().is_failed()
    assert len(agent.attempts) == 1
    assert "an import error, which would come again" in agent.attempts[-1].why_not_restarted


def test_an_early_syntax_error_of_a_program_is_not_restarted(new_agent: MakeAgent) -> None:
    agent = new_agent(sys.executable, "-c", "def", max_restarts=3, nproc=1)
    assert agent.run().is_failed()
    assert len(agent.attempts) == 1
    assert "a syntax error" in agent.attempts[-1].why_not_restarted


@pytest.mark.parametrize("op", ["stop", "kill"])
@pytest.mark.parametrize("is_program", [False, True], ids=["function", "program"])
def test_what_a_person_ends_is_not_restarted(
    new_agent: MakeAgent, folder: Path, gate: Gate, op: str, is_program: bool
) -> None:
    if is_program:
        code = "import os, sys; open(f'pid-rank-{os.getpid()}', 'w').close(); open(sys.argv[1])"
        agent = new_agent(sys.executable, "-c", code, gate.path, max_restarts=3, **OURS)
    else:
        agent = new_agent(bodies.wait_at_gate, gate.path, max_restarts=3, **OURS)
    wait = _run_aside(agent)
    wait_until(lambda: len(pids_in(folder, "pid-")) == 2, 20, "both are up")
    agent.ask(op)
    result = wait()
    assert result.is_failed()
    assert set(result.failures) == {0, 1}
    assert all(failure.is_stopped for failure in result.failures.values())
    assert len(agent.attempts) == 1


def test_what_is_asked_before_the_start_ends_the_first_attempt(new_agent: MakeAgent, gate: Gate) -> None:
    agent = new_agent(bodies.wait_at_gate, gate.path, max_restarts=3, **OURS)
    agent.ask("stop")
    result = agent.run()
    assert all(failure.is_stopped for failure in result.failures.values())
    assert len(agent.attempts) == 1


def test_a_stop_between_two_attempts_ends_the_next(new_agent: MakeAgent, gate: Gate) -> None:
    agent = new_agent(bodies.fail_until, 1, max_restarts=3, **OURS)
    told: list[Any] = []

    def stop_at_restart(event: Any) -> None:
        told.append(event)
        if isinstance(event, RunRestarted):
            agent.ask("stop", grace_s=0)

    agent._sink = stop_at_restart
    agent.run()
    assert len(agent.attempts) <= 2
    assert len([event for event in told if isinstance(event, RunRestarted)]) == 1


def test_a_killed_rank_is_a_failure_and_is_restarted(new_agent: MakeAgent, folder: Path, gate: Gate) -> None:
    agent = new_agent(bodies.wait_at_gate, gate.path, max_restarts=1, **OURS)
    wait = _run_aside(agent)
    wait_until(lambda: len(pids_in(folder, "pid-")) == 2, 20, "both are up")
    agent.ask("kill", rank=1)
    wait_until(lambda: len(pids_in(folder, "pid-")) == 4, 20, "both are up again")
    gate.open()
    assert wait().return_values == {0: 1, 1: 1}
    assert agent.attempts[0].failures[1].exitcode == -signal.SIGKILL


def test_the_time_limit_is_one_for_all_attempts_and_is_not_restarted(new_agent: MakeAgent, gate: Gate) -> None:
    settings = RankSettings(policy=Policy(timeout_s=0.5, grace_s=5))
    agent = new_agent(bodies.wait_at_gate, gate.path, max_restarts=3, settings=settings)
    result = agent.run()
    assert result.is_failed()
    assert len(agent.attempts) == 1
    assert agent.context is not None
    assert agent.context.ended_because == "timed out"


# ---- ending


@pytest.mark.parametrize("is_program", [False, True], ids=["function", "program"])
def test_shutdown_timeout_holds_when_a_rank_fails_beside_one_that_is_deaf(
    new_agent: MakeAgent, folder: Path, is_program: bool
) -> None:
    fifo = str(folder / "meeting")
    os.mkfifo(fifo)
    if is_program:
        tests = str(Path(bodies.__file__).parents[1])
        code = f"import sys; sys.path.insert(0, {tests!r}); from support import agent_bodies as bodies"
        code += "; bodies.fail_beside_one_that_ignores(sys.argv[1])"
        agent = new_agent(sys.executable, "-c", code, fifo, max_restarts=1, shutdown_timeout=1)
    else:
        agent = new_agent(bodies.fail_beside_one_that_ignores, fifo, max_restarts=1, shutdown_timeout=1)
    began = time.monotonic()
    assert agent.run().is_failed()
    assert len(agent.attempts) == 2
    assert time.monotonic() - began < 25  # torch's way is 30 s for each attempt
    assert agent.attempts[0].failures[0].exitcode == -signal.SIGKILL
