"""How a run ended, as a shell hears it: the exit code, and the words on stderr.

    run.py, machines.py > [here] > engines/cause

Runs in: owner (a shell's process).
"""

from __future__ import annotations

import sys

from ..engines.cause import rank_words
from ..terms.errors import ChildFailedError, RunTimedOut

__all__ = ["TIMED_OUT", "WRONG_USAGE", "exit_code", "say", "tell_failure"]

WRONG_USAGE, TIMED_OUT = 2, 124  # the second as coreutils' `timeout`


def exit_code(error: BaseException | None) -> int:
    """That of the first rank that failed, 128 + n for signal n; 1 for what is no rank's."""
    if error is None:
        return 0
    if isinstance(error, RunTimedOut):
        return TIMED_OUT
    if isinstance(error, ChildFailedError):
        code = error.get_first_failure()[1].exitcode
        return 128 - code if code < 0 else code or 1
    return 1


def tell_failure(error: BaseException, world_size: int, log_dir: str) -> None:
    """Say on stderr what went wrong, and where the log files are."""
    words = rank_words(error, world_size)
    if not isinstance(error, ChildFailedError):
        words = f"{type(error).__name__}: {error}" + (f"\n\n{words}" if words else "")
    logs = f"\nlog files: {log_dir}\n" if log_dir else ""
    _print(f"\n{words}\n{logs}")


def say(text: str) -> None:
    """One line of our own on stderr."""
    _print(f"ipyelastic run: {text}\n")


def _print(text: str) -> None:
    try:
        print(text, end="", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # nobody is there to read it
