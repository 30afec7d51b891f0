"""The runs of this process that have not ended, and failures nobody asked for; the process's end names both.

    engines/run -> add, remove, keep_failure, forget_failure
    process's end -> [here] -> runs are named and ended, then failures told, on stderr

Runs in: owner; `end_all` in the main thread, when Python ends or the extension is unloaded.
Other end: forkserver/client.py's own exit handler ends whatever is left after this one.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from typing import Protocol

from ..forkserver.client import servers

__all__ = ["LivingRun", "add", "remove", "keep_failure", "forget_failure", "oldest_first", "end_all"]

_GRACE_S = 1.0  # Jupyter kills a kernel that has not left after 5 s
_LEAVE_S = 3.0
_MOST_FAILURES = 10  # whose words are kept; a program that never asks must not grow by them


class LivingRun(Protocol):
    """What is asked of a run here."""

    run_id: str

    def stop_because(self, why: str, grace_s: float) -> None:
        """Ask its ranks to end; `why` in words, may be empty."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for its end."""


_lock = threading.Lock()
_runs: dict[str, LivingRun] = {}
_failures: dict[str, str] = {}  # by run_id; text only: the run itself may be gone by then
_pid = 0


def _renew_lock() -> None:
    """In a child that this process forked, perhaps while another thread held it."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def add(run: LivingRun) -> None:
    """A run is about to start."""
    servers()  # its exit handler must be there before ours: the last that came is called first
    with _lock:
        _begin()
        _runs[run.run_id] = run


def remove(run: LivingRun) -> None:
    """A run has ended."""
    with _lock:
        _runs.pop(run.run_id, None)


def keep_failure(run_id: str, words: str) -> None:
    """A run has failed. Its words are told at the process's end, unless `forget_failure` comes before."""
    with _lock:
        _begin()
        _failures[run_id] = words if len(_failures) < _MOST_FAILURES else ""


def forget_failure(run_id: str) -> None:
    """Somebody knows of it."""
    with _lock:
        _failures.pop(run_id, None)


def _begin() -> None:
    global _pid
    if _pid != os.getpid():  # the first run; or this process was forked: the runs are its parent's
        _pid = os.getpid()
        _runs.clear()
        _failures.clear()
    atexit.unregister(_end)
    atexit.register(_end)


def oldest_first() -> list[LivingRun]:
    """Runs that have not ended."""
    with _lock:
        return list(_runs.values()) if _pid == os.getpid() else []


def _end() -> None:
    end_all()
    with _lock:
        failures = list(_failures.values()) if _pid == os.getpid() else []
        _failures.clear()
    told = [words for words in failures if words]
    for words in told:
        _tell(f"ipyelastic: {words}")
    if len(failures) > len(told):
        _tell(f"ipyelastic: {len(failures) - len(told)} more failed and nobody asked")


def end_all(is_told: bool = True, why: str = "") -> None:
    """Ask all runs to end and wait, naming them on stderr: no thread may print during the interpreter's last steps."""
    runs = oldest_first()
    for run in runs:
        if is_told:
            _tell(f"ipyelastic: {run!r} has not ended; it ends with this process")
        run.stop_because(why, grace_s=_GRACE_S)
    until = time.monotonic() + _LEAVE_S
    for run in runs:
        run.wait(max(0.0, until - time.monotonic()))


def _tell(text: str) -> None:
    # A kernel's own sys.stderr leads to a page that is gone by now; what lies below it is its server's log.
    stream = sys.stderr if "ipykernel" not in sys.modules else sys.__stderr__
    try:
        print(text, file=stream, flush=True)
    except (OSError, ValueError, AttributeError):
        pass  # nobody is there to read it
