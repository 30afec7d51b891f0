"""Whether a group of workers goes on, is started again or is given up: decisions only, nothing is done here.

    agent/simple's loop > [here] next_step;   agent/local > [here] why_not_restarted, restart_reason

Runs in: agent. Pure functions.
Source: torch 2.13's agent (SEEDS section 13); the rule on early failures is ours (SEEDS section 18, 26).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

from ..terms.failure import ProcessFailure
from .spec import WorkerState

__all__ = ["EARLY_S", "Step", "first_failure", "next_step", "restart_reason", "why_not_restarted"]

EARLY_S = 2.0
"""An import, syntax or pickling error within this many seconds of a rank's start would come again."""

_SAME_AGAIN = {
    "ImportError": "import",
    "ModuleNotFoundError": "import",
    "SyntaxError": "syntax",
    "IndentationError": "syntax",
    "TabError": "syntax",
    "PicklingError": "pickling",
    "UnpicklingError": "pickling",
    "UnpicklableError": "pickling",
}


class Step(Enum):
    """What the agent does next."""

    GO_ON = "go on watching"
    FINISH = "all have succeeded"
    RESTART = "start the group again, at the cost of one restart"
    RESTART_FREE = "start the group again because nodes wait to join"
    GIVE_UP = "the group has failed for good"
    REFUSE = "the group is in a state it cannot be in"


def next_step(
    state: WorkerState, *, remaining_restarts: int, nodes_waiting: int = 0, is_restart_refused: bool = False
) -> Step:
    """What to do about a group that is seen in `state`.

    Args:
        remaining_restarts: How often it may still be started again after a failure.
        nodes_waiting: Nodes that came after the rendezvous; looked at while the group is healthy.
        is_restart_refused: Somebody asked it to end, its time is over, or the same would happen again.
    """
    if state == WorkerState.SUCCEEDED:
        return Step.FINISH
    if state in (WorkerState.UNHEALTHY, WorkerState.FAILED):
        return Step.RESTART if remaining_restarts > 0 and not is_restart_refused else Step.GIVE_UP
    if state == WorkerState.HEALTHY:
        return Step.RESTART_FREE if nodes_waiting > 0 and not is_restart_refused else Step.GO_ON
    return Step.REFUSE


def first_failure(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure] | None:
    """The earliest failure that nobody had asked for, with its rank; None when there is none."""
    own = [(rank, failure) for rank, failure in failures.items() if not failure.is_stopped]
    return min(own, key=lambda item: (item[1].timestamp_ns, item[0]), default=None)


def why_not_restarted(failures: Mapping[int, ProcessFailure]) -> str:
    """Why another start would fail in the same way, as a sentence; empty: it is worth trying.

    Args:
        failures: Of one attempt, by global rank.
    """
    first = first_failure(failures)
    if first is None:
        return ""
    rank, failure = first
    kind = _SAME_AGAIN.get(_type_name(failure))
    if kind is None or failure.duration_s is None or failure.duration_s > EARLY_S:
        return ""
    article = "an" if kind == "import" else "a"
    return (
        f"not restarted: rank {rank} failed {failure.duration_s:.1f} s after its start with {article} {kind} error,"
        " which would come again"
    )


def restart_reason(failures: Mapping[int, ProcessFailure]) -> str:
    """Why the group is started again, in a few words: `rank 1 failed: ValueError: bad`."""
    first = first_failure(failures)
    if first is None:
        return "the group is not healthy"
    rank, failure = first
    return f"rank {rank} failed: {_words(failure)}"


def _words(failure: ProcessFailure) -> str:
    if failure.exception is not None:
        said = f"{failure.exception.type_name}: {failure.exception.message}".splitlines()[0]
        return said.removesuffix(": ")
    if failure.exitcode < 0:
        return failure.signal_name()
    said = failure.message.get("message", "") if isinstance(failure.message, dict) else ""
    return said or failure.note or f"exit code {failure.exitcode}"


def _type_name(failure: ProcessFailure) -> str:
    if failure.exception is not None:
        return failure.exception.type_name
    if not isinstance(failure.message, dict):
        return ""
    # `record`'s error file and a program's own traceback: "module.TypeName: words".
    found = re.match(r"([\w.]+)", str(failure.message.get("message", "")))
    return found[1].rpartition(".")[2] if found else ""
