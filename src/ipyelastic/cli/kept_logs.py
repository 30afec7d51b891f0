"""Log files that a command was asked for without a folder: they stay a week, as those of a failed run do.

    run.py, machines.py > [here];   output/retention.py keeps and sweeps

Runs in: owner (a shell's process). torchrun leaves a folder in the temp folder for ever.
"""

from __future__ import annotations

from ..launcher.torchrun import Command

__all__ = ["kept_words", "keeps_logs"]


def keeps_logs(command: Command) -> bool:
    """Whether streams are to go to files (`-r`, `-t`) and no folder is named."""
    return command.options.log_dir is None and bool(command.job.redirects or command.job.tee)


def kept_words(folder: str) -> str:
    """Where they are."""
    return f"log files are kept in {folder} for a week; --log-dir keeps them elsewhere, for good"
