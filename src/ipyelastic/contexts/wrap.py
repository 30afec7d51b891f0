"""Torch's `_wrap`: what a function worker runs around the user's function when the caller brings queues of its own.

Runs in: a worker. Our own contexts do not need it (worker.py does all this); torch's users and tests call it.
Source: torch 2.13 (SEEDS section 3).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..devices.numa import NumaOptions, _maybe_wrap_with_numa_binding
from ..failures.handler import record
from ..output.std_redirect import get_std_cm, redirect_stderr, redirect_stdout

__all__ = ["_wrap", "call_through"]


def _wrap(
    local_rank: int,
    fn: Callable[..., Any],
    args: dict[int, tuple[Any, ...]],
    envs: dict[int, dict[str, str]],
    stdout_redirects: dict[int, str],
    stderr_redirects: dict[int, str],
    ret_vals: dict[int, Any],
    queue_finished_reading_event: Any,
    numa_options: NumaOptions | None = None,
) -> None:
    """Set this rank's environment, redirect its streams, call the function, put its value and wait until it was read.

    Args:
        ret_vals: `{local_rank: queue}` with `put`.
        queue_finished_reading_event: With `wait`; set by the parent once it has the values.
    """
    own_args, own_queue = args[local_rank], ret_vals[local_rank]
    stdout, stderr = stdout_redirects[local_rank], stderr_redirects[local_rank]
    for name, value in envs[local_rank].items():
        os.environ[name] = value
    with get_std_cm(stdout, redirect_stdout), get_std_cm(stderr, redirect_stderr):
        bound = _maybe_wrap_with_numa_binding(fn, gpu_index=local_rank, numa_options=numa_options)
        own_queue.put(record(bound)(*own_args))
        queue_finished_reading_event.wait()


torchs_wrap = _wrap
"""What `_wrap` is unless somebody replaced it."""


class _Box:
    """The queue and the event of a worker whose value goes home by other means: put once, never waited for."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def put(self, value: Any) -> None:
        self.values.append(value)

    def wait(self, timeout: float | None = None) -> bool:
        return True


def call_through(
    replacement: Callable[..., None],
    fn: Callable[..., Any],
    envs: dict[int, dict[str, str]],
    numa_options: NumaOptions | None,
    local_rank: int,
    *args: Any,
) -> Any:
    """In a rank: call the function by way of what somebody has put in `_wrap`'s place; its one value is the rank's."""
    box, nowhere = _Box(), {local_rank: ""}  # the streams are in place already
    replacement(local_rank, fn, {local_rank: args}, envs, nowhere, nowhere, {local_rank: box}, box, numa_options)
    if not box.values:
        raise SystemExit  # an end without a value
    return box.values[0]
