"""A `_pc` that somebody put in place: torch's callers and test suites replace it, and count on being asked.

    MultiprocessContext._poll, pids, _close -> [here] -> whatever has join(), processes and pids()

Runs in: agent. Not on the path of a run of ours: its own `_pc` is never asked to join.
Source: torch 2.13 as a black box: `join(-1)` is one look; once `_is_done`, `join()` until it says True.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..failures.read import read_failure
from .base import RunProcsResult, logger, validate_full_rank

__all__ = ["close_replaced", "poll_replaced"]

_KILL_WAIT_S = 30.0


def poll_replaced(
    processes: Any,
    is_done: Callable[[], bool],
    values: Mapping[int, Any],
    files: tuple[dict[int, str], dict[int, str], dict[int, str]],
    nprocs: int,
) -> RunProcsResult | None:
    """One look at processes that answer as torch's ProcessContext does.

    Args:
        processes: With `join(timeout)`, which raises an error with `error_index` and `error_pid` when one has failed.
        is_done: Whether all values are there.
        values: `{local_rank: value}`.
        files: Standard output, standard error and error files, by local rank.

    Raises RuntimeError when all is done and a rank's value is missing.
    """
    stdouts, stderrs, error_files = files
    try:
        processes.join(-1)
        if not is_done():
            return None
        while not processes.join():
            logger.debug("the functions have returned; waiting for their processes to end")
        validate_full_rank(dict(values), nprocs, "return_value queue")
        return RunProcsResult(dict(values), {}, stdouts, stderrs)
    except Exception as error:
        rank, pid = getattr(error, "error_index", None), getattr(error, "error_pid", None)
        if not isinstance(rank, int) or not isinstance(pid, int):
            raise
        failure = read_failure(
            local_rank=rank,
            pid=pid,
            exitcode=processes.processes[rank].exitcode,
            error_file=error_files.get(rank, ""),
            time_ns=time.monotonic_ns(),
        )
        return RunProcsResult({}, {rank: failure}, stdouts, stderrs)


def close_replaced(processes: Any, death_sig: signal.Signals, timeout: float) -> None:
    """Signal every live process, wait for all within one deadline, kill what is left."""
    alive = [process for process in processes.processes if process.is_alive()]
    for process in alive:
        logger.warning("Closing process %s via signal %s", process.pid, death_sig.name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, death_sig)
    deadline = time.monotonic() + timeout
    for process in alive:
        process.join(max(0.0, deadline - time.monotonic()))
    for process in alive:
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.join(_KILL_WAIT_S)
