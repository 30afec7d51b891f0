"""What ipyelastic logs while a command runs: one line each on stderr, with its level and time.

    loggers "ipyelastic..." > [here] > stderr

Runs in: owner (a shell's process), whose logging is the command's own. Its level is LOGLEVEL's, as torchrun's.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..agent.local import LocalElasticAgent
from ..terms import env
from ..terms.errors import OptionError

__all__ = ["log_lines"]

_FORMAT = "ipyelastic run: %(levelname)s %(asctime)s %(message)s"
_TIME = "%Y-%m-%d %H:%M:%S"


@contextmanager
def log_lines() -> Iterator[None]:
    """Show them from here to its end. Raises OptionError for a LOGLEVEL that is no level's name."""
    level, logger = _level(), logging.getLogger("ipyelastic")
    former = logger.level
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT, _TIME))
    logger.setLevel(level)
    logger.addHandler(handler)
    shown, LocalElasticAgent.shown_progress_level = LocalElasticAgent.shown_progress_level, logging.INFO
    try:
        yield
    finally:
        LocalElasticAgent.shown_progress_level = shown
        logger.removeHandler(handler)
        logger.setLevel(former)


def _level() -> int:
    asked = os.environ.get(env.LOGLEVEL, "WARNING")
    level = logging.getLevelName(asked.upper())
    if not isinstance(level, int):
        raise OptionError(f"{env.LOGLEVEL}={asked}: expected DEBUG, INFO, WARNING, ERROR or CRITICAL")
    return level
