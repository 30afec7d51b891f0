"""Which line of a rank's merged output came from which stream.

    Board.lines(rank), of both streams and of each -> [here] -> view/html

Runs in: owner. Pure.
Note: The board keeps no stream with its merged lines; were it to, this file could go.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..terms.events import Stream

__all__ = ["told_apart"]

_AHEAD = 40  # lines of one stream that may have been redrawn and stand nowhere in the merged ones


def told_apart(merged: Sequence[str], stdout: Sequence[str], stderr: Sequence[str]) -> list[Stream | None]:
    """For each merged line the stream that wrote it; None for one that stands in neither (an early state of a bar).

    Args:
        merged: The last lines of both streams, in order of arrival.
        stdout: The last lines of that stream, at least as many as `merged` has of it.
        stderr: Likewise.

    >>> told_apart(["a", "oops", "b"], ["a", "b"], ["oops"])
    ['stdout', 'stderr', 'stdout']
    """
    left: dict[Stream, list[str]] = {"stdout": list(stdout), "stderr": list(stderr)}
    latest: Stream = "stdout"
    told: list[Stream | None] = []
    for line in reversed(merged):  # from the end, where all three are sure to be about the same moment
        other: Stream = "stderr" if latest == "stdout" else "stdout"
        found: Stream | None = next((stream for stream in (latest, other) if left[stream][-1:] == [line]), None)
        if found is not None:
            left[found].pop()
        else:
            found = _further_up(line, left)
        latest = found or latest
        told.append(found)
    told.reverse()
    return told


def _further_up(line: str, left: dict[Stream, list[str]]) -> Stream | None:
    """The stream that has the line a little further up, which is then the place to go on from."""
    for stream, lines in left.items():
        for back in range(1, min(_AHEAD, len(lines)) + 1):
            if lines[-back] == line:
                del lines[-back:]
                return stream
    return None
