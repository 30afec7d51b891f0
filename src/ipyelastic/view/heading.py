"""The first line of a run's saved forms: what ran, how it ended, on how many ranks, where its files are.

    Board's snapshot + Heading -> [here] -> view/html, view/plain

Runs in: owner. Pure functions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..terms.errors import ChildFailedError
from .amounts import counted, duration_words
from .board import BoardSnapshot, RankSnapshot
from .report import report

__all__ = ["SIGNS", "Heading", "end_words", "facts", "failure_words", "first_failure"]

SIGNS = {"waiting": "○", "starting": "○", "running": "●", "succeeded": "✓", "failed": "✗", "stopped": "■"}
"""For each state of a run or a rank the sign that stands beside its colour."""


@dataclass(frozen=True)
class Heading:
    """What a board does not know of its run.

    Attributes:
        name: What was run.
        run_id: The run's short name; empty: not said.
        log_dir: The folder of its log files; empty: not said.
        max_restarts: How many more tries there could have been; 0: what the board knows of it.
        elapsed_s: Seconds since the start, for a run that has not ended.
        error: Why it ended, where no rank's failure says it: a time limit, a lost fork server.
    """

    name: str
    run_id: str = ""
    log_dir: str = ""
    max_restarts: int = 0
    elapsed_s: float | None = None
    error: str = ""


def facts(snapshot: BoardSnapshot, heading: Heading) -> list[str]:
    """Short phrases in order: ranks, time, attempt. None holds foreign words."""
    states: Counter[str] = Counter(rank.state for rank in snapshot.ranks)
    ranks = counted(len(snapshot.ranks), "rank")
    if len(states) > 1:
        ranks += ": " + ", ".join(f"{states[state]} {state}" for state in _BY_WEIGHT if states[state])
    found = [ranks]
    seconds = heading.elapsed_s if snapshot.duration_s is None else snapshot.duration_s
    if seconds is not None:
        found.append(duration_words(seconds))
    max_restarts = heading.max_restarts or snapshot.tries.max_restarts
    if max_restarts:
        found.append(f"attempt {snapshot.attempt + 1} of {max_restarts + 1}")
    elif snapshot.attempt:
        found.append(f"attempt {snapshot.attempt + 1}")
    return found


_BY_WEIGHT = ("failed", "stopped", "running", "waiting", "succeeded")


def first_failure(snapshot: BoardSnapshot) -> RankSnapshot | None:
    """The rank whose failure is the root cause; None when none failed or was stopped."""
    failures = {rank.rank: rank.failure for rank in snapshot.ranks if rank.failure is not None}
    if not failures:
        return None
    number, _ = ChildFailedError("", failures).get_first_failure()
    return next(rank for rank in snapshot.ranks if rank.rank == number)


def failure_words(snapshot: BoardSnapshot, heading: Heading) -> str:
    """The failure as view/report has it; empty for none."""
    return report(
        {rank.rank: rank.failure for rank in snapshot.ranks if rank.failure is not None},
        world_size=len(snapshot.ranks),
        attempt=snapshot.attempt,
        max_restarts=heading.max_restarts or snapshot.tries.max_restarts,
        earlier=snapshot.tries.earlier,
        why_not_restarted=snapshot.tries.why_not_restarted,
    )


def end_words(rank: RankSnapshot) -> str:
    """A rank's state, and its exit code where the two say more than one of them: `failed, exit code 1`."""
    if rank.exitcode is None or (rank.state == "succeeded" and rank.exitcode == 0):
        return rank.state
    if rank.exitcode < 0 and rank.failure is not None:
        name = rank.failure.signal_name()
        return f"{rank.state}, {name if name.startswith('SIG') else f'signal {-rank.exitcode}'}"
    return f"{rank.state}, exit code {rank.exitcode}"
