"""What stands before a shell: a page that a person looks at, a program that collects output, a terminal.

    magic's session, --bg, notebook_launcher > [here]

Runs in: owner.
Other end: terms/env.py names what live pages leave in a kernel's environment.
"""

from __future__ import annotations

import os
from typing import Any

from ..terms.env import LIVE_FRONT_END

__all__ = ["is_kernel", "is_live_front_end"]


def is_kernel(shell: Any) -> bool:
    """Whether a shell is a kernel's; else it is IPython's in a terminal, or None."""
    return getattr(shell, "kernel", None) is not None


def is_live_front_end(shell: Any) -> bool:
    """Whether a person's page shows this shell's output, rather than nbclient or papermill collecting it.

    A terminal never is one, even where it inherited a page's environment: what it prints may go to a file.
    """
    return is_kernel(shell) and any(name in os.environ for name in LIVE_FRONT_END)
