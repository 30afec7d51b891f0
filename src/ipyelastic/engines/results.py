"""The values of a run, by rank: what a cell shows and `Run.result()` returns.

    engines/run, notebook/here > [here] Results > foreground, notebook_launcher: Quiet when there is nothing to show

Runs in: owner.
"""

from __future__ import annotations

from typing import TypeVar

__all__ = ["Results", "Quiet"]


T = TypeVar("T")


class Results(list[T]):
    """The values of a run: a list of length nproc, by rank, with a short repr.

    `results[rank]` is what that rank returned; of a cell, the value of its last expression. What `Run.result()`,
    `await run`, `%%elastic_run` and `notebook_launcher()` give. To type checkers the values of a `Run[T]` are a
    `Results[T]`.

    Example:
        >>> Results(["first", None])
        [0: 'first', 1: None]
    """

    def __repr__(self) -> str:
        return "[" + ", ".join(f"{rank}: {_short(value)}" for rank, value in enumerate(self)) + "]"


class Quiet(Results[T]):
    """Values that a cell need not show: every one is None."""

    def _ipython_display_(self) -> None:
        """Nothing to show."""


def _short(value: object, limit: int = 200) -> str:
    if type(value) in (str, bytes, list, tuple) and len(value) > limit:  # type: ignore[arg-type]  # these have one
        value = value[: limit + 1]  # type: ignore[index]  # the repr of a gigabyte takes seconds
    try:
        text = repr(value)
    except Exception as error:
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."
