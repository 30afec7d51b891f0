"""What is left of an engine whose run has ended, when nothing of the call itself is to be kept.

    engines/run.Run.forget_call > [here], in the place of LocalEngine or HereEngine

Runs in: owner.
"""

from __future__ import annotations

from typing import Any

from ..agent.attempts import Attempt
from .here import HereEngine
from .local import LocalEngine

__all__ = ["EndedEngine"]


class _Logs:
    def __init__(self, run_log_dir: str) -> None:
        self.run_log_dir = run_log_dir


class EndedEngine:
    """Paths, values and attempts, without the function and its arguments."""

    busy_with = ""

    def __init__(self, engine: LocalEngine | HereEngine | EndedEngine) -> None:
        self.logs: _Logs = _Logs(engine.logs.run_log_dir)
        self.paths: tuple[dict[int, str], dict[int, str]] = engine.paths
        self.values_so_far: dict[int, Any] = dict(engine.values_so_far)
        self.attempts: list[Attempt] = list(engine.attempts)

    def ask(self, op: str, **fields: Any) -> None:
        """There is nothing to stop."""
