"""What is left of an engine whose run has ended, when nothing of the call itself is to be kept.

    engines/run.Run.forget_call > [here], in the place of LocalEngine or HereEngine

Runs in: owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["EndedEngine"]


class _Logs:
    def __init__(self, run_log_dir: str) -> None:
        self.run_log_dir = run_log_dir


class EndedEngine:
    """Paths and values, without the function and its arguments."""

    busy_with = ""

    def __init__(
        self, run_log_dir: str, paths: tuple[dict[int, str], dict[int, str]], values: Mapping[int, Any]
    ) -> None:
        self.logs, self.paths, self.values_so_far = _Logs(run_log_dir), paths, dict(values)

    def ask(self, op: str, **fields: Any) -> None:
        """There is nothing to stop."""
