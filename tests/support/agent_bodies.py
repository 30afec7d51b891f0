"""What workers do in the tests of agents: they end by the number of their attempt, and wait at gates."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from .families import announce, block
from .gates import wait_at

__all__ = ["PROGRAM", "attempt", "environment", "fail_until"]

PROGRAM = """
import os, sys
attempt, rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
print("attempt", attempt, "rank", rank, *sys.argv[2:], flush=True)
if attempt < int(sys.argv[1]) and rank == 1:
    raise ValueError(f"attempt {attempt}")
"""


def give(value: object) -> object:
    """The argument."""
    return value


def attempt() -> int:
    """The number of this attempt."""
    return int(os.environ["TORCHELASTIC_RESTART_COUNT"])


def environment() -> dict[str, str]:
    """Everything in it."""
    return dict(os.environ)


def fail_until(good: int, failing_rank: int = 1) -> tuple[int, str]:
    """Rank `failing_rank` fails in each attempt before number `good`; else the attempt and its port."""
    print("attempt", attempt(), "rank", os.environ["RANK"])
    if attempt() < good and int(os.environ["RANK"]) == failing_rank:
        raise ValueError(f"attempt {attempt()}")
    return attempt(), os.environ["MASTER_PORT"]


def raise_import_error() -> None:
    import no_such_module_of_anybodys  # noqa: F401


def wait_at_gate(gate: str) -> int:
    """Say so, then wait."""
    announce("rank")
    wait_at(gate)
    return attempt()


def ignore_sigterm() -> None:
    """Only SIGKILL ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    announce("rank")
    block()


def fail_beside_one_that_ignores(gate: str) -> None:
    """Rank 1 fails once rank 0 is deaf to SIGTERM."""
    if os.environ["RANK"] == "0":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(gate).open("wb").close()  # waits for rank 1's end
        block()
    with open(gate, "rb"):
        sys.exit(3)


def run_out_of_time(gate: str) -> int:
    """In the first attempt, wait longer than a timer of this worker allows."""
    from ipyelastic.timer.countdown import configure, expires
    from ipyelastic.timer.pipe_client import FileTimerClient

    if attempt() == 0:
        configure(FileTimerClient(os.environ["TORCHELASTIC_TIMER_FILE"]))
        with expires(after=0.05, scope="too long"):
            wait_at(gate)
    return attempt()
