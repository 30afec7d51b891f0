r"""Every rank's output as plain lines, each with its rank in front: what a cell prints where there is no panel.

    OutputChunk, RunNote -> [here] -> `take()` -> the cell's stdout (terminal, nbconvert, papermill, `--ui text`)

Runs in: owner. Events come from any thread; `take()` and `close()` are called by the one that prints.
Other end: output/tail.py makes the chunks; view/board.py shares the words for what was skipped.
"""

from __future__ import annotations

import string
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from ..terms.events import Event, OutputChunk, RunNote, RunRestarted, Stream
from .screen import Screen

__all__ = [
    "PrefixedText",
    "Prefix",
    "divider_words",
    "restart_words",
    "skipped_words",
    "standard_prefix",
    "templated_prefix",
]

Prefix = Callable[[int, Stream], str]
"""What stands before the lines of a rank's stream."""

_PROGRESS_S = 2.0
_LAST_LINES = 20
_LONGEST_LINE = 1 << 20


def skipped_words(chunk: OutputChunk) -> str:
    """What to say for the bytes left out before a chunk: `... 1.5 MiB skipped, see PATH`."""
    size = float(chunk.skipped_bytes)
    if size < 1024:
        return f"... {chunk.skipped_bytes} bytes skipped, see {chunk.path}"
    for unit in ("KiB", "MiB", "GiB"):  # noqa: B007  # the unit at which the loop ends is the one to name
        size /= 1024
        if size < 1023.95:
            break
    return f"... {size:.1f} {unit} skipped, see {chunk.path}"


def divider_words(event: RunRestarted) -> str:
    """The line between two attempts, counted from 1 as a person does: `--- attempt 2 ---`."""
    return f"--- attempt {event.attempt + 1} ---"


def restart_words(event: RunRestarted) -> str:
    """Why a new attempt begins, for a note: `rank 1 failed: ValueError: bad; all ranks start again`."""
    return f"{event.reason}; all ranks start again" if event.reason else "all ranks start again"


def standard_prefix(rank: int, stream: Stream) -> str:
    """`[rank 0] ` or `[rank 0 stderr] `."""
    return f"[rank {rank}] " if stream == "stdout" else f"[rank {rank} {stream}] "


def templated_prefix(template: str | None, role_name: str = "default") -> Prefix:
    """torch's log line prefixes: a text with `${rank}`, `${local_rank}` and `${role_name}`; None: the standard one."""
    if template is None:
        return standard_prefix
    words = string.Template(template)

    def filled(rank: int, stream: Stream) -> str:
        return words.safe_substitute(rank=rank, local_rank=rank, role_name=role_name)

    return filled


@dataclass
class _Source:
    """One stream of one rank."""

    prefix: str
    screen: Screen = field(default_factory=lambda: Screen(None, max_width=_LONGEST_LINE))
    path: str = ""
    shown_at: float | None = None
    """When an update of an unfinished line was last shown."""
    shown: list[str] = field(default_factory=list)


@dataclass
class _Hidden:
    """What one rank wrote and nobody was shown."""

    count: int = 0
    path: str = ""
    last: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))


class PrefixedText:
    r"""A sink that turns output into lines such as `[rank 0] ready` and `[rank 0 stderr] careful`.

    Args:
        ranks: Those that are shown; None for all.
        is_live: Whether a person watches: the text is then bounded. Otherwise every line is shown.
        lines_per_s: When live, so many lines are shown at once; then nothing until a second has passed.
        max_lines: When live, the most lines in all before `close()`.
        clock: Seconds from any start; the tests give their own.
        prefix: What stands before the lines of a rank's stream.

    A line is shown when its end is there, or at `close()`; one over 1 MiB is shown in pieces. Of the updates of a
    line (`\r`) the newest is shown, once in 2 s at most for each rank and stream. Lines left out are counted; the
    count and the last 20 of them come when the flood is over, or at `close()`.

    Runs in: owner. Thread-safe.
    """

    def __init__(
        self,
        *,
        ranks: Collection[int] | None = None,
        is_live: bool,
        lines_per_s: int = 400,
        max_lines: int = 5000,
        clock: Callable[[], float] = time.monotonic,
        prefix: Prefix = standard_prefix,
    ) -> None:
        self._prefix = prefix
        self._ranks = None if ranks is None else frozenset(ranks)
        self._is_live = is_live
        self._clock = clock
        self._budget = _Budget(lines_per_s, max_lines, clock)
        self._lock = threading.Lock()
        self._sources: dict[tuple[int, Stream], _Source] = {}
        self._hidden: dict[int, _Hidden] = {}
        self._ready: list[str] = []

    def __call__(self, event: Event) -> None:
        """Take any event; output, notes and restarts leave text behind."""
        with self._lock:
            if isinstance(event, OutputChunk):
                if self._ranks is None or event.rank in self._ranks:
                    self._take_chunk(event)
            elif isinstance(event, RunNote):
                self._ready.append(f"note: {event.text}")
            elif isinstance(event, RunRestarted):
                self._end_lines()
                self._ready.append(f"note: {restart_words(event)}")
                self._ready.append(divider_words(event))

    def take(self) -> str:
        """The text to print now, whole lines or nothing."""
        with self._lock:
            for (rank, _), source in self._sources.items():
                self._show_progress(rank, source)
            for rank in self._hidden:
                if self._budget.has_room():
                    self._catch_up(rank)
            return self._taken()

    def close(self) -> str:
        """The rest: half lines, newest updates, the counts and last lines of what was left out."""
        with self._lock:
            self._end_lines()
            for rank in sorted(self._hidden):
                self._catch_up(rank)
            return self._taken()

    def _taken(self) -> str:
        lines, self._ready = self._ready, []
        return "".join(f"{line}\n" for line in lines)

    def _take_chunk(self, chunk: OutputChunk) -> None:
        key = (chunk.rank, chunk.stream)
        source = self._sources.get(key)
        if source is None:
            source = self._sources[key] = _Source(self._prefix(*key))
        source.path = chunk.path
        if chunk.skipped_bytes:
            source.screen.end_line()
            self._show_finished(chunk.rank, source)
            self._show(chunk.rank, source, skipped_words(chunk))
        source.screen.feed(chunk.text)
        self._show_finished(chunk.rank, source)

    def _end_lines(self) -> None:
        for (rank, _), source in sorted(self._sources.items()):
            source.screen.end_line()
            self._show_finished(rank, source)

    def _show_finished(self, rank: int, source: _Source) -> None:
        for line in source.screen.take_finished():
            if line in source.shown:
                source.shown.remove(line)  # its last update was shown already, in the very same words
            else:
                self._show(rank, source, line)
        if not source.screen.is_updating:
            source.shown.clear()

    def _show_progress(self, rank: int, source: _Source) -> None:
        if not source.screen.is_updating:
            return
        now = self._clock()
        if source.shown_at is not None and now - source.shown_at < _PROGRESS_S:
            return
        held = [line for line in source.screen.lines() if line.strip()]
        for line in held:
            if line not in source.shown:
                source.shown_at = now
                self._show(rank, source, line)
        source.shown = held

    def _show(self, rank: int, source: _Source, line: str) -> None:
        line = source.prefix + line
        if not self._is_live:
            self._ready.append(line)
        elif self._budget.has_room():
            self._catch_up(rank)
            self._print(line)
        else:
            hidden = self._hidden.setdefault(rank, _Hidden())
            hidden.count += 1
            hidden.path = source.path
            hidden.last.append(line)

    def _catch_up(self, rank: int) -> None:
        hidden = self._hidden.get(rank)
        if hidden is None or not hidden.count:
            return
        missing = hidden.count - len(hidden.last)
        if missing:
            words = f"{missing:,} line{'s' if missing > 1 else ''}"
            self._print(f"[rank {rank}] ... {words} not shown here, see {hidden.path}")
        for line in hidden.last:
            self._print(line)
        hidden.count = 0
        hidden.last.clear()

    def _print(self, line: str) -> None:
        self._ready.append(line)
        if self._budget.spend():
            self._ready.append(
                f"note: {self._budget.max_lines:,} lines were shown; further ones are in the log files, "
                f"and the last {_LAST_LINES} of each rank come at the end"
            )


class _Budget:
    """A token bucket that is used again only when it is full, so that what is shown comes in whole passages."""

    def __init__(self, lines_per_s: int, max_lines: int, clock: Callable[[], float]) -> None:
        self.max_lines = max_lines
        self._lines_per_s = lines_per_s
        self._clock = clock
        self._tokens = float(lines_per_s)
        self._filled_at = clock()
        self._empty_at: float | None = None
        self._shown = 0

    def has_room(self) -> bool:
        """Whether one more line may be shown."""
        if self._shown >= self.max_lines:
            return False
        now = self._clock()
        if self._empty_at is not None:
            if now - self._empty_at < 1.0:
                return False
            self._empty_at, self._tokens, self._filled_at = None, float(self._lines_per_s), now
        self._tokens = min(self._lines_per_s, self._tokens + (now - self._filled_at) * self._lines_per_s)
        self._filled_at = now
        if self._tokens >= 1:
            return True
        self._empty_at = now
        return False

    def spend(self) -> bool:
        """Count one shown line; True for the one that reaches `max_lines`."""
        self._tokens -= 1
        self._shown += 1
        return self._shown == self.max_lines
