"""The state of a run and of each of its ranks, made from events.

    any event -> [here] -> `snapshot()`, `tail()` -> panel, static page, `Run.ranks`

Runs in: owner. Events come from any thread; any thread may look.
Other end: terms/events.py; an event that is new there needs a branch here.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Literal

from ..terms.errors import Tries
from ..terms.events import (
    Event,
    OutputChunk,
    RunEnded,
    RunNote,
    RunRestarted,
    RunStatus,
    StackDump,
    Stream,
    UsageSample,
    WorkerEnded,
    WorkerStarted,
)
from ..terms.failure import ProcessFailure
from .late_screen import LateScreen, thinned
from .text import divider_words, restart_words, skipped_words

__all__ = ["Board", "BoardSnapshot", "RankSnapshot", "RankState"]

RankState = Literal["waiting", "running", "succeeded", "failed", "stopped"]


@dataclass(frozen=True)
class RankSnapshot:
    """One rank at one moment. None and empty: not known (yet).

    Attributes:
        rank: Its number in the run.
        state: `"waiting"`, `"running"`, `"succeeded"`, `"failed"` or `"stopped"`.
        local_rank: Its number on its machine.
        pid: Its process id.
        exitcode: How it ended; negative: the number of the signal that ended it.
        failure: Why, a ProcessFailure; None: it has not failed.
        usage: The last measurement of what it uses, a UsageSample.
        stacks: The Python stacks it was last asked for.
        host: Its machine's name.
        stdout_path, stderr_path: Its log files.
    """

    rank: int
    state: RankState = "waiting"
    local_rank: int | None = None
    pid: int | None = None
    exitcode: int | None = None
    failure: ProcessFailure | None = None
    usage: UsageSample | None = None
    stacks: str = ""
    host: str = ""
    stdout_path: str = ""
    stderr_path: str = ""


@dataclass(frozen=True)
class BoardSnapshot:
    """A run at one moment.

    Attributes:
        world_size: How many ranks.
        status: `"starting"`, `"running"`, `"succeeded"`, `"failed"` or `"stopped"`.
        attempt: Which try this is, from 0.
        ranks: A RankSnapshot of each, in rank order.
        notes: Sentences for the person, in the order they came.
        duration_s: Seconds that it took; None: it goes on.
        tries: Which attempt this is, and how those before it ended: a Tries.
    """

    world_size: int
    status: RunStatus
    attempt: int
    ranks: tuple[RankSnapshot, ...]
    notes: tuple[str, ...]
    duration_s: float | None
    tries: Tries = field(default_factory=Tries)


class Board:
    """A sink that remembers: what each rank does, and the last lines it wrote.

    Args:
        world_size: How many ranks there will be. An event of a further one (an elastic run that grew) adds it.
        max_restarts: How often ranks may be started again.

    Runs in: owner. Thread-safe.
    """

    def __init__(self, world_size: int, max_restarts: int = 0) -> None:
        self._lock = threading.Lock()
        self._ranks = {rank: RankSnapshot(rank) for rank in range(world_size)}
        self._outputs = {rank: _Output() for rank in range(world_size)}
        self._status: RunStatus = "starting"
        self._attempt = 0
        self._tries = Tries(max_restarts=max_restarts)
        self._notes: list[str] = []
        self._duration_s: float | None = None

    def __call__(self, event: Event) -> None:
        """Take any event, in the order in which things happened."""
        with self._lock:
            if isinstance(event, OutputChunk):
                self._take_chunk(event)
            elif isinstance(event, (WorkerStarted, WorkerEnded)):
                self._take_worker(event)
            elif isinstance(event, RunRestarted):
                self._restart(event)
            elif isinstance(event, RunEnded):
                self._status, self._duration_s = event.status, event.duration_s
                self._tries = replace(self._tries, why_not_restarted=event.why_not_restarted)
            elif isinstance(event, RunNote):
                self._notes.append(event.text)
            elif isinstance(event, UsageSample):
                self._ranks[event.rank] = replace(self._rank(event.rank), usage=event)
            else:
                self._take_stacks(event)

    def snapshot(self) -> BoardSnapshot:
        """Everything but the output, as it is now."""
        with self._lock:
            return BoardSnapshot(
                world_size=len(self._ranks),
                status=self._status,
                attempt=self._attempt,
                ranks=tuple(self._ranks[rank] for rank in sorted(self._ranks)),
                notes=tuple(self._notes),
                duration_s=self._duration_s,
                tries=self._tries,
            )

    def tail(self, rank: int, n: int, stream: Stream | None = None) -> list[str]:
        """The last `n` lines of a `rank` without colours; `stream` None: both, in order of arrival.

        Raises:
            KeyError: There is no such rank.
        """
        with self._lock:
            return self._outputs[rank].screen(stream).tail(n)

    def lines(self, rank: int, n: int | None = None, stream: Stream | None = None) -> list[str]:
        """The last `n` lines of a `rank` with colours (SGR sequences; none stays open at a line's end).

        `n` None: all that is kept. `stream` None: both, in order of arrival.
        """
        with self._lock:
            return self._outputs[rank].screen(stream).lines(n)

    def is_updating(self, rank: int) -> bool:
        """Whether what the rank writes next goes over its last line, as a progress bar does."""
        with self._lock:
            return self._outputs[rank].merged.is_updating

    def _rank(self, rank: int) -> RankSnapshot:
        if rank not in self._ranks:
            self._ranks[rank] = RankSnapshot(rank)
            self._outputs[rank] = _Output()
        return self._ranks[rank]

    def _take_chunk(self, chunk: OutputChunk) -> None:
        rank = self._rank(chunk.rank)
        if chunk.stream == "stdout" and rank.stdout_path != chunk.path:
            self._ranks[chunk.rank] = replace(rank, stdout_path=chunk.path)
        elif chunk.stream == "stderr" and rank.stderr_path != chunk.path:
            self._ranks[chunk.rank] = replace(rank, stderr_path=chunk.path)
        self._outputs[chunk.rank].take(chunk)

    def _take_worker(self, event: WorkerStarted | WorkerEnded) -> None:
        rank = self._rank(event.rank)
        if event.attempt < self._attempt:  # word of an earlier try that was under way when the new one began
            return
        changed = replace(rank, local_rank=event.local_rank, pid=event.pid, host=event.host)
        if isinstance(event, WorkerStarted):
            if self._status == "starting":
                self._status = "running"
            changed = replace(changed, state="running")
        else:
            changed = replace(changed, state=_end_state(event.failure), exitcode=event.exitcode, failure=event.failure)
        self._ranks[event.rank] = changed

    def _take_stacks(self, event: StackDump) -> None:
        self._ranks[event.rank] = replace(self._rank(event.rank), stacks=event.text)

    def _restart(self, event: RunRestarted) -> None:
        ended, self._attempt = self._attempt, event.attempt
        earlier = (*self._tries.earlier, (ended, event.reason))
        self._tries = replace(self._tries, attempt=event.attempt, earlier=earlier)
        self._notes.append(restart_words(event))
        for rank, before in self._ranks.items():
            self._ranks[rank] = RankSnapshot(rank, stdout_path=before.stdout_path, stderr_path=before.stderr_path)
            self._outputs[rank].divide(divider_words(event))


def _end_state(failure: ProcessFailure | None) -> RankState:
    if failure is None:
        return "succeeded"
    return "stopped" if failure.is_stopped else "failed"


@dataclass
class _Output:
    """What one rank wrote: each stream, and both as they came."""

    stdout: LateScreen = field(default_factory=LateScreen)
    stderr: LateScreen = field(default_factory=LateScreen)
    merged: LateScreen = field(default_factory=LateScreen)
    latest: Stream | None = None

    def screen(self, stream: Stream | None) -> LateScreen:
        if stream is None:
            return self.merged
        return self.stdout if stream == "stdout" else self.stderr

    def take(self, chunk: OutputChunk) -> None:
        if self.latest not in (None, chunk.stream):
            self.merged.end_line()  # a print must not be written over the other stream's progress bar
        self.latest = chunk.stream
        text = thinned(chunk.text)
        for screen in (self.screen(chunk.stream), self.merged):
            if chunk.skipped_bytes:
                screen.end_line()
                screen.feed(f"{skipped_words(chunk)}\n")
            screen.feed(text)

    def divide(self, words: str) -> None:
        for screen in (self.stdout, self.stderr, self.merged):
            screen.end_line()
            screen.feed(f"{words}\n")
