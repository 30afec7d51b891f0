"""A run as plain text: the text/plain beside the static page, for whatever shows no HTML.

    Board + Heading -> [here] -> text/plain

Runs in: owner. Pure functions over what the board holds.
Other end: view/html.py says the same.
"""

from __future__ import annotations

from .board import Board
from .heading import SIGNS, Heading, end_words, facts, failure_words, first_failure
from .inert import cut, shown
from .rank_page import shortened
from .stacks import traceback_text

__all__ = ["plain"]

_MOST_CHARACTERS = 300  # of one line
_MOST_RANKS = 64
_LINES_OF_FAILED = 20
_LINES_OF_OTHERS = 3
_MOST_NOTES = 20


def plain(board: Board, heading: Heading) -> str:
    """A few lines: how it went, why it failed, what each rank wrote last; without colours or a final newline."""
    snapshot = board.snapshot()
    root = first_failure(snapshot)
    lines = [f"{SIGNS[snapshot.status]} {heading.name} {snapshot.status} · {' · '.join(facts(snapshot, heading))}"]
    places = [f"{what} {where}" for what, where in (("run", heading.run_id), ("logs", heading.log_dir)) if where]
    if places:
        lines.append(", ".join(places))
    lines += heading.error.splitlines()[:5]
    lines += failure_words(snapshot, heading).splitlines()[:_MOST_NOTES]
    if root is not None and root.failure is not None:
        trace = shortened(traceback_text(root.failure), 8 << 10)
        lines += ["", *trace.splitlines()] if trace else []
    lines.append("")
    for rank in snapshot.ranks[:_MOST_RANKS]:
        is_root = root is not None and rank.rank == root.rank
        last = board.tail(rank.rank, _LINES_OF_FAILED if is_root else _LINES_OF_OTHERS)
        lines.append(f"{SIGNS[rank.state]} rank {rank.rank} {end_words(rank)}")
        lines += [f"    {line}" for line in last]
    if len(snapshot.ranks) > _MOST_RANKS:
        lines.append(f"... {len(snapshot.ranks) - _MOST_RANKS} more ranks")
    lines += [f"note: {note}" for note in snapshot.notes[:_MOST_NOTES]]
    return shown("\n".join(cut(line, _MOST_CHARACTERS) for line in lines))
