"""How many spares there are to be, and what a server and its spares cost while nothing runs.

    client.launch -> spares_for;   client.describe -> idle_cost -> %elastic_status

Runs in: owner.
Source: proc(5), smaps_rollup: Pss is a process's own pages, and its part of those that several share.
"""

from __future__ import annotations

import os
from typing import Any

from ..process.orphans import children_of, environment_has, is_zombie_or_gone
from ..terms import env
from ..terms.errors import OptionError

__all__ = ["spares_for", "idle_cost"]

_MOST = 8


def spares_for(nprocs: int) -> int:
    """How many ranks to have ready after a launch of `nprocs`. Raises OptionError: the variable is no number."""
    asked = os.environ.get(env.SPARES, "").strip()
    if not asked:
        return min(nprocs, max(_MOST, os.cpu_count() or 1))
    if not asked.isdecimal():
        raise OptionError(f"{env.SPARES}={asked!r}: expected how many ranks to fork ahead: a whole number, 0 for none")
    return int(asked)


def idle_cost(server_pid: int, server_mark: str) -> dict[str, Any]:
    """`{"spares": count, "pss_mb": megabytes of the server and its spares}`.

    A spare carries its server's mark still; a rank has its run's.
    """
    entry = f"{env.RUN_MARK}={server_mark}".encode()
    children = children_of(server_pid)
    spares = [pid for pid in children if environment_has(pid, entry) and not is_zombie_or_gone(pid)]
    return {"spares": len(spares), "pss_mb": round(sum(map(_pss_bytes, (server_pid, *spares))) / 1e6, 1)}


def _pss_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            rows = file.read().split(b"\n")
    except OSError:  # gone, or not Linux
        return 0
    return next((int(row.split()[1]) * 1024 for row in rows if row.startswith(b"Pss:")), 0)
