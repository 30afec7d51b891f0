"""The pictures that a run's ranks saved beside their log files (payload/display.py): found, and read.

    log folder -> [here] -> notebook/panel_pictures, while it runs; static_forms, for the page that stays

Runs in: owner. Nothing here raises OSError: a picture that is gone, or not there yet, is none.
"""

from __future__ import annotations

import os
import re

__all__ = ["MOST_BYTES", "is_whole_png", "picture_paths", "pictures_of", "read_picture"]

MOST_BYTES = 1 << 20
"""Of one picture; a larger one is only named."""

_NAME = re.compile(r"(?:figure|image)_(\d+)\.png")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\0\0\0\0IEND\xaeB`\x82"


def pictures_of(log_dir: str) -> dict[int, list[tuple[str, bytes]]]:
    """`{rank: [(path, PNG)]}` of the last attempt, in the order in which they were saved."""
    return {
        rank: [(path, read_picture(path)) for path in paths] for rank, paths in picture_paths(log_dir).items() if paths
    }


def picture_paths(log_dir: str) -> dict[int, list[str]]:
    """`{rank: [path]}` of the last attempt, in the order in which they were saved."""
    attempts = sorted(_entries(log_dir, r"attempt_(\d+)"))
    if not attempts:
        return {}
    return {
        rank: [path for _, path in sorted(_entries(folder, _NAME.pattern), key=_saved_at)]
        for rank, folder in _entries(attempts[-1][1], r"(\d+)")
    }


def read_picture(path: str) -> bytes:
    """A file's content; of one that is too large a byte more than `MOST_BYTES`; empty when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(MOST_BYTES + 1)
    except OSError:
        return b""


def is_whole_png(data: bytes) -> bool:
    """Whether this is a PNG with its end: not one that is being written."""
    return data.startswith(_SIGNATURE) and data.endswith(_END)


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
