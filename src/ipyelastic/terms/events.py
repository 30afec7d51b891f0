"""What happens during a run, as small immutable facts: the only thing views ever learn a run from.

    contexts, agent, output/tail  ->  [event]  ->  sink (view/board, view/text, the panel)

Runs in: made in the agent's threads; a sink is called from whichever thread learnt the fact and must not block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .failure import ProcessFailure

__all__ = [
    "Event",
    "Sink",
    "OutputChunk",
    "WorkerStarted",
    "WorkerEnded",
    "RunRestarted",
    "RunEnded",
    "RunNote",
    "UsageSample",
    "StackDump",
    "Stream",
    "RunStatus",
]

Stream = Literal["stdout", "stderr"]
RunStatus = Literal["starting", "running", "succeeded", "failed", "stopped"]


@dataclass(frozen=True)
class OutputChunk:
    """Text that a rank wrote: whole lines, ended by a newline or a carriage return.

    Only the last chunk of a stream may end in the middle of a line. `skipped_bytes` were left out *before* `text`
    because the reader fell behind; they are in `path`.
    """

    rank: int
    stream: Stream
    text: str
    path: str
    skipped_bytes: int = 0
    host: str = ""


@dataclass(frozen=True)
class WorkerStarted:
    """A rank's process exists."""

    rank: int
    local_rank: int
    pid: int
    attempt: int = 0
    host: str = ""


@dataclass(frozen=True)
class WorkerEnded:
    """A rank's process is gone. `failure` is None when it handed over its value (or, a program, exited 0)."""

    rank: int
    local_rank: int
    pid: int
    exitcode: int
    failure: ProcessFailure | None = None
    attempt: int = 0
    host: str = ""


@dataclass(frozen=True)
class RunRestarted:
    """All ranks are about to be started again; `attempt` is the number of the new try."""

    attempt: int
    reason: str
    host: str = ""


@dataclass(frozen=True)
class RunEnded:
    """Nothing of the run is left. The last event of a run."""

    status: RunStatus
    duration_s: float
    host: str = ""
    why_not_restarted: str = ""
    """Why the last attempt was the last although restarts were left, as a sentence."""


@dataclass(frozen=True)
class RunNote:
    """One sentence the person should read once: a choice made, something left out."""

    text: str
    host: str = ""


@dataclass(frozen=True)
class UsageSample:
    """One rank's use of the machine; GPU fields are None where there is none."""

    rank: int
    cpu_percent: float
    rss_bytes: int
    gpu_percent: float | None = None
    gpu_bytes: int | None = None
    host: str = ""


@dataclass(frozen=True)
class StackDump:
    """The Python stacks of one rank's threads, as faulthandler writes them."""

    rank: int
    text: str
    host: str = ""


Event = OutputChunk | WorkerStarted | WorkerEnded | RunRestarted | RunEnded | RunNote | UsageSample | StackDump
Sink = Callable[[Event], None]
