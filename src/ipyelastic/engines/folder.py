"""The working directory, which may have been deleted under a process that lives on.

Runs in: owner.
"""

from __future__ import annotations

import os

__all__ = ["working_folder"]


def working_folder() -> str | None:
    """`os.getcwd()`; None when that folder is gone or closed to us."""
    try:
        return os.getcwd()
    except OSError:
        return None
