"""The ranks' own words as the cause of a run's error: what a script, pytest or a log prints before Python's traceback.

    ChildFailedError, RunTimedOut -> [here] -> the same, with `__cause__`

Runs in: owner. A notebook shows the same words by itself (notebook/traceback.py) and never comes to the cause.
"""

from __future__ import annotations

import dataclasses
import errno

from ..terms.errors import ChildFailedError, RankTraceback, RendezvousConnectionError, RunTimedOut
from .showing import place

__all__ = ["port_trouble", "rank_words", "with_cause"]


def with_cause(error: BaseException, world_size: int) -> None:
    """Chain `error` to what its ranks left behind, if they left any."""
    words = rank_words(error, world_size)
    if words and error.__cause__ is None:
        error.__cause__ = RankTraceback(words)


def port_trouble(error: BaseException) -> str:
    """Why the port that was asked for cannot be had (`is in use`), to follow its name; empty for other errors."""
    origin = error.__cause__ if isinstance(error, RendezvousConnectionError) else error
    number = origin.errno if isinstance(origin, OSError) else None
    return {errno.EADDRINUSE: "is in use", errno.EACCES: "may not be used by you"}.get(number or 0, "")


def rank_words(error: BaseException, world_size: int) -> str:
    """What, likely, do, and the first failed rank's traceback or stacks, as plain text; empty for other errors."""
    if not isinstance(error, (RunTimedOut, ChildFailedError)):
        return ""
    from ..view.report import report  # not every run fails
    from ..view.stacks import trimmed_stacks

    if isinstance(error, RunTimedOut):
        told = [(rank, trimmed_stacks(stacks)) for rank, stacks in sorted(error.stacks.items())]
        return "\n\n".join("\n".join([f"rank {rank} was here:", *lines]) for rank, lines in told if lines)
    rank, failure = error.get_first_failure()
    tries = dataclasses.asdict(error.tries)
    words = report(error.failures, world_size=world_size, has_magics=place() is not None, **tries)
    if failure.exception is not None:
        return f"{words}\n\n{failure.exception.text.rstrip()}"
    if failure.stacks:
        return f"{words}\n\nthe Python stack of rank {rank}:\n" + "\n".join(trimmed_stacks(failure.stacks))
    return words
