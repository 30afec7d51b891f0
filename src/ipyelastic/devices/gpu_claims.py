"""Who has which GPU: one lock file per GPU, so that runs of this user, in any process, do not get the same one twice.

    engines/local: hold -> the run -> release          launcher/gpu_choice: holders -> who must be avoided

Runs in: owner, any thread. A lock goes with its process, however that ends.

POSIX locks (`lockf`), not `flock`: a child that the owner forks (DataLoader workers) would keep a `flock` alive. They
ask two things in return: a process does not conflict with itself, so `_held` knows what is held here; and closing any
descriptor of a file gives up the process's lock on it, so a file that is held here is never opened again.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["Holder", "hold", "holders", "release"]


class Holder(NamedTuple):
    """The run that has a GPU, and the process the run was launched from."""

    pid: int
    run_id: str

    def __str__(self) -> str:
        return f"run {self.run_id}" + ("" if self.pid == os.getpid() else f" of process {self.pid}")


_lock = threading.Lock()
_held: dict[str, tuple[int, Holder]] = {}  # path -> descriptor and run


def holders(names: Iterable[str], folder: str) -> dict[str, Holder]:
    """`{name: run}` for those of the GPUs that a live run has. `folder`: where the lock files are."""
    with _lock:
        found = {}
        for name in names:
            holder = _holder(os.path.join(folder, _file_name(name)))
            if holder is not None:
                found[name] = holder
        return found


def hold(names: Sequence[str], folder: str, run_id: str) -> list[str]:
    """Take what nobody has for a run of this process; returns the names that were taken, for `release`.

    Raises OSError when the folder cannot be written to.
    """
    mine = Holder(os.getpid(), run_id)
    taken = []
    with _lock:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        for name in names:
            path = os.path.join(folder, _file_name(name))
            if _of_this_process(path) is not None:
                continue
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{mine.pid} {mine.run_id}".encode(), 0)
            _held[path] = (fd, mine)
            taken.append(name)
    return taken


def release(names: Iterable[str], folder: str) -> None:
    """Give back what `hold` took. The files stay: removing one under a waiting locker would part the two."""
    with _lock:
        for name in names:
            path = os.path.join(folder, _file_name(name))
            if _of_this_process(path) is not None:
                os.close(_held.pop(path)[0])


def _holder(path: str) -> Holder | None:
    mine = _of_this_process(path)
    if mine is not None:
        return mine
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid, _, run_id = os.pread(fd, 200, 0).decode(errors="replace").partition(" ")
        return Holder(int(pid) if pid.isdigit() else 0, run_id)
    finally:
        os.close(fd)
    return None


def _of_this_process(path: str) -> Holder | None:
    """Its run here; a forked child has its parent's table but none of its locks."""
    _, holder = _held.get(path, (-1, None))
    return holder if holder is not None and holder.pid == os.getpid() else None


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name) + ".lock"
