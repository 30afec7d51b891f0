"""What ranks take over from this process: environment, folder, limits, paths, and where their output goes.

    functions > [here] -> worker.Circumstances, pickled -> payload/delivery -> worker.py

Runs in: agent.
Other end: worker.py takes them before it loads anything of the user's.
"""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..payload.circumstances import Circumstances

__all__ = ["circumstances", "check_log_files", "rank_argv"]


_LIMITS = frozenset(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))


def circumstances(
    *,
    base_env: Mapping[str, str],
    envs: dict[int, dict[str, str]],
    stdouts: dict[int, str],
    stderrs: dict[int, str],
    stacks: dict[int, str],
    grace_s: float,
    seed: int | None,
    num_threads: int | None,
    run_mark: str,
    is_exit_0_fine: bool,
) -> Circumstances:
    """Gather them as they are now. See worker.Circumstances."""
    try:
        cwd = os.getcwd()
    except FileNotFoundError:  # deleted under us: the rank says so only if it looks
        cwd = None
    return {
        "base_env": dict(base_env),
        "envs": envs,
        "cwd": cwd,
        "umask": _umask(),
        "rlimits": _rlimits(),
        "sys_path": _plain(sys.path),
        "argv": _plain(rank_argv()),
        "stdouts": _absolute(stdouts),
        "stderrs": _absolute(stderrs),
        "stacks": _absolute(stacks),
        "grace_s": grace_s,
        "seed": seed,
        "num_threads": num_threads,
        "run_mark": run_mark,
        "is_exit_0_fine": is_exit_0_fine,
    }


def _plain(words: Sequence[str]) -> list[str]:
    """Those of a class derived from `str` as texts: it may be one that a rank cannot have yet."""
    return [str(word) if isinstance(word, str) else word for word in words]


def rank_argv() -> list[str]:
    """`sys.argv` of a rank: this process's; in a kernel its first word only, the rest is for the kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return sys.argv[:1] if getattr(shell, "kernel", None) is not None else list(sys.argv)


def _absolute(paths: Mapping[int, str]) -> dict[int, str]:
    """Ranks open them before they enter our folder."""
    return {rank: os.path.abspath(path) if path and not os.path.isabs(path) else path for rank, path in paths.items()}


def check_log_files(paths: Sequence[str]) -> None:
    """Fail here, with the path, rather than in every rank: a full or read-only log folder.

    One new file in a folder stands for the others: making a file takes a fifth of a millisecond or more.
    """
    good: set[str] = set()
    for path in paths:
        folder = os.path.dirname(path)
        if path and not (folder in good and not os.path.lexists(path)):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
            good.add(folder)


def _umask() -> int | None:
    """Read without setting it: setting, even for a moment, changes files that other threads make."""
    try:
        fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            head = os.read(fd, 1 << 12)
        finally:
            os.close(fd)
    except OSError:
        return None
    found = re.search(rb"^Umask:\s*(\d+)", head, re.MULTILINE)
    return int(found.group(1), 8) if found else None


def _rlimits() -> dict[int, tuple[int, int]]:
    limits = {}
    for which in _LIMITS:
        try:
            limits[which] = resource.getrlimit(which)
        except (OSError, ValueError):
            continue
    return limits
