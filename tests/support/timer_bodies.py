"""Workers of the timers' tests: each says where it is on stdout, and waits for its test on stdin."""

from __future__ import annotations

import sys
from typing import Any

from ipyelastic.timer.countdown import expires
from ipyelastic.timer.local import LocalTimerClient
from ipyelastic.timer.pipe_client import FileTimerClient
from support.gates import wait_at

__all__ = ["hang_in_a_block", "finish_a_block"]


def hang_in_a_block(queue: Any, gate: str, after: float) -> None:
    """Never leaves its block by itself."""
    with expires(after, "hangs", LocalTimerClient(queue)):
        wait_at(gate)


def finish_a_block(queue: Any, gate: str, after: float) -> None:
    """Leaves its block, and waits outside."""
    with expires(after, "finishes", LocalTimerClient(queue)):
        pass
    wait_at(gate)


def main(path: str, body: str, after: float, signum: int) -> None:
    """A worker over the named pipe."""
    client = FileTimerClient(path, signum)
    if body == "hang":
        with expires(after, "hangs", client):
            print("in the block", flush=True)
            sys.stdin.read()
    else:
        with expires(after, "finishes", client):
            pass
        print("after the block", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
