"""A gate that any number of processes wait at until the test opens it: a named pipe that nobody writes to."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["Gate", "wait_at"]


def wait_at(path: str) -> None:
    """Block, in any process, until the gate at `path` is opened."""
    with open(path, "rb"):
        pass


class Gate:
    """The test's end. `close` opens it too, so that nobody is left waiting."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)
        self._fd = -1

    def open(self) -> None:
        """Let everybody through who waits or will come."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR)  # both ways: neither end of a pipe blocks then

    def close(self) -> None:
        """Open it, and give it back."""
        self.open()
        os.close(self._fd)
        self._fd = -1

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
