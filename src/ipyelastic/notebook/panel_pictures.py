"""Pictures that ranks save while they run, on their way to the page: the newest few of each rank.

    engines/pictures -> [here], once a second -> panel.py -> comm -> src/frontend/pictures.js

Runs in: owner, the panel's writing thread.
"""

from __future__ import annotations

import os

from ..engines.pictures import MOST_BYTES, is_whole_png, picture_paths, read_picture
from .panel_messages import PictureRow

__all__ = ["MOST_OF_A_RANK", "PictureFeed"]

MOST_OF_A_RANK = 8
_PERIOD_S = 1.0
_MOST_AT_ONCE = 8 << 20  # bytes of one message; the rest comes with the next


class PictureFeed:
    """What was sent of one run's pictures; files are read again for a view that comes later."""

    def __init__(self) -> None:
        self._sent: set[str] = set()
        self._looked_at = float("-inf")
        self._is_over = False

    def take_new(self, log_dir: str, now: float, *, is_over: bool) -> tuple[list[PictureRow], list[bytes]]:
        """Pictures that were not sent, and their bytes: none for one that is too large or is no PNG.

        Args:
            log_dir: The run's; empty before its start.
            now: `time.monotonic()`; looks at the folder once a second.
            is_over: Whether the run has ended: what is not whole by now will not be.
        """
        if self._is_over or (not is_over and now - self._looked_at < _PERIOD_S):
            return [], []
        self._looked_at = now
        rows: list[PictureRow] = []
        data: list[bytes] = []
        for rank, paths in sorted(picture_paths(log_dir).items() if log_dir else ()):
            for path in paths[-MOST_OF_A_RANK:]:
                if path in self._sent:
                    continue
                if sum(map(len, data)) > _MOST_AT_ONCE:
                    return rows, data
                png = read_picture(path)
                is_whole = is_whole_png(png) and len(png) <= MOST_BYTES
                if not is_whole and not is_over and len(png) <= MOST_BYTES:
                    continue  # it is being written
                self._sent.add(path)
                rows.append((rank, os.path.relpath(path, log_dir), len(paths)))
                data.append(png if is_whole else b"")
        self._is_over = is_over
        return rows, data

    def forget(self) -> None:
        """Send all again: a view came that has none."""
        self._sent.clear()
        self._looked_at, self._is_over = float("-inf"), False
