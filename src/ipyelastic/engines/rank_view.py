"""One rank of a run as its user sees it.

    view/board, log paths -> [here] -> `run.ranks[1]`

Runs in: owner. Reads when asked; keeps nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from ..view.board import Board

__all__ = ["RankView"]

Paths = tuple[dict[int, str], dict[int, str]]


class RankView:
    """What can be known of one rank of a run, read when asked. Had from `run.ranks`.

        view = run.ranks[1]
        view.pid, view.state, view.exitcode, view.stdout_path, view.stderr_path, view.tail(50)

    Args:
        rank: Its number, 0 to world_size - 1.
        board: The run's.
        paths: Called for the log files of the current attempt: `({rank: stdout}, {rank: stderr})`.

    Attributes:
        rank: Its number.
    """

    def __init__(self, rank: int, board: Board, paths: Callable[[], Paths]) -> None:
        self.rank = rank
        self._board, self._paths = board, paths

    @property
    def pid(self) -> int | None:
        """Process id; None before the start."""
        return self._board.snapshot().ranks[self.rank].pid

    @property
    def exitcode(self) -> int | None:
        """Exit code; negative: the number of the signal that ended it; None while it runs."""
        return self._board.snapshot().ranks[self.rank].exitcode

    @property
    def state(self) -> str:
        """`waiting`, `running`, `succeeded`, `failed` or `stopped`."""
        return self._board.snapshot().ranks[self.rank].state

    @property
    def stdout_path(self) -> str:
        """Where its standard output is written, the whole of it; empty before the start."""
        return self._paths()[0].get(self.rank, "")

    @property
    def stderr_path(self) -> str:
        """Where its standard error is written, the whole of it; empty before the start."""
        return self._paths()[1].get(self.rank, "")

    def tail(self, n: int = 50) -> list[str]:
        """Its last `n` lines as plain text, both streams in order of arrival: a list, the oldest first."""
        return self._board.tail(self.rank, n)

    def __repr__(self) -> str:
        if self.pid is None:
            is_over = self._board.snapshot().duration_s is not None
            return f"<rank {self.rank}: {'not started' if is_over else self.state}>"
        return f"<rank {self.rank}: {self.state}, pid {self.pid}, exit code {self.exitcode}>"
