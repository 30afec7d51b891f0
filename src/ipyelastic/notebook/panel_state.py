"""How a run stands, in the words that the page shows.

    Run.board, the person's clicks -> [here] -> panel_messages.RunState -> src/frontend/header.js, tabs.js, failure.js

Runs in: owner. Pure functions.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ..terms.failure import ProcessFailure
from ..view.board import BoardSnapshot
from ..view.report import report
from .panel_messages import FailureWords, RunState

__all__ = ["RunFacts", "first_failure", "run_state"]

_SIGNS = {
    "idle": "○",
    "starting": "○",
    "running": "●",
    "stopping": "◐",
    "succeeded": "✓",
    "failed": "✗",
    "stopped": "■",
}
_LAST_LINES = 20


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run besides its board; times in seconds."""

    epoch: int
    run_id: str
    name: str
    is_live: bool
    elapsed_s: float
    max_restarts: int = 0
    grace_left_s: float | None = None
    first: int = 0
    error: str = ""
    """What ended the run when it was no rank's doing."""


def run_state(
    facts: RunFacts | None, board: BoardSnapshot | None, last_lines: dict[int, list[str]], trouble: str = ""
) -> RunState:
    """The page's view of a run.

    Args:
        facts: None: nothing was started yet.
        board: Its snapshot.
        last_lines: `{rank: lines}` of the rank that failed first, without colours.
        trouble: Why a start that was asked for did not come about.
    """
    if facts is None or board is None:
        failure = FailureWords(rank=None, words=trouble, traceback="", last="") if trouble else None
        return RunState(
            epoch=0, run_id="", name="", status="idle", sign=_SIGNS["idle"], detail="not started", announcement=trouble,
            is_live=False, elapsed_s=None, grace_left_s=None, first=0, ranks=[], notes=[], failure=failure,
        )  # fmt: skip
    status = str(board.status)
    if facts.is_live and facts.grace_left_s is not None:
        status = "stopping"
    detail = _detail(board, facts)
    failure = _failure(board, facts, last_lines, trouble)
    return RunState(
        epoch=facts.epoch,
        run_id=facts.run_id,
        name=facts.name,
        status=status,
        sign=_SIGNS[status],
        detail=detail,
        announcement=f"Run {status}, {detail}" + (f". {trouble}" if trouble else ""),
        is_live=facts.is_live,
        elapsed_s=facts.elapsed_s if board.duration_s is None else board.duration_s,
        grace_left_s=facts.grace_left_s if facts.is_live else None,
        first=facts.first,
        ranks=[{"state": rank.state, "exitcode": rank.exitcode, "pid": rank.pid} for rank in board.ranks],
        notes=list(board.notes),
        failure=failure,
    )


def first_failure(board: BoardSnapshot) -> int | None:
    """The rank whose failure is the root cause; None without one."""
    failed = {rank.rank: rank.failure for rank in board.ranks if rank.failure and not rank.failure.is_stopped}
    return min(failed, key=lambda rank: _order(failed[rank]), default=None)


def _order(failure: ProcessFailure) -> tuple[int, int]:
    return (failure.timestamp_ns or failure.timestamp * 1_000_000_000, failure.local_rank)


def _detail(board: BoardSnapshot, facts: RunFacts) -> str:
    words = {"waiting": "starting", "running": "running", "succeeded": "done", "failed": "failed", "stopped": "stopped"}
    counts = Counter[str](rank.state for rank in board.ranks)
    count = len(board.ranks)
    ranks = f"{count} rank{'' if count == 1 else 's'}"
    if len(counts) <= 1:
        parts = [ranks]
    else:
        parts = [f"{counts[state]} {word}" for state, word in words.items() if counts[state]]
        parts[0] = f"{ranks}: {parts[0]}"
    detail = ", ".join(parts)
    if facts.max_restarts:
        detail += f" · attempt {board.attempt + 1} of {facts.max_restarts + 1}"
    elif board.attempt:
        detail += f" · attempt {board.attempt + 1}"
    return detail


def _failure(
    board: BoardSnapshot, facts: RunFacts, last_lines: dict[int, list[str]], trouble: str
) -> FailureWords | None:
    rank = first_failure(board)
    if rank is None:
        words = "\n".join(filter(None, [facts.error, trouble]))
        return FailureWords(rank=None, words=words, traceback="", last="") if words else None
    failures = {entry.rank: entry.failure for entry in board.ranks if entry.failure is not None}
    exception = failures[rank].exception
    stacks = failures[rank].stacks or board.ranks[rank].stacks
    words = report(
        failures,
        world_size=board.world_size,
        attempt=board.attempt,
        max_restarts=facts.max_restarts,
        earlier=board.tries.earlier,
        why_not_restarted=board.tries.why_not_restarted,
    )
    return FailureWords(
        rank=rank,
        words="\n".join(filter(None, [words, trouble])),
        traceback=(exception.text if exception is not None else stacks).strip("\n"),
        last="\n".join(last_lines.get(rank, [])[-_LAST_LINES:]),
    )
