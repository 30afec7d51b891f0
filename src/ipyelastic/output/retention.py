"""How long log folders live that nobody named: until their owner ends well; those of failed runs a week.

    <temp>/ipyelastic-<uid>/<owner pid>-<mark>/<run>/...     a run's folder holds `failed` when it failed

Runs in: owner. Folders given with `--log-dir` are never touched.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator

from ..terms import env

__all__ = ["folder_that_stays", "owner_folder", "keep", "mark_failed", "sweep"]

KEEP_FAILED_S = 7 * 24 * 3600.0
_MARKER = ".ipyelastic-owner"
_FAILED = "failed"
_lock = threading.Lock()
_mine: tuple[int, str] | None = None  # pid, folder


def _renew_lock() -> None:
    """In a child that this process forked, perhaps while another thread held it."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def root_folder() -> str:
    """The folder of all owners of this user, made if missing, 0700.

    Raises `PermissionError` when something of somebody else's stands in its place (a shared temp folder).
    """
    path = os.environ.get(env.RUN_ROOT) or os.path.join(tempfile.gettempdir(), f"ipyelastic-{os.getuid()}")
    os.makedirs(path, mode=0o700, exist_ok=True)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to somebody else; set {env.RUN_ROOT} to a folder of yours")
    return path


def owner_folder() -> str:
    """The folder for this process's runs; it goes at the process's orderly end, runs that failed excepted."""
    global _mine
    with _lock:
        if _mine is None or _mine[0] != os.getpid() or not os.path.isdir(_mine[1]):
            folder = tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=root_folder())
            with open(os.path.join(folder, _MARKER), "w", encoding="ascii") as file:
                file.write(_start_time(os.getpid()))
            _mine = (os.getpid(), folder)
            atexit.register(_at_exit)
        return _mine[1]


def mark_failed(run_folder: str) -> None:
    """Keep this run's folder for a week after its owner's end."""
    try:
        with open(os.path.join(run_folder, _FAILED), "w", encoding="ascii"):
            pass
    except OSError:
        pass  # the folder is gone or full: there is nothing worth keeping


def keep(run_folder: str) -> None:
    """Keep this run's folder as long as that of a failed one: its log files were asked for."""
    mark_failed(run_folder)


@contextlib.contextmanager
def folder_that_stays() -> Iterator[str | None]:
    """The folder for this process's runs, if there is one; it is not cleared away meanwhile."""
    with _lock:
        is_there = _mine is not None and _mine[0] == os.getpid()
        yield _mine[1] if _mine is not None and is_there else None


def _at_exit() -> None:
    global _mine
    with _lock:
        if _mine is not None and _mine[0] == os.getpid():
            folder, _mine = _mine[1], None
            _clear(folder, time.time(), owner_ended_well=True)


def sweep() -> int:
    """Remove what dead owners left behind and nobody will look for. Returns how many folders went."""
    gone, now = 0, time.time()
    root = root_folder()
    for name in os.listdir(root):
        folder = os.path.join(root, name)
        try:
            with open(os.path.join(folder, _MARKER), encoding="ascii") as file:
                started = file.read()
            if os.lstat(folder).st_uid != os.getuid():
                continue
        except OSError:
            continue  # not ours
        pid = int(name.partition("-")[0]) if name.partition("-")[0].isdigit() else 0
        if not started or (pid and _start_time(pid) == started):
            continue  # its owner is making it at this moment, or lives
        gone += _clear(folder, now, owner_ended_well=False)
    return gone


def _clear(folder: str, now: float, owner_ended_well: bool) -> bool:
    """Remove an owner's folder, or what of it need not stay. An owner that was killed may not have marked a failure."""
    is_empty = True
    for entry in os.scandir(folder):
        if not entry.is_dir(follow_symlinks=False):
            continue
        is_kept = os.path.exists(os.path.join(entry.path, _FAILED)) or not owner_ended_well
        if is_kept and now - entry.stat(follow_symlinks=False).st_mtime < KEEP_FAILED_S:
            is_empty = False
        else:
            shutil.rmtree(entry.path, ignore_errors=True)
    if is_empty:
        shutil.rmtree(folder, ignore_errors=True)
    return is_empty


def _start_time(pid: int) -> str:
    """When a process was started, in clock ticks since boot: with the pid, it names a process for good."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        return ""
