"""Torch's `start_processes`: one call that makes the right context and starts it.

Runs in: agent. Source: torch 2.13 (SEEDS section 2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..devices.numa import NumaOptions
from ..output.logs import LogsSpecs
from .base import PContext, validate_full_rank
from .commands import SubprocessContext
from .functions import MultiprocessContext
from .settings import RankSettings

__all__ = ["start_processes"]


def start_processes(
    name: str,
    entrypoint: Callable[..., Any] | str,
    args: dict[int, tuple[Any, ...]],
    envs: dict[int, dict[str, str]],
    logs_specs: LogsSpecs,
    log_line_prefixes: dict[int, str] | None = None,
    start_method: str = "spawn",
    numa_options: NumaOptions | None = None,
    duplicate_stdout_filters: list[str] | None = None,
    duplicate_stderr_filters: list[str] | None = None,
    *,
    settings: RankSettings | None = None,
    on_made: Callable[[PContext], None] | None = None,
) -> PContext:
    """Start one worker per local rank.

    Args:
        name: What is run, for people.
        entrypoint: A function, called by each rank with its `args`, or a program's path.
        args: `{local_rank: arguments}`, ranks exactly `0..n-1`.
        envs: `{local_rank: {name: value}}`, the same ranks; the error file's name is written into each.
        logs_specs: Where output goes.
        log_line_prefixes: `{local_rank: text}` for teed lines; None: `[<name><rank>]:`.
        start_method: For functions: `"spawn"` (torch's default), `"forkserver"` or `"fork"`.
        numa_options: Bind each rank to the CPUs near its GPU; None: do not.
        duplicate_stdout_filters: Texts; teed stdout lines that hold one of them are also written to one file for all
            ranks, prefixed.
        duplicate_stderr_filters: Likewise for stderr.
        settings: Ours: policy, seed, events.
        on_made: Called with the context before any worker is started. What it raises closes the context.

    Returns:
        The started context: `wait()` for its RunProcsResult, `close()` it at the end.

    Raises:
        RuntimeError: Ranks of `args` or `envs` are not `0..n-1`.
        FileNotFoundError, PermissionError, TypeError: A program that is missing, not executable, or given an
            environment that is not text.
        OptionError, UnpicklableError, ServerError, OSError: See MultiprocessContext; nothing is left running.

    Source: torch 2.13, https://docs.pytorch.org/docs/stable/elastic/multiprocessing.html.
    """
    nprocs = len(args)
    validate_full_rank(args, nprocs, "args")
    validate_full_rank(envs, nprocs, "envs")
    shared: dict[str, Any] = {
        "name": name,
        "args": args,
        "envs": envs,
        "logs_specs": logs_specs,
        "log_line_prefixes": log_line_prefixes,
        "numa_options": numa_options,
        "duplicate_stdout_filters": duplicate_stdout_filters,
        "duplicate_stderr_filters": duplicate_stderr_filters,
    }
    context: PContext
    if isinstance(entrypoint, str):
        context = SubprocessContext(entrypoint=entrypoint, settings=settings, **shared)
    else:
        context = MultiprocessContext(entrypoint=entrypoint, start_method=start_method, settings=settings, **shared)
    try:
        if on_made is not None:
            on_made(context)
    except BaseException:
        context.close()
        raise
    context.start()
    return context
