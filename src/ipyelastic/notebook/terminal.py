"""A `--bg` run in a terminal's IPython: its lines as they come, then how it ended.

    session.start > [here] -> the terminal's stdout

Runs in: owner (terminal IPython). `end` comes from the run's thread, before anyone who waits is told.
Other end: background.py says the same words in a notebook's output.
"""

from __future__ import annotations

from typing import Any

from ..engines.cause import rank_words
from ..engines.showing import PrintedLines
from ..terms.errors import ChildFailedError

__all__ = ["PrintedRun", "headline", "failure_words"]


class PrintedRun(PrintedLines):
    """Lines as a script prints them; at the end one of the run's state, and why it failed."""

    shows_failure = True

    def end(self, run: Any) -> None:
        """Print the half lines, the state, and the failure."""
        super().end(run)
        failure = failure_words(run)
        self._print(lambda: f"{headline(run)}\n" + (f"\n{failure}\n\n" if failure else ""))


def headline(run: Any) -> str:
    """`run 4b6efa13, train on 2 ranks: failed after 0.4 s`."""
    head = f"run {run.run_id}, {run.name} on {run.nproc} rank{'s' if run.nproc > 1 else ''}: {run.status}"
    duration_s = run.board.snapshot().duration_s
    return head if duration_s is None else f"{head} after {duration_s:.1f} s"


def failure_words(run: Any) -> str:
    """What ended the run, then what its ranks left behind, as plain text; empty when it ended well."""
    error = run.error_so_far
    if error is None:
        return ""
    words = rank_words(error, run.nproc)
    if words and isinstance(error, ChildFailedError):
        return words  # they say both
    said = f"{type(error).__name__}: {error}"
    return f"{said}\n\n{words}" if words else said
