"""Make forks of a large process cheap: its memory in huge pages, so that a fork copies hundreds of entries, not 40,000.

Measured with torch loaded (148 MB of anonymous memory): a fork takes 8.2 ms before and 1.2 ms after, a rank's life from
fork to reaped 21 and 7.5 ms.

Runs in: fork server, between two polls, while it has nothing to do.
Source: madvise(2), MADV_COLLAPSE, Linux 6.1; elsewhere, and where huge pages are refused, nothing changes.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator

from ..process.orphans import libc

__all__ = ["collapsing"]

_HUGE = 2 << 20
_MADV_COLLAPSE = 25
_ROW = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \d+ *(.*)")


def collapsing() -> Iterator[None]:
    """Collapse this process's private writable memory, one huge page per step (milliseconds each)."""
    madvise = libc().madvise
    for start, end in _writable_ranges():
        for address in range(-(-start // _HUGE) * _HUGE, end // _HUGE * _HUGE, _HUGE):
            madvise(ctypes.c_void_p(address), ctypes.c_size_t(_HUGE), ctypes.c_int(_MADV_COLLAPSE))
            yield


def _writable_ranges() -> list[tuple[int, int]]:
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            rows = [_ROW.match(line.rstrip("\n")) for line in file]
    except OSError:
        return []
    return [
        (int(row[1], 16), int(row[2], 16))
        for row in rows
        if row and row[3].startswith("rw") and row[3].endswith("p") and row[4] in ("", "[heap]")
    ]
