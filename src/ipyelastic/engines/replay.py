"""What a sink that comes late is told of a run: the ranks that live, and the lines they have written so far.

    Board -> [here] -> the sink's first events

Runs in: owner, between two events of the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from ..terms.events import Event, OutputChunk, RunEnded, Stream, WorkerStarted
from ..view.board import Board
from ..view.streams import told_apart

__all__ = ["replayed"]


def replayed(board: Board) -> Iterator[Event]:
    """Events that make up for those before, as far as the board keeps them; early states of a bar are lost."""
    snapshot = board.snapshot()
    for rank in snapshot.ranks:
        if rank.state == "running" and rank.pid is not None and rank.local_rank is not None:
            yield WorkerStarted(rank.rank, rank.local_rank, rank.pid, snapshot.attempt, rank.host)
        paths: dict[Stream, str] = {"stdout": rank.stdout_path, "stderr": rank.stderr_path}
        yield from _written(board, rank.rank, paths)
    if snapshot.duration_s is not None:
        yield RunEnded(snapshot.status, snapshot.duration_s)


def _written(board: Board, rank: int, paths: dict[Stream, str]) -> Iterator[OutputChunk]:
    lines = board.lines(rank)
    told = told_apart(lines, board.lines(rank, stream="stdout"), board.lines(rank, stream="stderr"))
    latest: Stream = "stdout"
    parts: list[tuple[Stream, list[str]]] = []
    for stream, group in groupby(zip(told, lines, strict=True), key=lambda pair: pair[0]):
        latest = stream or latest
        parts.append((latest, [line for _, line in group]))
    for at, (stream, own) in enumerate(parts, 1):
        # A bar that goes on is written over, as it would have been.
        end = "\r" if at == len(parts) and board.is_updating(rank) else "\n"
        yield OutputChunk(rank, stream, "\n".join(own) + end, paths[stream])
