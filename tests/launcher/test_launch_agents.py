"""Several agents, each in a process of its own, meet through torch's c10d rendezvous and run one job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipyelastic.rendezvous.held_port import HeldPort
from support import agent_process
from support.gates import Gate
from support.waiting import wait_until

pytestmark = [pytest.mark.torch, pytest.mark.slow, pytest.mark.timeout(600)]

StartAgent = Callable[..., "_Agent"]
_SOON_S = 120.0  # imports torch, meets, restarts; on a busy machine


class _Agent:
    def __init__(self, process: subprocess.Popen[str], options: Path) -> None:
        self.process, self._options = process, options

    def values(self) -> dict[int, Any]:
        """Waits for the agent's end; what its launch returned, by global rank."""
        said, _ = self.process.communicate(timeout=_SOON_S)
        assert self.process.returncode == 0, said
        read = json.loads(self._options.with_suffix(".out").read_text())
        return {int(rank): value for rank, value in read.items()}


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[StartAgent]:
    """Starts an agent with two workers; the first one hosts the store."""
    port = HeldPort()
    agents: list[_Agent] = []

    def start(nodes: str, body: str, *arguments: str, **options: Any) -> _Agent:
        least, _, most = nodes.partition(":")
        fields = {
            "min_nodes": int(least),
            "max_nodes": int(most or least),
            "nproc_per_node": 2,
            "run_id": "several",
            "rdzv_backend": "c10d",
            "rdzv_endpoint": f"localhost:{port.port}",
            "rdzv_configs": {
                "is_host": not agents,
                "join_timeout": 100,
                "last_call_timeout": 1,
                "keep_alive_interval": 1,
                "keep_alive_max_attempt": 5,
            },
            "start_method": "forkserver",
            "max_restarts": 3,
            "exit_barrier_timeout": 30,
            **options,
        }
        file = tmp_path / f"agent-{len(agents)}.json"
        file.write_text(json.dumps(fields))
        command = [sys.executable, agent_process.__file__, str(file), body, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        agents.append(_Agent(process, file))
        return agents[-1]

    yield start
    for agent in agents:
        agent.process.kill()
        agent.process.communicate()
    port.close()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path / "gate") as gate:
        yield gate


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Where every worker leaves a note when it is up."""
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


def _wait_for(notes: Path, pattern: str, count: int) -> list[int]:
    """The pids of workers whose notes match, once there are as many."""
    wait_until(lambda: len(list(notes.glob(pattern))) >= count, _SOON_S, f"{count} of {pattern}")
    return [int(note.name.rpartition("-")[2]) for note in notes.glob(pattern)]


def test_two_agents_form_one_job_of_two_by_two_ranks(start_agent: StartAgent, gate: Gate, notes: Path) -> None:
    agents = [start_agent("2", "leave_note_and_wait", str(notes), gate.path) for _ in range(2)]
    _wait_for(notes, "rank-*-of-4-attempt-0-*", 4)
    gate.open()
    first, second = (agent.values() for agent in agents)
    assert len(first) == len(second) == 2
    assert first | second == {rank: [str(rank), "4"] for rank in range(4)}


def test_two_agents_train_one_model(start_agent: StartAgent) -> None:
    agents = [start_agent("2", "train_some", nproc_per_node=1) for _ in range(2)]
    values = agents[0].values() | agents[1].values()
    assert set(values) == {0, 1}
    for losses, _ in values.values():
        assert losses[-1] < losses[0] / 10
    assert values[0][1] == values[1][1]


def test_an_agent_that_joins_makes_the_job_larger_at_no_cost(start_agent: StartAgent, gate: Gate, notes: Path) -> None:
    first = start_agent("1:2", "leave_note_and_wait", str(notes), gate.path, max_restarts=0)
    alone = _wait_for(notes, "rank-*-of-2-attempt-0-*", 2)
    second = start_agent("1:2", "leave_note_and_wait", str(notes), gate.path, max_restarts=0)
    _wait_for(notes, "rank-*-of-4-attempt-0-*", 4)
    assert not [pid for pid in alone if os.path.exists(f"/proc/{pid}")]
    gate.open()
    assert first.values() | second.values() == {rank: [str(rank), "4"] for rank in range(4)}


def test_the_job_goes_on_without_an_agent_that_is_killed(start_agent: StartAgent, gate: Gate, notes: Path) -> None:
    first = start_agent("1:2", "leave_note_and_wait", str(notes), gate.path)
    # Together from the start, or the second joins: four ranks either way.
    second = start_agent("1:2", "leave_note_and_wait", str(notes), gate.path)
    _wait_for(notes, "rank-*-of-4-attempt-0-*", 4)
    parents = {pid: _agent_of(pid) for pid in _wait_for(notes, "rank-*-of-4-attempt-0-*", 4)}
    second.process.kill()
    theirs = [pid for pid, agent in parents.items() if agent == second.process.pid]
    assert len(theirs) == 2
    wait_until(lambda: not [pid for pid in theirs if _is_alive(pid)], _SOON_S, "its workers are gone, too")
    # What a collective operation with a lost rank comes to: a worker of the other agent fails.
    os.kill(next(pid for pid, agent in parents.items() if agent == first.process.pid), signal.SIGKILL)
    _wait_for(notes, "rank-*-of-2-attempt-1-*", 2)
    gate.open()
    assert first.values() == {0: ["0", "2"], 1: ["1", "2"]}


def _agent_of(pid: int) -> int:
    """The agent's pid of a worker: its fork server's parent."""
    return _parent(_parent(pid))


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
