"""What a rank finds around it, as plain data: two ranks that were made differently are compared by it."""

from __future__ import annotations

import atexit
import builtins
import os
import random
import re
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

__all__ = ["surroundings", "open_files", "random_number", "leave_traces", "see_traces"]

_OWN = re.compile(r"IPYELASTIC_RUN_MARK|MASTER_PORT|TORCHELASTIC_(RUN_ID|ERROR_FILE)|JAX_COORDINATOR_ADDRESS")


def open_files(pid: int | str = "self") -> list[str]:
    """What a process's descriptors are, less numbers that differ each time."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(fd)
        except OSError:
            continue  # the listing's own
        if "/proc/" not in target:
            found.append(re.sub(r"\[\d+\]|/runs.*/", "", target))
    return sorted(found)


def surroundings() -> dict[str, Any]:
    """Everything of this rank that its run, and nothing else, should decide."""
    status = Path("/proc/self/status").read_text()
    environ = Path("/proc/self/environ").read_bytes()
    (mark,) = re.findall(rb"IPYELASTIC_RUN_MARK=([^\0]*)", environ)
    return {
        "files": open_files(),
        "environment": {name: value for name, value in os.environ.items() if not _OWN.match(name)},
        "is marked outside as inside": mark.decode() == os.environ["IPYELASTIC_RUN_MARK"],
        "folder": os.getcwd(),
        "umask": re.search(r"Umask:\s*(\d+)", status)[1],  # type: ignore[index]
        "signals": re.findall(r"Sig(?:Blk|Ign|Cgt):\s*\w+", status),
        "handlers": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        "limits": [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")],
        "path": list(sys.path),
        "arguments": sys.argv,
        "modules": sorted(name for name in sys.modules if not name.startswith("ipyelastic")),
        "finders": [type(finder).__name__ for finder in sys.meta_path],
        "streams": [(s.encoding, s.errors, s.line_buffering) for s in (sys.stdin, sys.stdout, sys.stderr)],
        "main": sorted(vars(sys.modules["__main__"])),
        "leads its session": os.getsid(0) == os.getpid() == os.getpgid(0),
        "exit handlers": atexit._ncallbacks(),
        "threads": threading.active_count(),
        "time zone": time.tzname,
        "input": builtins.input.__module__,
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
    }


def random_number() -> float:
    """Of this rank's own state."""
    return random.random()


def leave_traces() -> int:
    """Change whatever a rank can change of itself; returns its pid."""
    os.environ["LEFT_BEHIND"] = "1"
    os.chdir("/")
    os.umask(0o077)
    sys.path.insert(0, "/left/behind")
    random.seed(1)
    vars(builtins)["left_behind"] = sys.modules["left_behind"] = sys
    sys._left_behind = open("/dev/zero")  # type: ignore[attr-defined]
    return os.getpid()


def see_traces() -> list[str]:
    """What of all that is to be seen."""
    seen = {
        "environment": "LEFT_BEHIND" in os.environ,
        "folder": os.getcwd() == "/",
        "path": "/left/behind" in sys.path,
        "builtins": "left_behind" in vars(builtins),
        "modules": "left_behind" in sys.modules,
        "files": "/dev/zero" in open_files(),
    }
    return [name for name, is_so in seen.items() if is_so]
