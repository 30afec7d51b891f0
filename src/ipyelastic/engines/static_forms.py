"""A run as it stays in a notebook: HTML and text that need no kernel.

    Run.board, the pictures beside its log files -> [here] -> view/html, view/plain

Runs in: owner, any thread.
"""

from __future__ import annotations

from typing import Any

from ..terms.errors import ChildFailedError, RunStopped
from .pictures import pictures_of

__all__ = ["static_forms"]


def static_forms(run: Any) -> tuple[str, str]:
    """A run as HTML and as plain text: how it ended, or how it stands now."""
    from ..view.heading import Heading  # all this is for runs that are shown: a launch need not wait for it
    from ..view.html import html
    from ..view.plain import plain

    error = run.error_so_far
    said = "" if error is None or type(error) in (ChildFailedError, RunStopped) else str(error)
    heading = Heading(
        run.name,
        run.run_id,
        run.log_dir,
        max_restarts=getattr(run.options, "max_restarts", 0),
        elapsed_s=run.elapsed_s,
        error=said,
    )
    return html(run.board, heading, pictures_of(run.log_dir)), plain(run.board, heading)
