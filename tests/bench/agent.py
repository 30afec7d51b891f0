"""What the agent costs: elastic start with a standalone rendezvous over a bare `start_processes`, in milliseconds.

    python tests/bench/agent.py [ROUNDS]

Both start two ranks with the same warm fork server and wait for their values; the two take turns.
Prints the median of each and the median of the differences of pairs. Aim: under 5 ms.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

from ipyelastic.agent.local import LocalElasticAgent
from ipyelastic.agent.spec import WorkerSpec
from ipyelastic.contexts.settings import RankSettings
from ipyelastic.contexts.start import start_processes
from ipyelastic.output.logs import DefaultLogsSpecs
from ipyelastic.rendezvous.standalone import StandaloneRendezvous
from ipyelastic.terms.std import Std


def bare(folder: str) -> None:
    """Two ranks, no agent."""
    logs = DefaultLogsSpecs(log_dir=folder, redirects=Std.ALL)
    settings = RankSettings(is_torchs=True)
    args: dict[int, tuple[object, ...]] = {0: (), 1: ()}
    context = start_processes("bare", os.getpid, args, {0: {}, 1: {}}, logs, None, "forkserver", settings=settings)
    result = context.wait()
    assert result is not None
    assert len(result.return_values) == 2
    context.close()


def with_agent(folder: str) -> None:
    """The same through rendezvous, ranks, environment, monitor, exit barrier and events."""
    logs = DefaultLogsSpecs(log_dir=folder, redirects=Std.ALL)
    rendezvous = StandaloneRendezvous("bench")
    spec = WorkerSpec("bare", 2, rendezvous, entrypoint=os.getpid, max_restarts=0)
    agent = LocalElasticAgent(spec, logs, "forkserver", settings=RankSettings(is_torchs=True))
    assert len(agent.run().return_values) == 2
    rendezvous.shutdown()


def _measured_ms(start: Callable[[str], None], folder: str) -> float:
    began = time.perf_counter()
    start(folder)
    return (time.perf_counter() - began) * 1000


def main(rounds: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        for start in (bare, with_agent, bare, with_agent):  # the server, and what is loaded at the first call
            start(folder)
        pairs = []
        for number in range(rounds):
            first, second = (bare, with_agent) if number % 2 else (with_agent, bare)
            took = {first: _measured_ms(first, folder), second: _measured_ms(second, folder)}
            pairs.append((took[bare], took[with_agent]))
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    over_ms = statistics.median(agent - alone for alone, agent in pairs)
    print(f"start_processes {medians[0]:.1f} ms, agent {medians[1]:.1f} ms: {over_ms:+.1f} ms (median of {rounds})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
