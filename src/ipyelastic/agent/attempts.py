"""One attempt at a run: its files, its failures, when it was; and the thread that reads its files while it lasts.

    agent/local > [Attempt], follow() > output/tail

Runs in: agent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..contexts.base import PContext
from ..output.tail import Tail, TailedFile
from ..terms.events import Sink, Stream
from ..terms.failure import ProcessFailure

__all__ = ["Attempt", "follow"]


@dataclass(frozen=True)
class Attempt:
    """One start of all workers of an agent; all mappings by global rank.

    Attributes:
        attempt: 0 is the first try. One that began because nodes joined has the number of the one before it.
        failures: Every rank that ended without a value, those that were stopped because of another included.
        stdouts, stderrs: Log files; empty: the console.
        started: Wall clock, seconds since 1970.
        ended: Likewise; None while it goes on.
        why_not_restarted: Why it was the last although restarts were left, as a sentence; empty otherwise.
    """

    attempt: int
    failures: Mapping[int, ProcessFailure] = field(default_factory=dict)
    stdouts: Mapping[int, str] = field(default_factory=dict)
    stderrs: Mapping[int, str] = field(default_factory=dict)
    started: float = 0.0
    ended: float | None = None
    why_not_restarted: str = ""


def follow(
    context: PContext,
    global_ranks: Mapping[int, int],
    sink: Sink,
    is_complete: bool,
    each_tick: Callable[[], None] | None,
) -> Tail:
    """A tail of the context's log files, to be started. `global_ranks` by local rank; for the rest see Tail."""
    files = []
    both: tuple[tuple[Stream, dict[int, str]], ...] = (("stdout", context.stdouts), ("stderr", context.stderrs))
    for local_rank, rank in global_ranks.items():
        for stream, paths in both:
            path = paths[local_rank]
            if path and path != os.devnull:
                files.append(TailedFile(rank, stream, path))
    return Tail(files, sink, is_complete=is_complete, each_tick=each_tick)
