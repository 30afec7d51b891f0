"""A run's events on their way to the page: gathered per rank, let go at the pace at which pages draw.

    Run's threads -> PanelSink -> [take_tick, every 50 ms] -> panel_view -> comm -> src/frontend/link.js

Runs in: owner. `PanelSink` is called from any thread; `Window` belongs to the panel's one writing thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from ..terms.events import Event, OutputChunk, RunEnded, RunRestarted, UsageSample
from ..view.text import divider_words
from .panel_feed import MOST_PER_TICK, RankFeed
from .panel_messages import UsageRow

__all__ = ["PanelSink", "Window"]

_ALL_TAILS = 4 << 20
_ALL_RANKS_PER_TICK = 256 << 10
_FEW_RANKS = 4
_HIDDEN_PERIOD_S = 0.6
_USAGE_POINTS = 60

_WINDOW = 4
_ACK_TIMEOUT_S = 2.0
_TIMEOUTS_TO_LOSE_A_VIEW = 5


class PanelSink:
    """A sink that keeps, bounded, what a page is to be told.

    Args:
        nproc: How many ranks.
        wake: Called, from the event's thread, when there is something new. Must not block.

    Runs in: owner. Thread-safe.
    """

    def __init__(self, nproc: int, wake: Callable[[], object] = lambda: None) -> None:
        self._lock = threading.Lock()
        self._tail_bytes = max(16 << 10, min(256 << 10, _ALL_TAILS // nproc))
        self._feeds = {rank: RankFeed(self._tail_bytes) for rank in range(nproc)}
        self._let_go_at: dict[int, float] = {}
        self._usage: dict[int, deque[UsageRow]] = {}
        self._new_usage: list[UsageRow] = []
        self.wake = wake
        self.has_ended = False
        """Whether RunEnded was heard: no further event comes."""

    def __call__(self, event: Event) -> None:
        """Take any event."""
        with self._lock:
            if isinstance(event, OutputChunk):
                self._feed(event.rank).take(event)
            elif isinstance(event, RunRestarted):
                for feed in self._feeds.values():
                    feed.divide(divider_words(event))
            elif isinstance(event, UsageSample):
                row = (event.rank, event.cpu_percent, event.rss_bytes, event.gpu_percent, event.gpu_bytes)
                self._usage.setdefault(event.rank, deque(maxlen=_USAGE_POINTS)).append(row)
                self._new_usage.append(row)
            elif isinstance(event, RunEnded):
                self.has_ended = True
        self.wake()

    @property
    def has_more(self) -> bool:
        """Whether some rank's output is to be shown yet."""
        with self._lock:
            return any(feed.has_more for feed in self._feeds.values())

    def take_tick(self, shown: Collection[int] | None, now: float) -> dict[int, bytes]:
        """What is to be shown now, by rank.

        Args:
            shown: The ranks that somebody looks at; None: all. With more than four ranks the others are let go
                less often, and all at once when the run has ended.
            now: `time.monotonic()`.
        """
        with self._lock:
            due = [rank for rank, feed in self._feeds.items() if feed.has_more and self._is_due(rank, shown, now)]
            most = max(2 << 10, min(MOST_PER_TICK, _ALL_RANKS_PER_TICK // max(1, len(due))))
            for rank in due:
                self._let_go_at[rank] = now
            return {rank: self._feeds[rank].take_delta(most) for rank in due}

    def tails(self) -> dict[int, bytes]:
        """What was let go last, by rank; ranks without any are left out."""
        with self._lock:
            return {rank: tail for rank, feed in self._feeds.items() if (tail := feed.tail())}

    def take_usage(self) -> list[UsageRow]:
        """Samples that are new."""
        with self._lock:
            rows, self._new_usage = self._new_usage, []
            return rows

    def usage_history(self) -> list[list[UsageRow]]:
        """The last minute's samples, a list for each rank."""
        with self._lock:
            return [list(rows) for rows in self._usage.values()]

    def _feed(self, rank: int) -> RankFeed:
        if rank not in self._feeds:  # an elastic run that grew
            self._feeds[rank] = RankFeed(self._tail_bytes)
        return self._feeds[rank]

    def _is_due(self, rank: int, shown: Collection[int] | None, now: float) -> bool:
        if shown is None or rank in shown or len(self._feeds) <= _FEW_RANKS or self.has_ended:
            return True
        return now - self._let_go_at.get(rank, float("-inf")) >= _HIDDEN_PERIOD_S


@dataclass
class Window:
    """How many ticks may be under way, over all views of one panel: the quickest view sets the pace.

    A view that never answers holds nobody up: after two seconds the window opens again, and after five such times the
    views count as gone until one of them says something. Nothing is sent while there is none.
    """

    clock: Callable[[], float] = time.monotonic
    seq: int = 0
    acked: int = 0
    views: dict[str, list[int] | None] = field(default_factory=dict)
    """What each view shows (None: all)."""
    _waiting_since: float = 0.0
    _timeouts: int = 0

    def open_view(self, view: str) -> None:
        """A view came; it gets everything, so nothing is under way any more."""
        self.views.setdefault(view, None)
        self.acked, self._timeouts = self.seq, 0

    def close_view(self, view: str) -> None:
        """A view said goodbye."""
        self.views.pop(view, None)

    def take_ack(self, view: str, seq: int) -> None:
        """A view has drawn everything up to `seq`."""
        self.acked = max(self.acked, min(seq, self.seq))
        self._waiting_since, self._timeouts = self.clock(), 0
        self.views.setdefault(view, None)

    def show(self, view: str, ranks: list[int] | None) -> None:
        """A view shows other ranks now."""
        self.views[view] = ranks

    @property
    def shown(self) -> set[int] | None:
        """The ranks that some view shows; None: all."""
        ranks: set[int] = set()
        for shown in self.views.values():
            if shown is None:
                return None
            ranks.update(shown)
        return ranks

    def is_open(self) -> bool:
        """Whether a tick may be sent now."""
        if not self.views:
            return False
        if self.seq - self.acked < _WINDOW:
            return True
        if self.clock() - self._waiting_since < _ACK_TIMEOUT_S:
            return False
        self._timeouts += 1
        self.acked = self.seq
        if self._timeouts >= _TIMEOUTS_TO_LOSE_A_VIEW:
            self.views.clear()
            return False
        return True

    def next_seq(self) -> int:
        """The number of the tick that is sent now."""
        if self.acked == self.seq:
            self._waiting_since = self.clock()
        self.seq += 1
        return self.seq
