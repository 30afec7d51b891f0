"""When a run's ranks are asked to end, and when made to.

Runs in: owner (said), fork server (done: forkserver/group.py).
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

__all__ = ["Policy"]


@dataclass(frozen=True)
class Policy:
    """What a fork server does with a run's ranks by itself. Travels as JSON.

    `grace_s`: seconds between asking and killing. `timeout_s`: the run's time limit, None for none. `fail_fast`: ask
    the other ranks to end when one has failed. `stop_signal`: how to ask. `is_exit_0_fine`: a rank that exits with 0
    has not failed, whether or not it has handed over a value: a program's rule.
    """

    grace_s: float = 5.0
    timeout_s: float | None = None
    fail_fast: bool = True
    stop_signal: int = int(signal.SIGTERM)
    is_exit_0_fine: bool = False
