"""The next run's folder, made when a run has ended: a launch finds it, and the ranks their files in it.

    a run has ended -> prepare -> <owner folder>/<run id>_<random>/attempt_0/<rank>/... -> take -> a run

Making a folder takes a sixth of a millisecond, a file half of that, and nothing of a run can begin before them. One is
kept; one that nobody takes goes with its owner's folder.

Runs in: owner, any thread.
Other end: logs.DefaultLogsSpecs uses it for its first attempt.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
from dataclasses import dataclass

from .retention import folder_that_stays, owner_folder

__all__ = ["NextFolder", "prepare", "take"]


@dataclass(frozen=True)
class NextFolder:
    """A run's folder with those of its first attempt in it, for `nprocs` ranks; its name begins with the run's id."""

    run_id: str
    path: str
    nprocs: int

    def files(self, name: str) -> dict[int, str]:
        """`{local_rank: path}` of one of the files that ranks write to in a first attempt."""
        return {rank: os.path.join(self.path, "attempt_0", str(rank), name) for rank in range(self.nprocs)}


_lock = threading.Lock()
_next: tuple[int, NextFolder] | None = None  # whose, by pid


def _forget() -> None:
    """In a child that this process forked, perhaps while another thread was in here."""
    global _lock, _next
    _lock, _next = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def prepare(nprocs: int) -> NextFolder | None:
    """Make one for so many ranks, in place of one for another number; None: the launch will say why there is none."""
    global _next
    with _lock, folder_that_stays() as home:
        if _next is not None and _next[0] == os.getpid():
            if _next[1].nprocs == nprocs and _is_whole(_next[1], home):
                return _next[1]
            shutil.rmtree(_next[1].path, ignore_errors=True)
        _next = None
        if home is None:  # the process is about to end
            return None
        with contextlib.suppress(OSError):
            run_id = secrets.token_hex(4)
            path = tempfile.mkdtemp(prefix=f"{run_id}_", dir=home)
            _fill(os.path.join(path, "attempt_0"), nprocs)
            _next = os.getpid(), NextFolder(run_id, path, nprocs)
        return None if _next is None else _next[1]


def _fill(attempt: str, nprocs: int) -> None:
    os.mkdir(attempt, mode=0o700)
    for rank in range(nprocs):
        folder = os.path.join(attempt, str(rank))
        os.mkdir(folder, mode=0o700)
        for name in ("stdout.log", "stderr.log", "stacks.txt"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(os.path.join(folder, name), flags, 0o600))


def take(nprocs: int) -> NextFolder | None:
    """The folder that is ready for so many ranks, if there is one; it is the caller's from now on."""
    global _next
    with _lock:
        found = _next
        if (
            found is None
            or found[0] != os.getpid()
            or found[1].nprocs != nprocs
            or not _is_whole(found[1], owner_folder())
        ):
            return None
        _next = None
        return found[1]


def _is_whole(folder: NextFolder, home: str | None) -> bool:
    """Whether nobody has cleared it away meanwhile, as far as one look for each rank can tell."""
    return os.path.dirname(folder.path) == home and all(map(os.path.exists, folder.files("stderr.log").values()))
