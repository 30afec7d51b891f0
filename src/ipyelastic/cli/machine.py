"""What Python and the machine under it offer: versions, what the kernel gives us, limits, room for log files.

    doctor > [here]

Runs in: owner (a shell's process). Looks only.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable

from ..output import retention
from ..view.amounts import size_words
from .findings import Finding

__all__ = ["look"]

_LEAST_FILES = 256  # descriptors: a run needs some 3 per rank in the server, a kernel some 60
_LEAST_SHM = 64 << 20  # bytes; containers come with just this, and DataLoader workers need more
_LEAST_LOG_ROOM = 1 << 30


def look() -> list[Finding]:
    """Everything that asks nobody but this process's own kernel."""
    return [_python(), _platform(), *_kernel_calls(), _shared_memory(), _files(), _log_room()]


def _python() -> Finding:
    text = f"Python {platform.python_version()} ({sys.executable})"
    if sys.version_info[:2] == (3, 11):
        return Finding("Python and platform", "python", "ok", text)
    return Finding("Python and platform", "python", "note", text, "3.11 is what was tried")


def _platform() -> Finding:
    text = f"{platform.platform()}, {os.cpu_count()} CPUs"
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if allowed != os.cpu_count():
        text += f", {allowed} of them for this process"
    if sys.platform == "linux":
        return Finding("Python and platform", "platform", "ok", text)
    why = "nothing was tried here but Linux" if sys.platform == "darwin" else "only Linux is known to work"
    return Finding("Python and platform", "platform", "note", text, why)


def _kernel_calls() -> list[Finding]:
    return [
        _tried("pidfd", _open_pidfd, "a rank's end is looked for five times a second instead of being told at once"),
        _tried("memfd", _open_memfd, "arguments travel through files in the log folder instead of memory"),
    ]


def _open_pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _open_memfd() -> None:
    os.close(os.memfd_create("ipyelastic-doctor", os.MFD_CLOEXEC))


def _tried(name: str, call: Callable[[], None], without: str) -> Finding:
    try:
        call()
    except (AttributeError, OSError) as error:
        return Finding("limits", name, "note", f"no {name} here ({error}): {without}", "nothing; it works without")
    return Finding("limits", name, "ok", f"{name} works")


def _shared_memory() -> Finding:
    try:
        found = os.statvfs("/dev/shm")
    except OSError as error:
        return Finding(
            "limits", "shm", "note", f"/dev/shm: {error.strerror}", "DataLoader workers of torch need it, we do not"
        )
    free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    text = f"/dev/shm: {size_words(free)} of {size_words(size)} free"
    if free < _LEAST_SHM // 4:
        return Finding("limits", "shm", "do", text, "remove what fills it, or make it larger (docker: --shm-size 1g)")
    if size <= _LEAST_SHM:
        return Finding("limits", "shm", "note", text, "DataLoader workers may need more (docker: --shm-size 1g)")
    return Finding("limits", "shm", "ok", text)


def _files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"open files: {_limit(soft)} (at most {_limit(hard)})"
    if soft != resource.RLIM_INFINITY and soft < _LEAST_FILES:
        return Finding("limits", "open files", "do", text, f"ulimit -n {min(max(hard, _LEAST_FILES), 4096)}")
    return Finding("limits", "open files", "ok", text)


def _limit(number: int) -> str:
    return "no limit" if number == resource.RLIM_INFINITY else str(number)


def _log_room() -> Finding:
    try:
        folder = retention.root_folder()
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        where = error.filename or "the temp folder"
        return Finding(
            "limits", "log folder", "do", f"no log files in {where}: {error.strerror}", "set TMPDIR, or give --log-dir"
        )
    text = f"log files in {folder}: {size_words(free)} free"
    if free < _LEAST_LOG_ROOM // 16:
        return Finding("limits", "log folder", "do", text, "make room there, or give --log-dir")
    if free < _LEAST_LOG_ROOM:
        return Finding("limits", "log folder", "note", text, "little for ranks that print much; see --log-dir")
    return Finding("limits", "log folder", "ok", text)
