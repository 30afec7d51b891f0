"""How a test spells the command `ipyelastic` with this Python."""

from __future__ import annotations

import sys

__all__ = ["COMMAND"]

COMMAND = [sys.executable, "-m", "ipyelastic"]
