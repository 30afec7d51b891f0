"""The pictures that a run's ranks saved beside their log files (payload/display.py): read for the page that stays.

Runs in: owner.
"""

from __future__ import annotations

import os
import re

__all__ = ["pictures_of"]

_MOST_BYTES = 1 << 20  # of one picture; a larger one is only named by the page
_NAME = re.compile(r"(?:figure|image)_(\d+)\.png")


def pictures_of(log_dir: str) -> dict[int, list[tuple[str, bytes]]]:
    """`{rank: [(path, PNG)]}` of the last attempt, in the order in which they were saved. Never raises OSError."""
    attempts = sorted(_entries(log_dir, r"attempt_(\d+)"))
    if not attempts:
        return {}
    found = {}
    for rank, folder in _entries(attempts[-1][1], r"(\d+)"):
        pictures = [(path, _read(path)) for _, path in sorted(_entries(folder, _NAME.pattern), key=_saved_at)]
        if pictures:
            found[rank] = pictures
    return found


def _entries(folder: str, pattern: str) -> list[tuple[int, str]]:
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    matches = ((re.fullmatch(pattern, name), name) for name in names)
    return [(int(match[1]), os.path.join(folder, name)) for match, name in matches if match]


def _saved_at(entry: tuple[int, str]) -> tuple[int, int]:
    try:
        return os.stat(entry[1]).st_mtime_ns, entry[0]
    except OSError:
        return 0, entry[0]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MOST_BYTES + 1)
    except OSError:
        return b""
