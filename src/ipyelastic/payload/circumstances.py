"""What a rank takes over from its owner before anything of the user's is loaded.

    contexts/circumstances gathers them -> payload/delivery's head -> worker.py: settle, take_over, make_ready
    told ahead of the call: take_over(guess); then take_over(given, guess), see changes.py

Runs in: ranks; `Circumstances` is made in the owner.
Other end: contexts/circumstances.py.
"""

from __future__ import annotations

import builtins
import contextlib
import inspect
import os
import resource
import sys
import time
import types
from typing import TypedDict

from ..terms import env
from .asking import teach_asking
from .at_import import when_imported
from .display import teach_libraries, use_backend
from .inspection import teach_inspect

__all__ = ["Circumstances", "take_over", "settle", "make_ready"]


class Circumstances(TypedDict):
    """What a rank takes over from its owner before anything of the user's is loaded. Plain data, pickled."""

    base_env: dict[str, str]
    envs: dict[int, dict[str, str]]
    cwd: str | None
    umask: int | None
    rlimits: dict[int, tuple[int, int]]
    sys_path: list[str]
    argv: list[str]
    stdouts: dict[int, str]
    stderrs: dict[int, str]
    stacks: dict[int, str]
    grace_s: float
    seed: int | None
    num_threads: int | None
    run_mark: str
    is_exit_0_fine: bool
    """Whether `sys.exit(0)` counts as returning None (torch's rule) rather than as an end without a value."""


def take_over(given: Circumstances, local_rank: int, taken: Circumstances | None = None) -> None:
    """Environment, time zone, folder, limits, paths. Taking over other ones later leaves nothing of the former.

    `taken`: what this process has taken over before and nobody has touched since; None: it is looked up.
    """
    environment = _environment(given, local_rank)
    current = dict(os.environ) if taken is None else _environment(taken, local_rank)
    for name in current.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if current.get(name) != value:
            os.environ[name] = value
    if hasattr(time, "tzset") and environment.get("TZ") != current.get("TZ"):
        time.tzset()
    if given["umask"] is not None:
        os.umask(given["umask"])
    if given["rlimits"] and (taken is None or taken["rlimits"] != given["rlimits"]):
        for which, limits in given["rlimits"].items():
            if resource.getrlimit(which) != limits:
                with contextlib.suppress(OSError, ValueError):  # a hard limit that only root may raise again
                    resource.setrlimit(which, limits)
    os.chdir(given["cwd"] or "/")
    sys.path[:] = given["sys_path"]
    sys.argv = list(given["argv"])


def _environment(given: Circumstances, local_rank: int) -> dict[str, str]:
    return {**given["base_env"], **given["envs"].get(local_rank, {}), env.RUN_MARK: given["run_mark"]}


def settle(*, is_fresh_main: bool) -> None:
    """What the user's code is to find in any rank: a `__main__` of its own, libraries and builtins that know of ranks.

    Once per process. Needs nothing of the call: a spare has done it when the call comes.
    """
    if is_fresh_main:
        fresh = types.ModuleType("__main__")
        vars(fresh)["__builtins__"] = builtins
        sys.modules["__main__"] = fresh
    teach_libraries()
    teach_inspect(inspect)
    when_imported(
        {
            "multiprocessing.process": _start_children_here,
            "multiprocessing.reduction": _carry_by_value,
            "multiprocessing.shared_memory": _leave_blocks,
        }
    )
    teach_asking()


def make_ready() -> None:
    """What the user's code is to find in this run: the backend and the folder. After `take_over`."""
    use_backend()
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        _start_children_here(process)


def _start_children_here(process: types.ModuleType) -> None:
    """Python's own start methods take this folder for the empty entry of `sys.path`; the fork server's is `/`.

    Named semaphores have the run's mark in their names, those of the rank's children too.
    """
    with contextlib.suppress(OSError):
        process.ORIGINAL_DIR = os.getcwd()  # type: ignore[attr-defined]
    # A rank that is killed takes along what would have removed its named semaphores: process/semaphores.py knows them.
    config = getattr(process.current_process(), "_config", None)
    if isinstance(config, dict) and sys.platform == "linux":  # macOS takes 31 characters
        config["semprefix"] = f"/{env.semaphore_prefix(os.environ.get(env.RUN_MARK, ''))[:-1]}"


def _carry_by_value(reduction: types.ModuleType) -> None:
    from .family import carry_by_value

    carry_by_value(reduction)


def _leave_blocks(shared_memory: types.ModuleType) -> None:
    from .blocks import leave_to_their_owner

    leave_to_their_owner(shared_memory)
