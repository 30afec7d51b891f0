"""What the browser tests' notebooks import: a run with a panel, started in the background."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ipyelastic.engines.run import Run
from ipyelastic.launcher.options import RunOptions
from ipyelastic.notebook.panel import Panel

__all__ = ["shown_run"]


def shown_run(function: Callable[..., Any], *args: Any, nproc: int = 2, **options: Any) -> tuple[Panel, Run[Any]]:
    """A panel whose Start and Restart call the function again, and its first run; not displayed yet."""
    chosen = RunOptions.from_keywords(nproc=nproc, **options)

    def launch(new_sink: Callable[[int], Any]) -> Run[Any]:
        return Run(function, args, chosen, sinks=[new_sink(nproc)])

    panel = Panel(launch)
    run = launch(panel.new_sink)
    panel.follow(run)
    return panel, run
