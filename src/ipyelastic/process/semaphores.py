"""Named semaphores that a killed rank could not remove: Python's resource tracker, which would, was killed with it.

    payload/circumstances puts the run's mark into their names -> [here] removes what a run left

Runs in: fork server, at a run's end: nothing of the run lives any more that could use them.
Source: sem_overview(7): a semaphore `/x` is the file `/dev/shm/sem.x`. Of other libraries (loky) the names are theirs.
"""

from __future__ import annotations

import contextlib
import os

from ..terms import env

__all__ = ["remove_semaphores"]

_FOLDER = "/dev/shm"


def remove_semaphores(run_mark: str) -> None:
    """Remove those of one run."""
    prefix = f"sem.{env.semaphore_prefix(run_mark)}"
    with contextlib.suppress(OSError):  # no such folder here; somebody else was faster
        for name in os.listdir(_FOLDER):
            if name.startswith(prefix):
                os.unlink(os.path.join(_FOLDER, name))
