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

    Only the last chunk of a stream may end in the middle of a line.

    Attributes:
        rank: Whose.
        stream: `"stdout"` or `"stderr"`.
        text: What it wrote.
        path: The log file that has all of it.
        skipped_bytes: Left out *before* `text` because the reader fell behind; they are in `path`.
        host: The rank's machine; empty: this one. So it is in all events.
    """

    rank: int
    stream: Stream
    text: str
    path: str
    skipped_bytes: int = 0
    host: str = ""


@dataclass(frozen=True)
class WorkerStarted:
    """A rank's process exists.

    Attributes:
        rank, local_rank: Its number in the run, and on its machine.
        pid: Its process id.
        attempt: Which try of the run this is, from 0.
        host: Its machine.
    """

    rank: int
    local_rank: int
    pid: int
    attempt: int = 0
    host: str = ""


@dataclass(frozen=True)
class WorkerEnded:
    """A rank's process is gone.

    Attributes:
        rank, local_rank, pid, attempt, host: As in WorkerStarted.
        exitcode: Negative: the number of the signal that ended it.
        failure: None when it handed over its value (or, a program, exited 0).
    """

    rank: int
    local_rank: int
    pid: int
    exitcode: int
    failure: ProcessFailure | None = None
    attempt: int = 0
    host: str = ""


@dataclass(frozen=True)
class RunRestarted:
    """All ranks are about to be started again.

    Attributes:
        attempt: The number of the new try; 0 was the first.
        reason: Why, in a few words.
        host: The agent's machine.
    """

    attempt: int
    reason: str
    host: str = ""


@dataclass(frozen=True)
class RunEnded:
    """Nothing of the run is left. The last event of a run.

    Attributes:
        status: `"succeeded"`, `"failed"` or `"stopped"`.
        duration_s: Seconds since its launch.
        host: The owner's machine.
        why_not_restarted: Why the last attempt was the last although restarts were left, as a sentence; empty
        otherwise.
    """

    status: RunStatus
    duration_s: float
    host: str = ""
    why_not_restarted: str = ""


@dataclass(frozen=True)
class RunNote:
    """One sentence the person should read once: a choice made, something left out.

    Attributes:
        text: The sentence.
        host: The machine it is about.
    """

    text: str
    host: str = ""


@dataclass(frozen=True)
class UsageSample:
    """One rank's use of the machine, what it started included.

    Attributes:
        rank: Whose.
        cpu_percent: 100 for each CPU it keeps busy.
        rss_bytes: Memory.
        gpu_percent: How busy its GPU is; None: it has none, like the next.
        gpu_bytes: Memory on it.
        host: The rank's machine.
    """

    rank: int
    cpu_percent: float
    rss_bytes: int
    gpu_percent: float | None = None
    gpu_bytes: int | None = None
    host: str = ""


@dataclass(frozen=True)
class StackDump:
    """The Python stacks of one rank's threads.

    Attributes:
        rank: Whose.
        text: As faulthandler writes them.
        host: The rank's machine.
    """

    rank: int
    text: str
    host: str = ""


Event = OutputChunk | WorkerStarted | WorkerEnded | RunRestarted | RunEnded | RunNote | UsageSample | StackDump
Sink = Callable[[Event], None]
